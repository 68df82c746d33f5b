"""A variant of the benchmark in a process of its own, as its users have it.

In one process each variant would run in what the others left: their heap, their threads, and what
``anytls_http`` lets malloc keep, which makes the others' downloads faster too.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

from origin import Origin
from singbox import SingBox
from variants import Variants, timed
from workloads import rows


class Worker:
    """Does the work of the rows for the variant ``name`` when it is told to; end it with :meth:`close`."""

    def __init__(self, name: str, origin: Origin, singbox: SingBox) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, name, origin, singbox), daemon=True)
        self._process.start()
        theirs.close()

    def measure(self, row: str, scale: float) -> tuple[float, float]:
        """Do the row's work once; return its rate (units per second) and its CPU seconds per unit."""
        self._pipe.send((row, scale))
        rate, cpu = self._pipe.recv()  # EOFError: the process has ended; it has said why
        return rate, cpu

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, name: str, origin: Origin, singbox: SingBox) -> None:
    by_name = {workload.name: workload for workload in rows()}
    variants = Variants(origin, singbox)
    try:
        while True:
            row, scale = pipe.recv()
            with by_name[row].work(variants, name, scale) as (work, size):
                seconds, cpu = timed(variants, name, work)
            pipe.send((size / seconds, cpu / size))
    except EOFError:
        pass
    finally:
        variants.close()
