"""Load while the server dies again and again: every request ends in time, and nothing is left over.

``--soak`` has 32 threads and 20 deaths.
"""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections import Counter
from typing import Self

import pytest

from anytls_http import AnyTLSClient
from anytls_http.testing import Site
from anytls_http.testing.site import GREETING
from tests.faults.libraries import NAMES, Way, way_of
from tests.faults.servers import Server
from tests.leftovers import Snapshot, describe, leftovers
from tests.support.reliability import Ended
from tests.support.timing import LATE, STARVED, wait_until

#: The user's time-out (seconds), for connecting and for each read; a request has two of them, and the pool's.
TIMEOUT = 3.0


class Load:
    """Threads that send requests without a pause until told to stop."""

    def __init__(self, client: AnyTLSClient, site: Site, threads: int) -> None:
        self._client = client
        self._site = site
        self._stop = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.surprises: list[BaseException] = []
        self.slowest = 0.0
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"load-{number}")
            for number in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a request hangs"

    def _run(self, number: int) -> None:
        way = way_of(NAMES[number % len(NAMES)])
        with way.open(self._client, TIMEOUT) as http:
            while not self._stop.is_set():
                self._request(way, http, number)

    def _request(self, way: Way, http: object, number: int) -> None:
        begin = time.monotonic()
        try:
            if number % 3 == 0:
                size = 300_000
                assert len(http.get(f"{self._site.url}/bytes/{size}")) == size  # type: ignore[attr-defined]
            elif number % 3 == 1:
                http.post(f"{self._site.url}/echo-hash", b"x" * 50_000)  # type: ignore[attr-defined]
            else:
                assert http.get(f"{self._site.url}/") == GREETING  # type: ignore[attr-defined]
            self.outcomes["ok"] += 1
        except way.errors as exc:
            self.outcomes[type(exc).__name__] += 1
            time.sleep(0.01)  # a server that is gone refuses at once
        except BaseException as exc:
            self.surprises.append(exc.with_traceback(None))
        self.slowest = max(self.slowest, time.monotonic() - begin)


def resident() -> int:
    """Return the memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(240)
@pytest.mark.fault("load of many threads, the server killed and started again and again", library="all four")
def test_load_with_a_server_that_dies(server: Server, site: Site, in_earnest: bool, ended: Ended) -> None:
    threads, deaths = (32, 20) if in_earnest else (16, 4)
    rng = random.Random(4)
    before = Snapshot.take()
    with AnyTLSClient(server.outbound(ensure_idle_session=4, heartbeat="500ms")) as client:
        client.wait_ready(4, 5)
        with Load(client, site, threads) as load:
            for _ in range(deaths):
                time.sleep(rng.uniform(0.2, 0.8))
                server.kill()
                time.sleep(rng.uniform(0.0, 0.4))
                server.start()
            time.sleep(0.3)
        assert load.surprises == []
        assert load.outcomes["ok"] > 5 * deaths
        assert load.slowest <= 2 * TIMEOUT + 2 * LATE
        begin = time.monotonic()
        with way_of("socket").open(client, 5) as http:
            assert http.get(f"{site.url}/") == GREETING
        assert time.monotonic() - begin <= 1.0 + STARVED
        stats = client.stats()
        errors = sum(load.outcomes.values()) - load.outcomes["ok"]
        # Nobody uses them any more: what is alive is idle.
        wait_until(lambda: client.stats().active == 0, 2)
    kinds = ", ".join(sorted(name for name in load.outcomes if name != "ok"))
    site.close_connections()
    server.kill()
    left = leftovers(before)
    left = type(
        left
    )(  # the server's own listener and the site's are older, or newer when it was started again
        frozenset(t for t in left.threads if not t.name.startswith("anytls-test")),
        frozenset(),
        left.children - before.children,
    )
    assert not left, describe(left)
    gc.collect()
    ended(
        f"{load.outcomes['ok']} requests succeeded, {errors} failed with mapped errors ({kinds}), the slowest took"
        f" {load.slowest:.1f} s, {stats.closed['peer']} sessions lost"
    )


@pytest.mark.fault("server killed under 20 warm sessions, then started again")
def test_the_pool_recovers(server: Server, site: Site, ended: Ended) -> None:
    with AnyTLSClient(server.outbound(ensure_idle_session=20)) as client:
        client.wait_ready(20, 10)
        server.kill()
        wait_until(lambda: client.stats().idle == 0, 2)
        server.start()
        begin = time.monotonic()
        with way_of("socket").open(client, 5) as http:
            assert http.get(f"{site.url}/") == GREETING
        first = time.monotonic() - begin
        assert first <= 1.0
        client.wait_ready(20, 10)
        ended(
            f"a request succeeds {first:.1f} s after, the pool is full {time.monotonic() - begin:.1f} s after"
        )
