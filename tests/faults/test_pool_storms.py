"""The pool must not become a storm: not for the server, and not for its own users."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any, Self

import pytest

from anytls_http import AnyTLSClient, AnyTLSError
from anytls_http.pool.events import EVENT_NAMES, Event
from anytls_http.testing import Site
from anytls_http.testing.site import GREETING
from tests.faults.libraries import way_of
from tests.faults.servers import Embedded, Server
from tests.sockets.targets import Background
from tests.support.relay import Relay
from tests.support.reliability import Ended
from tests.support.singbox import free_port
from tests.support.timing import STARVED, wait_until


class Counting:
    """A listener that closes every connection, at once or after its first bytes; it counts them."""

    def __init__(self, after_bytes: bool = False) -> None:
        self._after_bytes = after_bytes
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.times: list[float] = []
        self._thread = threading.Thread(target=self._run, name="test-counting", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.times.append(time.monotonic())
            with sock:
                if self._after_bytes:
                    sock.settimeout(1)
                    sock.recv(10)


@pytest.fixture
def events() -> list[Event]:
    return []


def hooks(events: list[Event]) -> dict[str, list[Any]]:
    return {name: [events.append] for name in EVENT_NAMES}


@pytest.mark.fault("slow dials towards ensure_idle_session 6: dials in flight count")
def test_no_overshoot(server: Server, ended: Ended) -> None:
    with (
        Relay(("127.0.0.1", server.port), delay=0.1) as relay,
        AnyTLSClient(relay.outbound(server.outbound(ensure_idle_session=6))) as client,
    ):
        most = 0
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            stats = client.stats()
            most = max(most, stats.total)
            time.sleep(0.01)
        assert client.stats().idle == most == relay.connections == 6
        ended("6 connections, never more")


REFUSALS = ("the server refuses", "the server accepts and closes at once", "TLS ends at once")


@pytest.mark.fault("refills while no session can be had")
def test_refills_back_off(ended: Ended) -> None:
    with contextlib.ExitStack() as stack:
        running = {}
        for how in REFUSALS:
            counting = stack.enter_context(Counting(after_bytes=how == "TLS ends at once"))
            outbound = {
                "type": "anytls",
                "server": "127.0.0.1",
                "server_port": free_port() if how == "the server refuses" else counting.port,
                "password": "test-password",
                "ensure_idle_session": 5,
                "tls": {"enabled": True, "server_name": "anytls.test", "insecure": True},
            }
            running[how] = (stack.enter_context(AnyTLSClient(outbound)), counting)
        time.sleep(2.0)
        for how, (client, counting) in running.items():
            # 5 dials at first; then pauses of 0.25 s and more, doubled each time.
            rounds = client._pool.state.refill.failures
            assert 2 <= rounds <= 5
            assert len(counting.times) <= 5 * 5
            assert client.stats().total == 0
            ended(
                f"{rounds} rounds of dials in 2 s, pauses doubled",
                fault=f"refills while {how}: they back off",
            )


@pytest.mark.fault("a server that closes each session right after its authentication: no dial loop")
def test_closed_after_authentication(ended: Ended) -> None:
    with Embedded() as server:
        server.faults.close_after_authentication = True
        with AnyTLSClient(server.outbound(ensure_idle_session=5)) as client:
            time.sleep(2.0)
            count = len(server.connections)
            assert count <= 5 * 5
            server.faults.close_after_authentication = False
            wait_until(lambda: client.stats().idle == 5, 15)
            ended(f"{count} dials in 2 s; full once the server behaves")


@pytest.mark.fault("a dial that hangs delays no other request")
def test_a_slow_dial_delays_nobody_else(server: Server, site: Site, ended: Ended) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as black_hole,
        Relay(("127.0.0.1", server.port)) as relay,
        AnyTLSClient(relay.outbound(server.outbound(heartbeat="100ms"))) as client,
    ):
        client.wait_ready(1, 5)
        first = client._pool.acquire(time.monotonic() + 5)
        relay.target = black_hole.getsockname()
        dialling = Background(client.create_connection, ("127.0.0.1", site.port), timeout=1.5)
        wait_until(lambda: relay.connections == 2)
        # The other session comes back, and is used meanwhile.
        client._pool.release(first.session)
        slowest = 0.0
        with way_of("socket").open(client, 5) as http:
            for _ in range(20):
                begin = time.monotonic()
                assert http.get(f"{site.url}/") == GREETING
                slowest = max(slowest, time.monotonic() - begin)
        assert dialling.running
        assert slowest < 0.5
        assert client.stats().closed["heartbeat_timeout"] == 0
        assert isinstance(dialling.error(5), AnyTLSError)
        ended("20 requests on another session meanwhile")


@pytest.mark.fault("refill dials that hang: a request dials for itself")
def test_hanging_refills_delay_no_request(site: Site, ended: Ended) -> None:
    with Embedded() as server, Relay(("127.0.0.1", server.port)) as relay:
        relay.swallow = True
        outbound = relay.outbound(server.outbound(ensure_idle_session=20, tls={"handshake_timeout": "2s"}))
        with AnyTLSClient(outbound) as client:
            wait_until(lambda: relay.connections >= 8, 5)
            assert relay.connections == 8  # no more dials at a time
            relay.swallow_present()
            relay.swallow = False
            begin = time.monotonic()
            with way_of("socket").open(client, 5) as http:
                assert http.get(f"{site.url}/") == GREETING
            took = time.monotonic() - begin
            assert took < 0.5 + STARVED
            ended(f"after {took:.1f} s, with 8 dials hanging")


@pytest.mark.fault("sessions closed by the peer: counted, told by events, replaced")
def test_closed_by_the_peer(server: Server, events: list[Event], ended: Ended) -> None:
    with AnyTLSClient(server.outbound(ensure_idle_session=3), event_hooks=hooks(events)) as client:
        client.wait_ready(3, 5)
        server.kill()
        wait_until(lambda: client.stats().closed["peer"] == 3, 5)

        def closes() -> list[Event]:
            return [event for event in events if event.name == "session_closed"]

        wait_until(lambda: len(closes()) == 3)  # an event is told when nobody is inside: after it was counted
        closed = closes()
        assert [event.reason for event in closed] == ["peer"] * 3
        assert len({event.session for event in closed}) == 3
        server.start()
        wait_until(lambda: client.stats().idle == 3, 10)
        ended("3 counted, 3 events, 3 new ones")
