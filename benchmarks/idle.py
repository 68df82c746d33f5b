"""What warm sessions cost: ``python benchmarks/idle.py [--sessions 1000] [--seconds 22]``.

Against the real sing-box server, with heartbeats every 11 s. Prints one line of JSON: resident memory a
session (KiB), threads beside the main one, CPU share of a core while idle, and the import's time (ms).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def resident_kib() -> int:
    """Return this process's resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS")


def cpu_seconds() -> float:
    """Return the CPU time used so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def import_ms() -> float:
    """Return how much longer a Python takes that imports the package; the median of 9, interleaved."""
    times: dict[str, list[float]] = {"pass": [], "import anytls_http": []}
    # As an installed package is imported: from bytecode.
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(10):
            for code, seconds in times.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], check=True, env=env)
                seconds.append(time.perf_counter() - start)
    plain, ours = (sorted(seconds[1:])[4] for seconds in times.values())
    return (ours - plain) * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=22)
    options = parser.parse_args()
    from singbox import SingBox

    import anytls_http

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, options.sessions + 256)), hard))
    singbox = SingBox()
    try:
        outbound = {**singbox.outbound, "ensure_idle_session": options.sessions, "heartbeat": "11s"}
        with anytls_http.AnyTLSClient({**outbound, "ensure_idle_session": 1}) as first:
            first.wait_ready(1, timeout=10)  # what the first session loads is no cost of the others
        before = resident_kib()
        with anytls_http.AnyTLSClient(outbound) as client:
            start = time.perf_counter()
            client.wait_ready(options.sessions, timeout=120)
            filled = time.perf_counter() - start
            time.sleep(0.5)
            memory = resident_kib() - before
            threads = threading.active_count() - 1
            cpu, start = cpu_seconds(), time.perf_counter()
            time.sleep(options.seconds)
            share = (cpu_seconds() - cpu) / (time.perf_counter() - start)
            alive = client.stats().idle
    finally:
        singbox.close()
    print(
        json.dumps(
            {
                "sessions": options.sessions,
                "filled_in_s": round(filled, 2),
                "alive_at_the_end": alive,
                "kib_a_session": round(memory / options.sessions, 1),
                "background_threads": threads,
                "idle_cpu_percent": round(share * 100, 2),
                "import_ms": round(import_ms(), 1),
            }
        )
    )


if __name__ == "__main__":
    main()
