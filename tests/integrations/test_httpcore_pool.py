"""The pool under the httpx transport: what httpcore 1.0's does to a connection in use, it must not do here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpcore
import httpx
import pytest

from anytls_http import AnyTLSTransport
from anytls_http.integrations._httpcore_pool import TunnelConnection, TunnelPool
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING, body_bytes
from tests.support.timing import wait_until


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def transport() -> Iterator[AnyTLSTransport]:
    with AnyTLSServer() as server, AnyTLSTransport(server.outbound()) as transport:
        yield transport


@pytest.fixture
def http(transport: AnyTLSTransport) -> httpx.Client:
    return httpx.Client(transport=transport, timeout=5)


def only_connection(transport: AnyTLSTransport) -> TunnelConnection:
    [connection] = transport._pool.connections
    assert isinstance(connection, TunnelConnection)
    return connection


def test_a_connection_closed_under_a_request_ends_after_it(
    transport: AnyTLSTransport, http: httpx.Client, site: Site
) -> None:
    with http.stream("GET", f"{site.url}/bytes/3000000") as response:
        connection = only_connection(transport)
        connection.close()  # as the pool would that had found it idle a moment before
        pages = response.iter_bytes()
        first = next(pages)
        assert not connection.is_closed()
        assert transport.client.stats().active == 1
        assert first + b"".join(pages) == body_bytes(3_000_000)
    assert connection.is_closed()
    assert transport.client.stats().active == 0
    assert http.get(site.url).content == GREETING
    assert site.connections == 2


def test_a_request_that_comes_after_the_closing_takes_another_connection(
    transport: AnyTLSTransport, http: httpx.Client, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.get(site.url)
    connection = only_connection(transport)
    begin = connection.handle_request

    def begin_late(request: httpcore.Request) -> httpcore.Response:
        connection.close()
        return begin(request)

    monkeypatch.setattr(connection, "handle_request", begin_late)
    assert http.post(f"{site.url}/echo-hash", content=b"once").status_code == 200
    assert connection.is_closed()
    assert [method for method, _ in site.log] == ["GET", "POST"]
    assert site.connections == 2


def test_a_request_that_fails_counts_as_ended(
    transport: AnyTLSTransport, http: httpx.Client, site: Site
) -> None:
    failed = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"1"
        connection = only_connection(transport)
        connection.close()
        assert not connection.is_closed()
        failed.set()
        raise RuntimeError("the user's")

    with pytest.raises(RuntimeError, match="the user's"):
        http.post(f"{site.url}/echo-hash", content=body())
    assert failed.is_set()
    assert transport._pool.connections == []
    wait_until(lambda: transport.client.stats().active == 0)


def test_closing_the_pool_ends_requests(transport: AnyTLSTransport, http: httpx.Client, site: Site) -> None:
    with http.stream("GET", f"{site.url}/bytes/30000000") as response:
        connection = only_connection(transport)
        transport._pool.close()
        assert connection.is_closed()
        with pytest.raises(httpx.ReadError):
            response.read()


@pytest.mark.parametrize(("limit", "kept"), [(0, 0), (3, 3), (6, 5), (None, 5)])
def test_idle_connections_are_kept_up_to_the_limit(site: Site, limit: int | None, kept: int) -> None:
    together = threading.Barrier(5)
    pool = TunnelPool(
        max_connections=None, max_keepalive_connections=limit
    )  # no tunnel: httpcore's own sockets

    def request(_: int) -> bytes:
        with pool.stream("GET", f"{site.url}/slow?seconds=0.05") as response:
            together.wait(10)
            return response.read()

    with pool, ThreadPoolExecutor(5) as threads:
        list(threads.map(request, range(5)))
        assert [connection.is_idle() for connection in pool.connections] == [True] * kept
        assert pool.request("GET", site.url).content == GREETING
    assert site.connections == 5 + (kept == 0)
