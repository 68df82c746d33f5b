"""Servers, libraries and a bad network for the faults; see ``servers.py`` and ``libraries.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anytls_http.pool import rules
from anytls_http.testing import Site
from tests.faults.libraries import NAMES, Way, way_of
from tests.faults.servers import KINDS, Server, server_of


@pytest.fixture(params=list(KINDS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server_of(request.param) as running:
        yield running


@pytest.fixture(params=NAMES)
def lib(request: pytest.FixtureRequest) -> Way:
    if request.param != "socket":
        pytest.importorskip(request.param)
    return way_of(request.param)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture
def in_earnest(request: pytest.FixtureRequest) -> bool:
    """Whether every wait is the real one (``--soak``)."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, in_earnest: bool) -> None:
    """Make the pool's patience short, for a suite that runs often."""
    if not in_earnest:
        monkeypatch.setattr(rules, "SILENT_AFTER", 0.2)
        monkeypatch.setattr(rules, "SHORTEST_PROOF", 0.3)
        monkeypatch.setattr(rules, "HEARTBEAT_TIMEOUT", 1.0)
