"""SOCKS5 and SOCKS4a, byte by byte."""

from __future__ import annotations

import socket
import time

import pytest

from anytls_http.proxy import LocalProxy, front, web
from anytls_http.proxy import server as server_module
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING
from tests.proxy.conftest import PASSWORD, USER, connect, socks5_request
from tests.sockets.targets import Target, get, read_all, read_exactly
from tests.support.timing import STARVED, takes, wait_until

LOGIN = b"\x01" + bytes((len(USER),)) + USER.encode() + bytes((len(PASSWORD),)) + PASSWORD.encode()
OK5 = b"\x05\x00\x00\x01" + bytes(6)


def test_socks5_by_name(proxy: LocalProxy, site: Site) -> None:
    with connect(proxy) as sock:
        sock.sendall(b"\x05\x01\x00")
        assert read_exactly(sock, 2) == b"\x05\x00"
        sock.sendall(socks5_request("plain.test", 80))
        assert read_exactly(sock, 10) == OK5
        assert get(sock).endswith(GREETING)


@pytest.mark.parametrize("kind", ["byte by byte", "all at once"])
def test_however_it_is_cut(proxy: LocalProxy, site: Site, kind: str) -> None:
    words = b"\x05\x02\x00\x02" + socks5_request("plain.test", 80)
    words += b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(proxy) as sock:
        if kind == "all at once":
            sock.sendall(words)
        else:
            for byte in words:
                sock.sendall(bytes((byte,)))
        answer = read_all(sock)
        assert answer.startswith(b"\x05\x00" + OK5 + b"HTTP/1.1 200")
        assert answer.endswith(GREETING)


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_socks5_by_address(proxy: LocalProxy, server: AnyTLSServer, target: Target, family: str) -> None:
    server.routes["192.0.2.9", 7] = server.routes["2001:db8::9", 7] = target.address
    address = (
        b"\x01" + socket.inet_aton("192.0.2.9")
        if family == "IPv4"
        else b"\x04" + socket.inet_pton(socket.AF_INET6, "2001:db8::9")
    )
    with connect(proxy) as sock:
        sock.sendall(b"\x05\x01\x00" + b"\x05\x01\x00" + address + b"\x00\x07")
        assert read_exactly(sock, 12) == b"\x05\x00" + OK5
        sock.sendall(b"ping")
        assert target.accept().recv(10) == b"ping"


def test_socks5_with_a_password(guarded: LocalProxy, site: Site) -> None:
    with connect(guarded) as sock:
        sock.sendall(b"\x05\x02\x00\x02")
        assert read_exactly(sock, 2) == b"\x05\x02"
        sock.sendall(LOGIN)
        assert read_exactly(sock, 2) == b"\x01\x00"
        sock.sendall(socks5_request("plain.test", 80))
        assert read_exactly(sock, 10) == OK5
        assert get(sock).endswith(GREETING)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (b"\x05\x01\x00", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (b"\x05\x01\x02" + LOGIN[:-1] + b"X", b"\x05\x02\x01\x01"),
        (b"\x05\x01\x02\x01\x00\x00", b"\x05\x02\x01\x01"),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01me\x00plain.test\x00", b"\x00\x5b" + bytes(6)),
    ],
    ids=["none offered", "no method", "wrong password", "empty", "SOCKS4"],
)
def test_without_the_password(guarded: LocalProxy, site: Site, words: bytes, answer: bytes) -> None:
    with connect(guarded) as sock:
        sock.sendall(words)
        assert read_all(sock) == answer
    assert site.connections == 0


def test_a_password_that_nobody_asked_for(proxy: LocalProxy, site: Site) -> None:
    with connect(proxy) as sock:
        sock.sendall(b"\x05\x01\x02" + LOGIN + socks5_request("plain.test", 80))
        assert read_exactly(sock, 14) == b"\x05\x02\x01\x00" + OK5


@pytest.mark.parametrize("name", [True, False], ids=["SOCKS4a", "SOCKS4"])
def test_socks4(proxy: LocalProxy, site: Site, name: bool) -> None:
    with connect(proxy) as sock:
        if name:
            sock.sendall(b"\x04\x01\x00\x50\x00\x00\x00\x01user\x00plain.test\x00")
        else:
            sock.sendall(b"\x04\x01" + site.port.to_bytes(2, "big") + b"\x7f\x00\x00\x01\x00")
        assert read_exactly(sock, 8) == b"\x00\x5a" + bytes(6)
        assert get(sock).endswith(GREETING)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("connect: connection refused", 5),
        ("connect: network is unreachable", 3),
        ("connect: no route to host", 4),
        ("lookup timeout.test: no such host", 4),
        ("connect: i/o timeout", 6),
        ("what do I know", 5),
    ],
)
def test_why_a_target_is_refused(proxy: LocalProxy, server: AnyTLSServer, words: str, code: int) -> None:
    server.faults.refuse = lambda host, port: f"open connection to timeout.test:80: dial tcp: {words}"
    with connect(proxy) as sock:
        sock.sendall(b"\x05\x01\x00" + socks5_request("timeout.test", 80))
        assert read_all(sock) == b"\x05\x00\x05" + bytes((code,)) + OK5[2:]
    with connect(proxy) as sock:
        sock.sendall(b"\x04\x01\x00\x50\x00\x00\x00\x01\x00timeout.test\x00")
        assert read_all(sock) == b"\x00\x5b" + bytes(6)


def test_a_target_that_does_not_answer(
    proxy: LocalProxy, server: AnyTLSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "OPEN_TIMEOUT", 0.2)
    server.faults.withhold_synack = True
    with connect(proxy) as sock:
        sock.sendall(b"\x05\x01\x00" + socks5_request("slow.test", 80))
        assert read_all(sock) == b"\x05\x00\x05\x06" + OK5[2:]


def test_the_tunnel_does_not_work(server: AnyTLSServer) -> None:
    with LocalProxy(server.outbound(password="wrong")) as proxy, connect(proxy) as sock:
        sock.sendall(b"\x05\x01\x00" + socks5_request("plain.test", 80))
        assert read_all(sock) == b"\x05\x00\x05\x01" + OK5[2:]


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (b"\x05\x01\x00" + socks5_request("plain.test", 80, command=2), b"\x05\x00\x05\x07" + OK5[2:]),
        (b"\x05\x01\x00" + socks5_request("plain.test", 80, command=99), b"\x05\x00\x05\x07" + OK5[2:]),
        (b"\x05\x01\x00\x05\x01\x00\x09\x00\x00\x00\x00", b"\x05\x00\x05\x08" + OK5[2:]),
        (b"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50", b"\x05\x00\x05\x01" + OK5[2:]),
        (b"\x05\x01\x00\x05\x01\x00\x03\x02\xff\xfe\x00\x50", b"\x05\x00\x05\x01" + OK5[2:]),
        (b"\x05\x01\x00" + socks5_request("a\r\nb", 80), b"\x05\x00\x05\x04" + OK5[2:]),
        (b"\x05\x01\x00\x07\x01\x00\x01", b"\x05\x00"),
        (b"\x04\x02\x00\x50\x7f\x00\x00\x01\x00", b"\x00\x5b" + bytes(6)),
        (b"\x04\x03\x00\x50\x7f\x00\x00\x01\x00", b"\x00\x5b" + bytes(6)),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\xff\xff\x00", b"\x00\x5b" + bytes(6)),
        (b"\x04\x01\x00\x50\x7f\x00\x00\x01" + b"x" * 5000, b""),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00" + b"x" * 5000, b""),
        (b"\x00\x00\x00", b""),
        (b"\x16\x03\x01\x02\x00\x01\x00", b""),
        (b"\xff" * 100_000, b""),
    ],
)
def test_what_can_not_be_served(proxy: LocalProxy, site: Site, words: bytes, answer: bytes) -> None:
    with connect(proxy) as sock:
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
        with takes(0, 2):
            assert read_all(sock) == answer
    test_socks5_by_name(proxy, site)  # the proxy goes on


@pytest.mark.parametrize(
    "words", [b"", b"\x05", b"\x05\x01\x00\x05\x01", b"\x04\x01", b"GET http://plain.test/ HT", b"C"]
)
def test_half_a_greeting(
    server: AnyTLSServer, site: Site, words: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "GREETING_TIMEOUT", 0.3)
    monkeypatch.setattr(web, "HEAD_TIMEOUT", 0.3)
    with LocalProxy(server.outbound()) as proxy, connect(proxy) as sock:
        sock.sendall(words)
        begin = time.monotonic()
        read_all(sock)
        assert time.monotonic() - begin < 2.5 + STARVED
        test_socks5_by_name(proxy, site)


@pytest.mark.parametrize("words", [b"", b"\x05", b"\x05\x01\x00\x05\x01", b"GET http://plain.test/ HT"])
def test_a_client_that_vanishes(proxy: LocalProxy, site: Site, words: bytes) -> None:
    for reset in (True, False):
        sock = connect(proxy)
        sock.sendall(words)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    wait_until(lambda: proxy.connections == 0)
    test_socks5_by_name(proxy, site)


def test_a_client_that_vanishes_while_the_target_is_dialled(
    proxy: LocalProxy, server: AnyTLSServer, target: Target
) -> None:
    server.routes["slow.test", 80] = target.address
    server.faults.synack_delay = 0.2
    with connect(proxy) as sock:
        sock.sendall(b"\x05\x01\x00" + socks5_request("slow.test", 80))
        read_exactly(sock, 2)
    assert target.accept().recv(1) == b""
    wait_until(lambda: proxy.connections == 0)
