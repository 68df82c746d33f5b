"""The module's own ``create_connection``, for libraries that take a connection factory."""

from __future__ import annotations

import functools
import http.client
import threading

import pytest

import anytls_http
from anytls_http import AnyTLSClient, StreamRefused
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING


def test_with_a_client_it_uses_its_pool() -> None:
    with AnyTLSServer() as server, Site() as site, AnyTLSClient(server.outbound()) as client:
        connect = functools.partial(anytls_http.create_connection, tunnel=client)
        for _ in range(2):
            connection = http.client.HTTPConnection(site.host, site.port, timeout=5)
            connection._create_connection = connect  # type: ignore[attr-defined]
            connection.request("GET", "/", headers={"Connection": "close"})
            assert connection.getresponse().read() == GREETING
            connection.close()
        assert server.sessions_accepted == 1
        assert client.stats().total == 1


def test_with_a_configuration_its_client_ends_with_the_connection() -> None:
    before = threading.active_count()
    with AnyTLSServer() as server, Site() as site:
        with anytls_http.create_connection((site.host, site.port), 5, tunnel=server.outbound()) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert sock.makefile("rb").read().endswith(GREETING)
        server.wait_for(lambda: not server.live_sessions)
    assert threading.active_count() == before


def test_a_failure_leaves_nothing() -> None:
    with AnyTLSServer() as server:
        server.faults.refuse = lambda host, port: "not today"
        with pytest.raises(StreamRefused, match="not today"):
            anytls_http.create_connection(("example.org", 80), 5, tunnel=server.outbound(), wait_open=True)
        server.wait_for(lambda: not server.live_sessions)
