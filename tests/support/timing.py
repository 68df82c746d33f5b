"""Waiting in tests, and asserting how long something took.

An upper bound tells a kept deadline from a missed one. On a machine that has other things to do it can only tell
it from a hang: CI (``.ci/run`` says so in its environment) allows for that, so that it blames the code alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

#: What a starved machine may add to anything (seconds).
STARVED = 5.0 if os.environ.get("CI") else 0.0
#: How much later than its deadline something may come (seconds): 0.1 on a quiet machine.
LATE = 0.5 + STARVED
#: How long to wait for what is sure to come (seconds).
PATIENCE = 5.0 + 3 * STARVED


@contextlib.contextmanager
def takes(least: float, most: float | None = None) -> Iterator[None]:
    """Assert that the block takes ``least`` to ``most`` seconds, which may be starved; by default ``LATE`` more."""
    begin = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - begin
        limit = least + LATE if most is None else most + STARVED
        assert least - 0.01 <= took <= limit, f"took {took:.3f} s instead of {least:g} to {limit:g} s"


@contextlib.contextmanager
def uses_cpu(most: float) -> Iterator[None]:
    """Assert that this thread works for ``most`` seconds at the most in the block, however busy the machine is."""
    begin = time.thread_time()
    try:
        yield
    finally:
        used = time.thread_time() - begin
        assert used <= most, f"used {used:.3f} s of CPU instead of up to {most:g} s"


def wait_until(predicate: Callable[[], bool], timeout: float | None = None, what: str = "") -> None:
    """Poll ``predicate`` every 5 ms; raises :class:`TimeoutError` after ``timeout`` seconds (``PATIENCE``)."""
    timeout = PATIENCE if timeout is None else timeout + STARVED
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what or predicate}")
        time.sleep(0.005)
