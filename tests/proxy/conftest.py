"""A proxy over the embedded test server, two sites behind it, and a raw client."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from anytls_http.proxy import LocalProxy
from anytls_http.testing import AnyTLSServer, Site
from tests.sockets.conftest import server, target
from tests.sockets.targets import read_exactly

__all__ = ["server", "target"]

USER, PASSWORD = "mary ann", "p@ss:w/rd%"


@pytest.fixture
def site(server: AnyTLSServer) -> Iterator[Site]:
    with Site() as running:
        # A name that only the server knows: what arrives has come through the tunnel.
        server.routes["plain.test", 80] = (running.host, running.port)
        server.routes["other.test", 8080] = (running.host, running.port)
        yield running


@pytest.fixture
def secure(server: AnyTLSServer) -> Iterator[Site]:
    with Site(tls=True, names=["secure.test"]) as running:
        server.routes["secure.test", 443] = (running.host, running.port)
        yield running


@pytest.fixture
def proxy(server: AnyTLSServer) -> Iterator[LocalProxy]:
    with LocalProxy(server.outbound()) as running:
        yield running


@pytest.fixture
def guarded(server: AnyTLSServer) -> Iterator[LocalProxy]:
    """With user name and password."""
    with LocalProxy(server.outbound(), username=USER, password=PASSWORD) as running:
        yield running


def connect(proxy: LocalProxy) -> socket.socket:
    """Return a connection to the proxy."""
    return socket.create_connection(("127.0.0.1", proxy.port), 8)


def read_head(sock: socket.socket) -> tuple[bytes, dict[bytes, bytes]]:
    """Read one HTTP head; return its first line and its fields, names in lower case."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        if not piece:
            break
        data += piece
    first, *lines = data.rstrip().split(b"\r\n")
    fields = [line.partition(b":") for line in lines]
    return first, {name.lower(): value.strip() for name, _, value in fields}


def read_answer(sock: socket.socket) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Read one answer with a Content-Length, or up to the end."""
    first, fields = read_head(sock)
    if b"content-length" in fields:
        return first, fields, read_exactly(sock, int(fields[b"content-length"]))
    body = b""
    while piece := sock.recv(65536):
        body += piece
    return first, fields, body


def socks5_request(host: str, port: int, command: int = 1) -> bytes:
    """A SOCKS5 request for a name."""
    return bytes((5, command, 0, 3, len(host))) + host.encode() + port.to_bytes(2, "big")
