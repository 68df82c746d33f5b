"""Measure anytls_http against no proxy and against the sing-box client process, side by side, each in its process.

``python benchmarks/run.py [--quick] [--rounds N] [--only TEXT] [--json FILE] [--write]``. Rounds of the
variants are interleaved; the table has medians, and ratios of them. ``--write`` puts table and chart
into ``docs/``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from origin import Origin
from report import as_table, write_docs
from singbox import SingBox
from variants import NAMES
from worker import Worker
from workloads import LARGE, Workload, rows


def measure(workload: Workload, workers: dict[str, Worker], rounds: int, scale: float) -> dict[str, Any]:
    """Return the row's medians: ``rate`` (units per second) and ``cpu`` (seconds per unit) by variant."""
    rates: dict[str, list[float]] = {name: [] for name in workload.variants}
    cpus: dict[str, list[float]] = {name: [] for name in workload.variants}
    for number in range(rounds):
        # The order turns, so that no variant always follows the same other one.
        start = number % len(workload.variants)
        for name in workload.variants[start:] + workload.variants[:start]:
            rate, cpu = workers[name].measure(workload.name, scale)
            rates[name].append(rate)
            cpus[name].append(cpu)
    return {
        "name": workload.name,
        "unit": workload.unit,
        "group": workload.group,
        "rate": {name: statistics.median(values) for name, values in rates.items()},
        "cpu": {name: statistics.median(values) for name, values in cpus.items()},
    }


def main() -> None:
    """Run the rows that were asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="3 rounds of a tenth of the work: a look, not a measurement"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each row (default 5)")
    parser.add_argument("--scale", type=float, help="share of the work of a round (default 1)")
    parser.add_argument(
        "--only", default="", help="only rows whose name holds this text; several with a comma"
    )
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--write", action="store_true", help="write docs/benchmark.md and docs/benchmark.svg")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 5)
    scale = options.scale or (0.1 if options.quick else 1.0)
    wanted = options.only.split(",")

    origin = Origin(LARGE)
    singbox = SingBox()
    workers = {name: Worker(name, origin, singbox) for name in NAMES}
    results: list[dict[str, Any]] = []
    try:
        for workload in rows():
            if not any(text in workload.name for text in wanted):
                continue
            results.append(measure(workload, workers, rounds, scale))
            print(as_table(results[-1:], header=len(results) == 1), flush=True)
    finally:
        for worker in workers.values():
            worker.close()
        singbox.close()
        origin.close()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.write:
        write_docs(results, rounds, "nginx" if origin.nginx else "a threaded Python origin")


if __name__ == "__main__":
    main()
