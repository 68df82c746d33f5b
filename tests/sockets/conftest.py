"""An embedded AnyTLS server and what it leads to, for the tests of the client and its sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anytls_http import AnyTLSClient
from anytls_http.testing import AnyTLSServer, Site
from tests.sockets.targets import Target


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as running:
        yield running


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as running:
        yield running


@pytest.fixture
def client(server: AnyTLSServer) -> Iterator[AnyTLSClient]:
    with AnyTLSClient(server.outbound()) as running:
        yield running
