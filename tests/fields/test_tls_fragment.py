"""``fragment`` and ``record_fragment``, seen on the wire; the real sing-box takes what comes of them."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from anytls_http import AnyTLSClient, AnyTLSTimeout, DialError
from anytls_http.net import acknowledged
from anytls_http.testing import AnyTLSServer, make_certificate
from tests.sockets.targets import Background, Target
from tests.support.singbox import SingBoxServer, skip_without_singbox
from tests.support.timing import takes, wait_until
from tests.support.wire import HANDSHAKE, Sniffer, Wiretap, read_client_hello, records

NAME = "www.proxy.test"
LABELS = (b"www", b"proxy")


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as running:
        yield running


@pytest.fixture(scope="module")
def singbox() -> Iterator[SingBoxServer]:
    with SingBoxServer(certificate=make_certificate(NAME)) as running:
        yield running


@pytest.fixture
def cannot_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system that doesn't tell what has been acknowledged."""
    monkeypatch.setattr(acknowledged, "unacknowledged", lambda fd: None)


def exchange(outbound: dict[str, Any], target: Target) -> None:
    with AnyTLSClient(outbound) as client, client.create_connection(target.address, timeout=5) as sock:
        sock.sendall(b"a")
        far = target.accept()
        assert far.recv(1) == b"a"
        far.sendall(b"b")
        assert sock.recv(1) == b"b"


def has_no_label(pieces: list[bytes]) -> bool:
    return not any(label in piece for piece in pieces for label in LABELS)


@skip_without_singbox
class TestOnTheWire:
    def test_neither(self, singbox: SingBoxServer, target: Target) -> None:
        with Wiretap(("127.0.0.1", singbox.port)) as wire:
            exchange(wire.outbound(singbox.outbound()), target)
            assert NAME.encode() in wire.sent[0]

    @pytest.mark.usefixtures("cannot_know")
    @pytest.mark.parametrize("version", ["1.2", "1.3"])
    def test_fragment(self, singbox: SingBoxServer, target: Target, version: str) -> None:
        tls = {"fragment": True, "fragment_fallback_delay": "150ms", "max_version": version}
        with Wiretap(("127.0.0.1", singbox.port)) as wire:
            with takes(0.3, 3):
                exchange(wire.outbound(singbox.outbound(tls=tls)), target)
            assert has_no_label(wire.sent[:3])
            hello = b"".join(wire.sent[:3])
            assert read_client_hello(hello).server_name == NAME.encode()
            assert len(records(hello)) == 1

    @pytest.mark.parametrize("version", ["1.2", "1.3"])
    def test_record_fragment(self, singbox: SingBoxServer, target: Target, version: str) -> None:
        tls = {"record_fragment": True, "max_version": version}
        with Wiretap(("127.0.0.1", singbox.port)) as wire:
            exchange(wire.outbound(singbox.outbound(tls=tls)), target)
            found = records(wire.sent[0])
            assert [kind for kind, _ in found] == [HANDSHAKE] * 3
            assert has_no_label([body for _, body in found])
            assert read_client_hello(wire.sent[0]).server_name == NAME.encode()

    @pytest.mark.usefixtures("cannot_know")
    def test_both(self, singbox: SingBoxServer, target: Target) -> None:
        tls = {"fragment": True, "record_fragment": True, "fragment_fallback_delay": "150ms"}
        with Wiretap(("127.0.0.1", singbox.port)) as wire:
            exchange(wire.outbound(singbox.outbound(tls=tls)), target)
            assert [len(records(piece)) for piece in wire.sent[:3]] == [1, 1, 1]
            assert has_no_label(wire.sent[:3])

    @pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells what was acknowledged")
    def test_the_segments_themselves(self, singbox: SingBoxServer, target: Target) -> None:
        tls = {"fragment": True, "fragment_fallback_delay": "10s"}
        try:
            sniffer = Sniffer(singbox.port)
        except PermissionError:
            pytest.skip("needs the right to see packets (CAP_NET_RAW)")
        with sniffer, takes(0, 2):  # it goes by acknowledgements, not by the delay
            exchange(singbox.outbound(tls=tls), target)
            segments = sniffer.segments()
        assert has_no_label(segments[:3])
        assert read_client_hello(b"".join(segments[:3])).server_name == NAME.encode()


@pytest.mark.usefixtures("cannot_know")
class TestWaiting:
    @pytest.fixture
    def server(self) -> Iterator[AnyTLSServer]:
        with AnyTLSServer() as running:
            yield running

    def outbound(self, server: AnyTLSServer, delay: str = "500ms", **tls: Any) -> dict[str, Any]:
        return server.outbound(tls={"fragment": True, "fragment_fallback_delay": delay, **tls})

    def test_the_delay_is_500_ms_by_default(self, server: AnyTLSServer, target: Target) -> None:
        with takes(0.5, 2):
            exchange(server.outbound(tls={"fragment": True}), target)

    def test_the_time_out_of_the_handshake_counts(self, server: AnyTLSServer) -> None:
        outbound = self.outbound(server, "10s", handshake_timeout="300ms")
        with (
            AnyTLSClient(outbound) as client,
            takes(0.3, 1.5),
            pytest.raises(AnyTLSTimeout, match="TLS handshake"),
        ):
            client.create_connection(("target.test", 80), timeout=5)

    def test_a_server_that_hangs_up_is_not_waited_for(self, server: AnyTLSServer) -> None:
        server.faults.close_on_accept = True
        with AnyTLSClient(self.outbound(server, "3s")) as client, takes(0, 1), pytest.raises(DialError):
            client.create_connection(("target.test", 80), timeout=5)

    def test_closing_the_client_ends_it(self, server: AnyTLSServer) -> None:
        client = AnyTLSClient(self.outbound(server, "5s"))
        waiter = Background(client.create_connection, ("target.test", 80), 8)
        server.wait_for(lambda: len(server.connections) == 1)
        time.sleep(0.05)
        with takes(0, 1):
            client.close()
            assert waiter.error(1) is not None


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells what was acknowledged")
def test_a_peer_that_acknowledges_late(target: Target) -> None:
    """What isn't acknowledged is waited for; a stopped reader's kernel still acknowledges, so this is a unit test."""
    import socket

    from anytls_http.net.waiting import ReadWaiter

    near, far = socket.create_connection(target.address), target.accept()
    with near:
        near.sendall(b"x")
        acknowledged.wait_acknowledged(near.fileno(), ReadWaiter(near.fileno()), 5, time.monotonic() + 2)
        assert acknowledged.unacknowledged(near.fileno()) == 0
        near.setblocking(False)
        try:
            while True:
                near.send(bytes(1 << 20))
        except BlockingIOError:
            pass
        assert acknowledged.unacknowledged(near.fileno())
        with takes(0.1, 1), pytest.raises(AnyTLSTimeout):
            acknowledged.wait_acknowledged(
                near.fileno(), ReadWaiter(near.fileno()), 5, time.monotonic() + 0.1
            )
        far.sendall(b"answer")
        wait_until(ReadWaiter(near.fileno()).ready)
        with takes(0, 1.5):
            acknowledged.wait_acknowledged(near.fileno(), ReadWaiter(near.fileno()), 5, time.monotonic() + 2)


@pytest.mark.parametrize("tls", [{"disable_sni": True}, {"server_name": "127.0.0.1"}])
def test_without_a_name_there_is_nothing_to_hide(
    target: Target, tls: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    fields = {"fragment": True, "record_fragment": True, **tls}
    with AnyTLSServer() as server, caplog.at_level(logging.WARNING, "anytls_http.net"), takes(0, 1):
        exchange(server.outbound(tls=fields), target)
    assert "have no effect: no server name is sent" in caplog.text
