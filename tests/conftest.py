"""Fixtures and settings for every test."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.leftovers import Snapshot, describe, leftovers
from tests.support.reliability import ReliabilityTable, ended
from tests.support.secrets_guard import SecretsGuard

__all__ = ["ended"]

# Examples are not timed: a busy machine would fail them. CI tries the same examples each time, so that
# a change is not blamed for what an unlucky draw has found; elsewhere new ones are tried.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
# All is logged in tests, but for the steps of httpcore and urllib3: who wants to see those gets no short cuts
# (_http1.py, _urllib3_pool.py).
for _name in ("httpcore", "httpcore2", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.INFO)

_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-reliability", action="store_true", help="write docs/reliability.md from the tests of faults"
    )
    parser.addoption("--soak", action="store_true", help="run the tests that are marked soak, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(what): a line of docs/reliability.md; {param} is filled in")
    config.addinivalue_line("markers", "soak: takes long; run with --soak only")
    config.addinivalue_line("markers", "prints_passwords: the test itself logs or prints one, on purpose")
    config.pluginmanager.register(ReliabilityTable(config), "reliability-table")
    config.pluginmanager.register(SecretsGuard(), "secrets-guard")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for."""
    if config.getoption("--soak"):
        return
    long = [item for item in items if item.get_closest_marker("soak")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a socket, a pipe or a child process.

    Fixtures of a wider scope are set up before this one, so that what they hold doesn't count. A test
    that has failed is let off: its traceback keeps alive what it had in its hands.
    """
    before = Snapshot.take()
    yield
    if request.node.stash.get(_FAILED, False):
        return
    left = leftovers(before)
    if left:
        pytest.fail(f"left behind by {request.node.nodeid}:\n{describe(left)}", pytrace=False)
