"""A download that is left in mid-body must not hold up the next request on its session.

The link is slow (a relay with a rate), so that much of the body sits in buffers on the way, and none of it here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from anytls_http import AnyTLSClient
from anytls_http.pool import rules
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING
from tests.faults.libraries import Httpx, Way
from tests.faults.servers import Server
from tests.sockets.targets import Target, get, read_exactly
from tests.support.relay import Relay
from tests.support.reliability import Ended
from tests.support.timing import STARVED, wait_until

#: Bytes per second of the link: what the buffers hold takes ten seconds.
RATE = 500_000


@pytest.fixture
def link(server: Server) -> Iterator[Relay]:
    with Relay(("127.0.0.1", server.port), delay=0.005) as relay:
        yield relay


@pytest.mark.parametrize("amount", [50, 3_000, 200_000])
@pytest.mark.fault("slow link: a download left after {amount} bytes, then a request")
def test_on_a_slow_link(link: Relay, server: Server, site: Site, amount: int, ended: Ended) -> None:
    address = ("127.0.0.1", site.port)
    with AnyTLSClient(link.outbound(server.outbound())) as client:
        with client.create_connection(address, timeout=10) as sock:
            assert get(sock).endswith(GREETING)
        link.rate = RATE
        sock = client.create_connection(address, timeout=10)
        get(sock, "/bytes/10000000", close=False)
        assert len(read_exactly(sock, amount)) == amount
        begin = time.monotonic()
        sock.close()
        closing = time.monotonic() - begin
        with client.create_connection(address, timeout=10) as sock:
            assert get(sock).endswith(GREETING)
        took = time.monotonic() - begin
        assert closing < 0.2
        assert took < 1.0 + STARVED
        link.rate = None
        # The session is used again once all has come, or was dropped.
        wait_until(lambda: client.stats().active == 0, rules.DRAIN_TIME + 1)
        ended(f"the next request takes {took:.2f} s")


@pytest.mark.parametrize("lib", ["httpx", "httpx2"], indirect=True)
@pytest.mark.fault("slow link: a streamed response closed in mid-body, then a request")
def test_http(link: Relay, server: Server, site: Site, lib: Way, ended: Ended) -> None:
    assert isinstance(lib, Httpx)
    with AnyTLSClient(link.outbound(server.outbound())) as client, lib.open(client, timeout=10) as http:
        assert http.get(f"{site.url}/") == GREETING
        link.rate = RATE
        inner: Any = http._http
        with inner.stream("GET", f"{site.url}/bytes/10000000") as response:
            next(response.iter_raw())
        begin = time.monotonic()
        assert http.get(f"{site.url}/") == GREETING
        took = time.monotonic() - begin
        assert took < 1.0 + STARVED
        ended(f"the next request takes {took:.2f} s")


def test_what_has_all_come_costs_nothing(site: Site) -> None:
    """On a fast link the rest is here already: the session goes back as the stream is closed."""
    address = ("127.0.0.1", site.port)
    with AnyTLSServer() as server, AnyTLSClient(server.outbound()) as client:
        for _ in range(5):
            with client.create_connection(address, timeout=5) as sock:
                get(sock, "/bytes/20000", close=False)
                assert sock.recv(10) == b"HTTP/1.1 2"
                time.sleep(0.02)
            assert client.stats().idle == 1
        assert server.sessions_accepted == 1


def test_a_finished_answer_pays_nothing() -> None:
    """A kept-alive connection that is closed after its answer asks the server nothing."""
    with AnyTLSServer() as server, AnyTLSClient(server.outbound()) as client, Target() as target:
        for _ in range(5):
            with client.create_connection(target.address, timeout=5) as sock:
                sock.sendall(b"ping")
                target.accept().sendall(b"x" * 40_000)
                assert len(read_exactly(sock, 40_000)) == 40_000
            assert client.stats().idle == 1
        assert server.heartbeats_received == 0
        assert server.sessions_accepted == 1


def test_a_stream_left_before_its_target_answers(server: Server, ended: Ended) -> None:
    """sing-box takes nothing more until its dial has ended; the session must not be given to the next stream."""
    with AnyTLSClient(server.outbound()) as client, Target() as target:
        with client.create_connection(target.address, timeout=5) as sock:
            sock.sendall(b"x")
            far = target.accept()
            far.sendall(b"y")
            assert read_exactly(sock, 1) == b"y"
        for _ in range(3):
            with client.create_connection(target.address, timeout=5) as sock:
                sock.sendall(b"never read")
        with client.create_connection(target.address, timeout=5) as sock:
            sock.sendall(b"x")
            while (far := target.accept()).recv(10) != b"x":
                pass
            far.sendall(b"y")
            assert read_exactly(sock, 1) == b"y"
