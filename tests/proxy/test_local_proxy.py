"""The proxy as a whole: listening, limits, many clients, its end, what it logs, UDP."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import resource
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from anytls_http import AnyTLSClient, ConfigError
from anytls_http.protocol.address import decode_address, encode_address
from anytls_http.protocol.uot import TARGET
from anytls_http.proxy import LocalProxy
from anytls_http.proxy import server as server_module
from anytls_http.proxy import workers as workers_module
from anytls_http.relay import shared_relay
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING, body_sha256
from tests.proxy.conftest import PASSWORD, USER, connect, read_head, socks5_request
from tests.sockets.targets import Background, Target, get, read_all, read_exactly
from tests.support.timing import STARVED, wait_until
from tests.support.uot import UDPEcho, UoTGateway


def tunnel(proxy: LocalProxy, host: str = "plain.test", port: int = 80) -> socket.socket:
    """Return a connection through the proxy, by SOCKS5."""
    sock = connect(proxy)
    sock.settimeout(20)
    sock.sendall(b"\x05\x01\x00" + socks5_request(host, port))
    assert read_exactly(sock, 12)[3] == 0
    return sock


# -- listening -------------------------------------------------------------------------------------------


def test_urls(server: AnyTLSServer) -> None:
    with LocalProxy(server.outbound()) as proxy:
        assert proxy.url == f"http://127.0.0.1:{proxy.port}"
        assert proxy.socks_url == f"socks5h://127.0.0.1:{proxy.port}"
        assert repr(proxy) == f"<LocalProxy at 127.0.0.1:{proxy.port}, 0 connections>"
    with LocalProxy(server.outbound(), ("::1", 0), USER, PASSWORD) as proxy:
        assert proxy.url == f"http://mary%20ann:p%40ss%3Aw%2Frd%25@[::1]:{proxy.port}"
        assert PASSWORD not in repr(proxy) + repr(vars(proxy))
    with LocalProxy(server.outbound(), ("0.0.0.0", 0), USER, PASSWORD) as proxy:
        assert f"@127.0.0.1:{proxy.port}" in proxy.url
    assert "closed" in repr(proxy)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1"])
def test_others_may_not_use_it_without_a_password(server: AnyTLSServer, host: str) -> None:
    with pytest.raises(ConfigError, match="user name and a password"):
        LocalProxy(server.outbound(), (host, 0))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_loopback_needs_none(server: AnyTLSServer, host: str) -> None:
    with LocalProxy(server.outbound(), (host, 0)):
        pass


@pytest.mark.parametrize(
    ("listen", "user", "error"),
    [
        (("127.0.0.1", 0), ("me", None), ConfigError),
        (("127.0.0.1", 0), (None, "x"), ConfigError),
        (("127.0.0.1", 0), ("", "x"), ConfigError),
        (("127.0.0.1", 0), ("a:b", "x"), ConfigError),
        (("127.0.0.1", 0), ("me", "x" * 256), ConfigError),
        (("127.0.0.1", 70000), (None, None), ConfigError),
        (("", 0), (None, None), ConfigError),
        (("no such\nhost", 0), (None, None), ConfigError),
        (("192.0.2.1", 0), ("me", "x"), OSError),
    ],
)
def test_what_can_not_be(
    server: AnyTLSServer, listen: tuple[str, int], user: tuple[str | None, str | None], error: type[Exception]
) -> None:
    with pytest.raises(error):
        LocalProxy(server.outbound(), listen, *user)


def test_a_port_in_use(server: AnyTLSServer, proxy: LocalProxy) -> None:
    with pytest.raises(OSError, match="can't listen on 127.0.0.1"):
        LocalProxy(server.outbound(), ("127.0.0.1", proxy.port))


def test_a_client_of_ones_own(server: AnyTLSServer, site: Site) -> None:
    with AnyTLSClient(server.outbound()) as client:
        with LocalProxy(client) as proxy, tunnel(proxy) as sock:
            assert proxy.client is client
            assert get(sock).endswith(GREETING)
        with client.create_connection(("plain.test", 80), 5) as stream:
            assert get(stream).endswith(GREETING)


# -- many clients ----------------------------------------------------------------------------------------


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """This process holds both ends of everything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 10_000:
        pytest.skip(f"at most {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 10_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(120)
def test_a_thousand_idle_connections(
    proxy: LocalProxy, server: AnyTLSServer, site: Site, many_descriptors: None
) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server.routes["idle.test", 1] = listener.getsockname()
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        before = threading.active_count()
        mine = [name for name in _thread_names() if not name.startswith("anytls-test")]
        pairs = []
        for _ in range(1000):
            sock = stack.enter_context(tunnel(proxy, "idle.test", 1))
            pairs.append((sock, stack.enter_context(listener.accept()[0])))
        assert proxy.connections == 1000
        wait_until(lambda: sum(name.endswith("-client") for name in _thread_names()) == 0, 30)
        # The test server has threads for each; the proxy has none.
        assert len([name for name in _thread_names() if not name.startswith("anytls-test")]) <= len(mine) + 1
        assert threading.active_count() > before
        with tunnel(proxy) as sock:
            assert get(sock).endswith(GREETING)
        for near, far in pairs[::50]:
            near.sendall(b"ping")
            assert far.recv(10) == b"ping"
            far.sendall(b"pong")
            assert near.recv(10) == b"pong"
    wait_until(lambda: proxy.connections == 0, 20)


@pytest.fixture
def small_switches() -> Iterator[None]:
    """Threads take turns after a few instructions."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_client_is_counted_once(proxy: LocalProxy, site: Site, small_switches: None) -> None:
    # Also at the moments when it goes from the thread that watches it to one that greets it, and on to the relay.
    for _ in range(15):
        with connect(proxy) as sock:
            wait_until(lambda: proxy.connections == 1)
            sock.settimeout(20)
            sock.sendall(b"\x05\x01\x00" + socks5_request("plain.test", 80))
            counts = {proxy.connections for _ in range(20)}
            assert read_exactly(sock, 12)[3] == 0
            counts |= {proxy.connections for _ in range(20)}
            assert counts == {1}
        wait_until(lambda: proxy.connections == 0)


def _thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@pytest.mark.timeout(120)
def test_two_hundred_downloads_at_once(proxy: LocalProxy, site: Site, many_descriptors: None) -> None:
    size = 300_000

    def download(number: int) -> str:
        if number % 2:
            with tunnel(proxy) as sock:
                body = get(sock, f"/bytes/{size}").partition(b"\r\n\r\n")[2]
        else:
            with connect(proxy) as sock:
                sock.settimeout(60)
                sock.sendall(
                    b"GET http://plain.test/bytes/%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % size
                )
                body = read_all(sock).partition(b"\r\n\r\n")[2]
        return hashlib.sha256(body).hexdigest()

    downloads = [Background(download, number) for number in range(200)]
    assert {one.result(60) for one in downloads} == {body_sha256(size)}


def test_a_slow_reader_slows_only_itself(proxy: LocalProxy, site: Site) -> None:
    with tunnel(proxy) as socks_sock, connect(proxy) as http_sock:
        socks_sock.sendall(b"GET /bytes/20000000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        http_sock.sendall(
            b"GET http://plain.test/bytes/20000000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        time.sleep(0.3)
        begin = time.monotonic()
        with tunnel(proxy) as sock:
            body = get(sock, "/bytes/5000000").partition(b"\r\n\r\n")[2]
        assert hashlib.sha256(body).hexdigest() == body_sha256(5_000_000)
        assert time.monotonic() - begin < 5 + STARVED
        assert all(len(pair._down) <= 64 * 1024 for pair in shared_relay()._pairs)
        for slow in (socks_sock, http_sock):
            slow.settimeout(20)
            body = b"".join(iter(lambda slow=slow: slow.recv(1 << 20), b"")).partition(b"\r\n\r\n")[2]  # type: ignore[misc]
            assert hashlib.sha256(body).hexdigest() == body_sha256(20_000_000)


def test_more_clients_than_threads(server: AnyTLSServer, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "MAX_THREADS", 2)
    with LocalProxy(server.outbound()) as proxy:

        def fetch() -> bytes:
            with tunnel(proxy) as sock:
                return get(sock)

        clients = [Background(fetch) for _ in range(20)]
        assert all(client.result(10).endswith(GREETING) for client in clients)


def test_more_clients_than_connections(
    server: AnyTLSServer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 2)
    with (
        LocalProxy(server.outbound()) as proxy,
        tunnel(proxy) as first,
        tunnel(proxy),
        connect(proxy) as waits,
    ):
        waits.sendall(b"\x05\x01\x00")
        waits.settimeout(0.5)
        with pytest.raises(TimeoutError):
            waits.recv(1)
        assert get(first).endswith(GREETING)
        first.close()
        waits.settimeout(5)
        assert waits.recv(2) == b"\x05\x00"


def test_no_descriptors_left(proxy: LocalProxy, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with connect(proxy) as waiting:
        waiting.sendall(b"G")  # the proxy is warm
        wait_until(lambda: proxy.connections == 1)
        with socket.socket() as late:
            resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, hard))
            try:
                fillers = []
                with contextlib.suppress(OSError):
                    while True:
                        fillers.append(os.dup(0))
                late.settimeout(5)
                late.connect(("127.0.0.1", proxy.port))
                wait_until(lambda: "no more clients for now" in caplog.text)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in fillers:
                    os.close(fd)
            late.sendall(b"\x05\x01\x00")
            assert late.recv(2) == b"\x05\x00"


# -- its end ---------------------------------------------------------------------------------------------


def test_close_ends_everything(server: AnyTLSServer, site: Site, target: Target) -> None:
    server.routes["target.test", 1] = target.address
    proxy = LocalProxy(server.outbound())
    with (
        tunnel(proxy, "target.test", 1) as relayed,
        connect(proxy) as silent,
        connect(proxy) as half,
        connect(proxy) as kept,
        connect(proxy) as plain,
    ):
        half.sendall(b"\x05\x01")
        kept.sendall(b"GET http://plain.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
        read_exactly(kept, len(GREETING) + 20)
        plain.sendall(b"GET http://plain.test/slow?seconds=30 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_for(lambda: server.streams_opened >= 3)
        wait_until(lambda: proxy.connections == 5)
        begin = time.monotonic()
        proxy.close()
        proxy.close()
        assert time.monotonic() - begin < 2 + STARVED
        assert proxy.connections == 0
        for sock in (relayed, silent, half, kept, plain):
            with contextlib.suppress(ConnectionResetError):
                read_all(sock)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)


def test_a_broken_session_resets_its_clients(proxy: LocalProxy, server: AnyTLSServer, target: Target) -> None:
    server.routes["target.test", 1] = target.address
    with tunnel(proxy, "target.test", 1) as sock:
        server.close_sessions(reset=True)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_client_that_has_ended_its_direction_gets_its_answer(
    proxy: LocalProxy, server: AnyTLSServer, target: Target
) -> None:
    server.routes["target.test", 1] = target.address
    with tunnel(proxy, "target.test", 1) as sock:
        sock.sendall(b"question")
        sock.shutdown(socket.SHUT_WR)
        far = target.accept()
        assert read_exactly(far, 8) == b"question"
        time.sleep(0.7)
        far.sendall(b"answer")
        far.close()
        assert read_all(sock) == b"answer"


def test_a_client_that_is_gone_gives_its_session_back(
    proxy: LocalProxy, server: AnyTLSServer, target: Target
) -> None:
    server.routes["target.test", 1] = target.address
    with tunnel(proxy, "target.test", 1) as sock:
        sock.sendall(b"question")
        assert target.accept().recv(8) == b"question"
    wait_until(lambda: proxy.client.stats().idle == 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork(proxy: LocalProxy, site: Site) -> None:
    with tunnel(proxy) as sock:
        child = os.fork()
        if not child:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert get(sock).endswith(GREETING)


# -- what it logs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        b"\x05\x01\x00" + socks5_request("evil\n\x1b[31mINFO fake", 80),
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00evil\n\x1b[31m\x00",
        b"GET http://evil\x1b[31m/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT evil\xe2\x80\xae\x1b[31m:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x/ HTTP/1.1\r\nevil\x1b[31m\r\n\r\n",
        b"CONNECT \xc3\xa9vil.test:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x05\x01\x00" + b"\x05\x01\x00\x03\x09\xe2\x80\xaeevil.\x9b\x00\x50",
        b"evil\x1b\x00\x07\r\n\r\n",
    ],
)
def test_nothing_from_a_client_is_logged_as_it_came(
    proxy: LocalProxy, server: AnyTLSServer, words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "anytls_http")
    server.faults.refuse = lambda host, port: f"no way to {host}"
    with connect(proxy) as sock:
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    wait_until(lambda: proxy.connections == 0)
    for record in caplog.records:
        assert record.getMessage().isprintable(), record
        assert record.getMessage().isascii(), record


def test_the_password_is_never_logged(
    guarded: LocalProxy, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with connect(guarded) as sock:
        sock.sendall(b"\x05\x01\x02\x01\x01x\x06hunter")
        read_all(sock)
    wait_until(lambda: "wrong user name or password" in caplog.text)
    assert "hunter" not in caplog.text
    assert PASSWORD not in caplog.text


# -- UDP -------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(server: AnyTLSServer) -> Iterator[UoTGateway]:
    with UoTGateway() as running:
        server.routes[TARGET] = running.address
        yield running


def associate(proxy: LocalProxy) -> tuple[socket.socket, socket.socket, tuple[str, int]]:
    """Return the TCP connection, a UDP socket, and where to send datagrams."""
    control = connect(proxy)
    control.sendall(b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6))
    answer = read_exactly(control, 12)
    assert answer[:6] == b"\x05\x00\x05\x00\x00\x01"
    host, port, _ = decode_address(answer[5:])
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(5)
    return control, udp, (host, port)


def test_udp(proxy: LocalProxy, gateway: UoTGateway) -> None:
    control, udp, relay = associate(proxy)
    with control, udp, UDPEcho() as echo, UDPEcho("::1") as echo6:
        for address in (echo.address, echo6.address, ("localhost", echo.address[1])):
            for size in (0, 1, 1400, 60000):
                udp.sendto(bytes(3) + encode_address(*address) + b"x" * size, relay)
                data, source = udp.recvfrom(70000)
                assert source == relay
                assert data[:3] == bytes(3)
                assert decode_address(data[3:])[:2] == address
                assert data[3 + decode_address(data[3:])[2] :] == b"x" * size
        assert proxy.connections == 1
    wait_until(lambda: proxy.connections == 0)
    wait_until(lambda: proxy.client.stats().active == 0)


def test_datagrams_that_are_dropped(proxy: LocalProxy, gateway: UoTGateway) -> None:
    control, udp, relay = associate(proxy)
    with control, udp, UDPEcho() as echo, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        head = encode_address(*echo.address)
        good = bytes(3) + head + b"good"
        for bad in (
            b"",
            b"\0\0",
            b"\0\0\1" + head + b"fragment",
            b"\0\0\0\x09zz",
            bytes(3) + b"\x03\x03a b\0\1",
        ):
            udp.sendto(bad, relay)
        udp.sendto(good, relay)
        assert udp.recvfrom(100)[0].endswith(b"good")
        stranger.sendto(bytes(3) + head + b"stranger", relay)
        udp.sendto(good, relay)
        assert udp.recvfrom(100)[0].endswith(b"good")
        assert echo.received == 2


def test_udp_ends_with_the_proxy(server: AnyTLSServer, gateway: UoTGateway) -> None:
    with LocalProxy(server.outbound()) as proxy:
        control, udp, _ = associate(proxy)
    with control, udp:
        assert control.recv(1) == b""


def test_a_server_without_udp(proxy: LocalProxy, server: AnyTLSServer) -> None:
    server.faults.refuse = lambda host, port: "what is UDP?"
    control, udp, relay = associate(proxy)
    with control, udp:
        udp.sendto(bytes(3) + encode_address("192.0.2.1", 53) + b"x", relay)
        assert control.recv(1) == b""


def test_udp_without_a_tunnel(server: AnyTLSServer) -> None:
    outbound = server.outbound()
    server.close()
    with LocalProxy(outbound) as proxy, connect(proxy) as control:
        control.sendall(b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6))
        assert read_all(control)[:4] == b"\x05\x00\x05\x01"


def test_tls_through_socks(proxy: LocalProxy, secure: Site) -> None:
    with tunnel(proxy, "secure.test", 443) as sock:
        context: ssl.SSLContext = secure.ssl_context()
        with context.wrap_socket(sock, server_hostname="secure.test") as tls:
            assert get(tls).endswith(GREETING)


def test_http_over_the_same_port(proxy: LocalProxy, site: Site) -> None:
    with connect(proxy) as sock:
        sock.sendall(b"CONNECT plain.test:80 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_head(sock)[0].split()[1] == b"200"
