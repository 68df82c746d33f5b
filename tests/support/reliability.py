"""The table of faults: what was tried, against which server, through which library, and how it ended.

A test says what it tries with ``@pytest.mark.fault("what")``; the server and the library are read from the
parameters ``server`` and ``lib`` (or ``road``: "what is wrong with it: server"). What the ``ended`` fixture was
given is the outcome's detail; a test that tries several things at once gives it the library, and what it
tried, too. The table is printed after the run, and ``--write-reliability`` puts it into ``docs/reliability.md``.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"

_FAULT = "fault"
_ENDED = "ended"


class Row(NamedTuple):
    """One line of the table."""

    fault: str
    server: str
    library: str
    outcome: str
    detail: str

    @property
    def text(self) -> str:
        return f"{self.outcome}: {self.detail}" if self.detail else self.outcome


class ReliabilityTable:
    """Collects the rows; a pytest plugin. Rows travel as user properties of the reports, so xdist works."""

    def __init__(self, config: pytest.Config) -> None:
        self._write = bool(config.getoption("--write-reliability"))
        self._rows: dict[str, list[Row]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        mark = item.get_closest_marker("fault")
        if mark is not None and call.when == "call":
            params = dict(getattr(getattr(item, "callspec", None), "params", {}))
            road, _, behind = str(params.pop("road", "")).partition(": ")
            server = mark.kwargs.get("server", params.get("server", behind or "embedded"))
            library = mark.kwargs.get("library", params.get("lib", "socket"))
            fault = mark.args[0].format(road=road, **params)
            report.user_properties.append((_FAULT, f"{fault}\0{server}\0{library}"))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown" and report.failed and report.nodeid in self._rows:
            self._rows[report.nodeid] = [
                row._replace(outcome="FAILED", detail="leftovers") for row in self._rows[report.nodeid]
            ]
        faults = [str(value).split("\0") for name, value in report.user_properties if name == _FAULT]
        if report.when != "call" or not faults:
            return
        fault, server, library = faults[0]
        outcome = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}[report.outcome]
        endings = [str(value).split("\0") for name, value in report.user_properties if name == _ENDED]
        if hasattr(report, "wasxfail"):
            outcome = "known bug"
            endings = [[report.wasxfail, "", ""]]
        self._rows[report.nodeid] = [
            Row(other_fault or fault, server, other_library or library, outcome, detail)
            for detail, other_library, other_fault in endings or [["", "", ""]]
        ]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._rows:
            return
        # Where several processes ran the tests, the files' results come mixed.
        rows = [row for _, rows in sorted(self._rows.items(), key=_file) for row in rows]
        terminalreporter.section("faults: what was tried, and how it ended")
        for line in table(rows):
            terminalreporter.write_line(line)
        if self._write:
            DOCUMENT.write_text(document(rows))
            terminalreporter.write_line(f"written to {DOCUMENT}")


def document(rows: list[Row]) -> str:
    """Return the page."""
    lines = [
        "# Reliability",
        "",
        "What `tests/faults` breaks on purpose, against the embedded test server and the real sing-box, and how",
        f"it ended ({time.strftime('%Y-%m-%d')}, CPython {sys.version.split()[0]}, {sys.platform}).",
        "Made by `python -m pytest tests/faults --write-reliability`.",
        "",
        *table(rows),
    ]
    soak = DOCUMENT.with_name("soak.svg")
    if soak.exists():
        lines += [
            "",
            "The soak run (`tests/soak/soak.py`):",
            "",
            "![memory, threads and descriptors](soak.svg)",
        ]
    return "\n".join(lines) + "\n"


def table(rows: list[Row]) -> list[str]:
    """Return the lines of the table: one for each fault and server, the libraries side by side."""
    lines = [
        "| what was tried | server | through | how it ended |",
        "| --- | --- | --- | --- |",
    ]
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row.fault, row.server), []).append(row)
    for (fault, server), group in grouped.items():
        libraries = ", ".join(dict.fromkeys(row.library for row in group))
        slowest: dict[str, str] = {}  # of endings that differ in their times only
        for row in group:
            alike = re.sub(r"\d+\.\d+", "", row.text)
            slowest[alike] = max(slowest.get(alike, ""), row.text)
        endings = "; ".join(slowest.values()).replace("|", "\\|")
        lines.append(f"| {fault} | {server} | {libraries} | {endings} |")
    return lines


def _file(item: tuple[str, list[Row]]) -> str:
    return item[0].partition("::")[0]


class Ended(Protocol):
    """Say how the fault ended, in a few words; and what it was and through what, where the mark doesn't tell."""

    def __call__(self, text: str, library: str = "", fault: str = "") -> None: ...


@pytest.fixture
def ended(record_property: Callable[[str, object], None]) -> Ended:
    """Return what takes the outcome, for the table."""

    def record(text: str, library: str = "", fault: str = "") -> None:
        record_property(_ENDED, f"{text}\0{library}\0{fault}")

    return record
