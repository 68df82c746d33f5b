"""``create_datagram``: against the test server with a gateway, and against the real sing-box."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from anytls_http import AnyTLSClient, AnyTLSTimeout, SessionClosed, StreamRefused
from anytls_http import datagram_channels as module
from anytls_http.protocol.uot import MAX_DATAGRAM, TARGET, encode_datagram
from anytls_http.testing import AnyTLSServer
from tests.sockets.targets import Background
from tests.support.singbox import SingBoxServer, skip_without_singbox
from tests.support.timing import takes, wait_until
from tests.support.uot import UDPEcho, UoTGateway


@pytest.fixture
def gateway() -> Iterator[UoTGateway]:
    with UoTGateway() as running:
        yield running


@pytest.fixture
def client(gateway: UoTGateway) -> Iterator[AnyTLSClient]:
    with AnyTLSServer() as server:
        server.routes[TARGET] = gateway.address
        with AnyTLSClient(server.outbound()) as running:
            yield running


@pytest.fixture
def echo() -> Iterator[UDPEcho]:
    with UDPEcho() as running:
        yield running


@pytest.mark.parametrize("size", [0, 1, 1400, 65000, MAX_DATAGRAM])
def test_to_one_address(client: AnyTLSClient, echo: UDPEcho, size: int) -> None:
    with client.create_datagram(echo.address, 5) as sock:
        data = bytes(range(256)) * (size // 256 + 1)
        assert sock.send(data[:size]) == size
        assert sock.recvfrom(70000) == (data[:size], echo.address)
        assert sock.getpeername() == echo.address


def test_what_goes_first(client: AnyTLSClient, echo: UDPEcho, gateway: UoTGateway) -> None:
    with client.create_datagram(("localhost", echo.address[1]), 5) as sock:
        sock.send(b"x")
        assert sock.recvfrom(10) == (b"x", ("localhost", echo.address[1]))
    assert gateway.requests == [(True, "localhost", echo.address[1])]


@pytest.mark.parametrize("size", [0, 1, 1400, MAX_DATAGRAM])
def test_to_any_address(client: AnyTLSClient, echo: UDPEcho, size: int) -> None:
    with UDPEcho("::1") as echo6, client.create_datagram(timeout=5) as sock:
        for address in (echo.address, echo6.address, ("localhost", echo.address[1])):
            sock.sendto(b"y" * size, address)
            assert sock.recvfrom(70000) == (b"y" * size, address)
        with pytest.raises(OSError, match="no address"):
            sock.send(b"x")
        with pytest.raises(OSError, match="no address"):
            sock.getpeername()


def test_what_does_not_fit_is_lost(client: AnyTLSClient, echo: UDPEcho) -> None:
    with client.create_datagram(echo.address, 5) as sock:
        sock.send(b"first")
        sock.send(b"second")
        assert sock.recv(2) == b"fi"
        assert sock.recv(100) == b"second"


def test_errors_of_the_caller(client: AnyTLSClient, echo: UDPEcho) -> None:
    with client.create_datagram(echo.address, 5) as sock:
        with pytest.raises(OSError, match="at most 65507"):
            sock.send(bytes(MAX_DATAGRAM + 1))
        with pytest.raises(OSError, match="another address"):
            sock.sendto(b"x", ("192.0.2.1", 1))
        with pytest.raises(ValueError, match="negative"):
            sock.recv(-1)
        with pytest.raises(ValueError, match="out of range"):
            sock.settimeout(-1)
        with pytest.raises(io.UnsupportedOperation):
            sock.fileno()
    for call in (lambda: sock.send(b"x"), lambda: sock.recv(1), sock.getpeername):
        with pytest.raises(OSError, match="closed"):
            call()
    assert sock.fileno() == -1
    sock.close()
    with client.create_datagram(timeout=5) as sock, pytest.raises(OSError, match="can't be a target"):
        sock.sendto(b"x", ("a b", 1))
    with pytest.raises(StreamRefused, match="can't be a target"):
        client.create_datagram(("a b", 1))


def test_time_outs(client: AnyTLSClient, echo: UDPEcho) -> None:
    with client.create_datagram(echo.address) as sock:
        sock.settimeout(0.2)
        with takes(0.2), pytest.raises(AnyTLSTimeout):
            sock.recv(10)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(10)
        sock.send(b"x")
        wait_until(lambda: echo.received == 1)
        sock.settimeout(5)
        assert sock.gettimeout() == 5
        assert sock.recv(10) == b"x"
        with pytest.raises(ValueError, match="NaN"):
            sock.settimeout(float("nan"))
        sock.settimeout(float("inf"))
        sock.send(b"y")
        assert sock.recv(10) == b"y"


def test_close_wakes_who_receives(client: AnyTLSClient, echo: UDPEcho) -> None:
    sock = client.create_datagram(echo.address)
    receiver = Background(sock.recv, 10)
    time.sleep(0.05)
    sock.close()
    assert isinstance(receiver.error(), OSError)


def test_a_name_is_heard_by_who_receives_already(client: AnyTLSClient, echo: UDPEcho) -> None:
    with client.create_datagram(timeout=5) as sock:
        receiver = Background(sock.recv, 10)
        time.sleep(0.05)
        sock.sendto(b"hello", ("localhost", echo.address[1]))
        assert receiver.result() == b"hello"


def test_the_name_longest_without_use_makes_room(
    client: AnyTLSClient, echo: UDPEcho, monkeypatch: pytest.MonkeyPatch, gateway: UoTGateway
) -> None:
    monkeypatch.setattr(module, "MAX_NAMES", 2)
    with client.create_datagram(timeout=5) as sock:
        for name in ("localhost", "LOCALHOST", "Localhost", "localhost"):
            sock.sendto(b"x", (name, echo.address[1]))
            assert sock.recvfrom(10) == (b"x", (name, echo.address[1]))
        assert len(sock._channels.all()) == 3
    assert len(gateway.requests) == 5


def test_a_refused_name_is_lost_and_nothing_else(
    gateway: UoTGateway, echo: UDPEcho, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with AnyTLSServer() as server, AnyTLSClient(server.outbound()) as client:
        server.routes[TARGET] = gateway.address
        with client.create_datagram(timeout=5) as sock:
            sock.sendto(b"first", echo.address)
            assert sock.recv(10) == b"first"
            server.faults.refuse = lambda host, port: "no such host"
            for _ in range(3):
                sock.sendto(b"x", ("nosuch.test", 80))
                sock.settimeout(0.2)
                with takes(0.2), pytest.raises(AnyTLSTimeout):
                    sock.recvfrom(10)
            sock.settimeout(5)
            sock.sendto(b"last", echo.address)
            assert sock.recv(10) == b"last"
    assert "nosuch.test:80: the server refused: no such host" in caplog.text


def send_until_error(sock: Any) -> None:
    while True:
        sock.send(bytes(16_000))


def test_a_blocked_sender_holds_up_nobody() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        AnyTLSServer() as server,
        AnyTLSClient(server.outbound()) as client,
    ):
        server.routes[TARGET] = listener.getsockname()
        sock = client.create_datagram(("127.0.0.1", 9), timeout=None)
        writer = Background(send_until_error, sock)
        far, _ = listener.accept()  # and reads nothing
        time.sleep(0.3)
        far.sendall(encode_datagram(memoryview(b"hi"), None))
        sock.settimeout(5)
        with takes(0, 1):
            assert sock.recv(10) == b"hi"
        assert writer.running
        with takes(0, 1):
            sock.close()
        assert isinstance(writer.error(), OSError)
        far.close()


def test_a_stream_that_the_server_ends_is_opened_again() -> None:
    """As sing-box does where nothing was sent for some minutes."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        AnyTLSServer() as server,
        AnyTLSClient(server.outbound()) as client,
        client.create_datagram(timeout=0.2) as sock,
    ):
        server.routes[TARGET] = listener.getsockname()
        for _ in range(2):
            sock.sendto(b"x", ("127.0.0.1", 9))
            far, _ = listener.accept()
            far.close()
            with takes(0.2), pytest.raises(AnyTLSTimeout):
                sock.recv(10)


def test_nonsense_from_the_server(client: AnyTLSClient, echo: UDPEcho, gateway: UoTGateway) -> None:
    gateway.nonsense = b"\x09" * 100
    with client.create_datagram(timeout=5) as sock:
        sock.sendto(b"x", echo.address)
        with pytest.raises(SessionClosed, match="no datagram"):
            sock.recv(10)


def test_a_server_without_it(echo: UDPEcho) -> None:
    with AnyTLSServer() as server, AnyTLSClient(server.outbound()) as client:
        server.faults.refuse = lambda host, port: "what is UDP?"
        sock = client.create_datagram(echo.address, 5)
        with sock, pytest.raises(StreamRefused, match="what is UDP"):
            sock.send(b"x")  # it may be told that soon
            sock.recv(10)


def test_the_session_breaks(client: AnyTLSClient, echo: UDPEcho) -> None:
    with client.create_datagram(echo.address, 5) as sock:
        sock.send(b"x")
        assert sock.recv(1) == b"x"
        client.close()
        with pytest.raises(SessionClosed):
            sock.recv(10)
        with pytest.raises((SessionClosed, OSError)):
            sock.send(b"x")


def test_two_threads(client: AnyTLSClient, echo: UDPEcho) -> None:
    with client.create_datagram(echo.address, 5) as sock:
        sender = Background(lambda: [sock.send(b"%d" % number) for number in range(100)])
        received = [sock.recv(10) for _ in range(100)]
        assert received == [b"%d" % number for number in range(100)]
        sender.result()


@pytest.fixture(scope="module")
def singbox() -> Iterator[SingBoxServer]:
    with SingBoxServer() as running:
        yield running


class DNSServer:
    """Answers A and AAAA questions for ``name.test``, with dnspython."""

    def __init__(self, host: str) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.address: tuple[str, int] = self.socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._run, daemon=True, name="test-dns")
        self._thread.start()

    def _run(self) -> None:
        import dns.message
        import dns.rrset

        while True:
            data, peer = self.socket.recvfrom(70000)
            if not data:
                return
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            answer.answer.append(dns.rrset.from_text("name.test.", 60, "IN", "A", "192.0.2.7"))
            self.socket.sendto(answer.to_wire(), peer)

    def close(self) -> None:
        with socket.socket(self.socket.family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self.address)
        self._thread.join(5)
        self.socket.close()


@skip_without_singbox
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "any address"])
def test_a_dns_query_through_sing_box(singbox: SingBoxServer, host: str, connected: bool) -> None:
    message = pytest.importorskip("dns.message")
    server = DNSServer("127.0.0.1" if host == "localhost" else host)
    try:
        address = (host, server.address[1])
        query: Any = message.make_query("name.test", "A")
        with (
            AnyTLSClient(singbox.outbound()) as client,
            client.create_datagram(address if connected else None, 5) as sock,
        ):
            sock.sendto(query.to_wire(), address)
            data, source = sock.recvfrom(4096)
        answer = message.from_wire(data)
        assert answer.id == query.id
        assert answer.answer[0][0].address == "192.0.2.7"
        assert source == address
    finally:
        server.close()


@skip_without_singbox
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "any address"])
def test_sizes_through_sing_box(singbox: SingBoxServer, host: str, connected: bool) -> None:
    with (
        UDPEcho("127.0.0.1" if host == "localhost" else host) as echo,
        AnyTLSClient(singbox.outbound()) as client,
    ):
        address = (host, echo.address[1])
        with client.create_datagram(address if connected else None, 5) as sock:
            for size in (0, 1, 512, 1472, 9000, 16384):
                sock.sendto(b"z" * size, address)
                data, source = sock.recvfrom(70000)
                assert (len(data), source) == (size, address)


@skip_without_singbox
def test_what_sing_box_does_with_larger_ones(singbox: SingBoxServer) -> None:
    # Its buffer is 16 KiB: going up a larger one ends the stream, coming down it is cut. Documented.
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target,
        AnyTLSClient(singbox.outbound()) as client,
    ):
        target.bind(("127.0.0.1", 0))
        target.settimeout(5)
        with client.create_datagram(target.getsockname(), 5) as sock:
            sock.send(b"x")
            _, peer = target.recvfrom(10)
            target.sendto(bytes(MAX_DATAGRAM), peer)
            assert len(sock.recv(70000)) == 16384
            sock.send(bytes(MAX_DATAGRAM))
            with pytest.raises(SessionClosed):
                sock.recv(10)
