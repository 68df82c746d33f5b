"""Plain sockets and ``http.client`` through the real sing-box server."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import anytls_http
from anytls_http import (
    AnyTLSClient,
    AnyTLSSocket,
    AnyTLSTimeout,
    AuthenticationError,
    SessionClosed,
    StreamRefused,
)
from anytls_http.testing import Site
from anytls_http.testing.site import GREETING, body_blocks, body_sha256
from tests.support.relay import Relay
from tests.support.singbox import SingBoxServer, free_port, skip_without_singbox
from tests.support.timing import LATE, STARVED, wait_until

pytestmark = skip_without_singbox

#: Bytes of the long transfers.
LONG = 100_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[SingBoxServer]:
    """One process for the tests that leave it as it is."""
    with SingBoxServer() as running:
        yield running


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture(scope="module")
def tls_site() -> Iterator[Site]:
    with Site(tls=True) as running:
        yield running


@pytest.fixture
def client(server: SingBoxServer) -> Iterator[AnyTLSClient]:
    with AnyTLSClient(server.outbound()) as running:
        yield running


def address_of(site: Site) -> tuple[str, int]:
    return site.host, site.port


def get(sock: Any, path: str = "/") -> bytes:
    """Return the whole answer to a GET, head and body."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n".encode())
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


class Requests:
    """Counts what the server logs of sessions and streams from its making on."""

    def __init__(self, server: SingBoxServer) -> None:
        self._server = server
        self._start = len(server.log())

    def _count(self, pattern: str) -> int:
        return len(re.findall(pattern, self._server.log()[self._start :]))

    @property
    def sessions(self) -> int:
        """TCP connections of clients; one that never authenticated counts too."""
        return self._count(r"inbound/anytls\[anytls-in\]: inbound connection from")

    @property
    def streams(self) -> int:
        return self._count(r"inbound/anytls\[anytls-in\]: (\[u\] )?inbound connection to")


class TestStreams:
    def test_sessions_are_reused(self, client: AnyTLSClient, server: SingBoxServer, site: Site) -> None:
        seen = Requests(server)
        for _ in range(5):
            with client.create_connection(address_of(site), timeout=5) as sock:
                assert get(sock).endswith(GREETING)
        wait_until(lambda: seen.streams == 5, what="five streams in the log")
        assert seen.sessions == 1
        assert client.stats().created == {"demand": 1, "ensure_idle": 0}

    def test_warm_sessions(self, server: SingBoxServer, site: Site) -> None:
        seen = Requests(server)
        with AnyTLSClient(server.outbound(ensure_idle_session=2, heartbeat="100ms")) as client:
            client.wait_ready(2, timeout=5)
            time.sleep(0.3)  # it lives on through some heartbeats
            with client.create_connection(address_of(site), timeout=5) as sock:
                assert get(sock).endswith(GREETING)
            assert client.stats().closed["heartbeat_timeout"] == 0
        wait_until(lambda: seen.sessions >= 2 and seen.streams == 1)

    def test_wait_open(self, client: AnyTLSClient, site: Site) -> None:
        with client.create_connection(address_of(site), timeout=5, wait_open=True) as sock:
            assert sock._opened
            assert get(sock).endswith(GREETING)

    @pytest.mark.parametrize("wait_open", [False, True])
    def test_a_refused_target(self, client: AnyTLSClient, site: Site, wait_open: bool) -> None:
        port = free_port()
        with (
            pytest.raises(StreamRefused, match=rf"127\.0\.0\.1:{port}.*connection refused"),
            client.create_connection(("127.0.0.1", port), timeout=5, wait_open=wait_open) as sock,
        ):
            sock.sendall(b"user data")
            sock.recv(1)
        with client.create_connection(address_of(site), timeout=5) as sock:
            assert get(sock).endswith(GREETING)
        assert client.stats().created["demand"] == 1

    def test_an_unknown_name(self, client: AnyTLSClient) -> None:
        with pytest.raises(StreamRefused, match=r"nowhere\.invalid:80"):
            client.create_connection(("nowhere.invalid", 80), timeout=10, wait_open=True)

    def test_ipv6(self, client: AnyTLSClient) -> None:
        try:
            site = Site(host="::1")
            site.start()
        except OSError as exc:
            pytest.skip(f"no ::1 here: {exc}")
        with contextlib.closing(site), client.create_connection(("::1", site.port), timeout=5) as sock:
            assert get(sock).endswith(GREETING)
            assert sock.getpeername() == ("::1", site.port)

    def test_a_name_is_resolved_by_the_server(
        self, client: AnyTLSClient, server: SingBoxServer, site: Site
    ) -> None:
        with client.create_connection(("localhost", site.port), timeout=5) as sock:
            assert get(sock).endswith(GREETING)
        server.wait_for_log(f"inbound connection to localhost:{site.port}")

    def test_an_abandoned_download(self, client: AnyTLSClient, site: Site) -> None:
        for _ in range(5):
            with client.create_connection(address_of(site), timeout=5) as sock:
                sock.sendall(f"GET /bytes/{LONG} HTTP/1.1\r\nHost: site.test\r\n\r\n".encode())
                assert sock.recv(10) == b"HTTP/1.1 2"
            begin = time.monotonic()
            with client.create_connection(address_of(site), timeout=5) as sock:
                assert get(sock).endswith(GREETING)
            assert time.monotonic() - begin < 1 + STARVED

    def test_many_threads(self, server: SingBoxServer, site: Site) -> None:
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(10):
                    with client.create_connection(address_of(site), timeout=20) as sock:
                        assert hashlib.sha256(get(sock, "/bytes/50000")[-50_000:]).hexdigest() == digest
            except BaseException as exc:
                errors.append(exc.with_traceback(None))

        digest = body_sha256(50_000)
        seen = Requests(server)
        with AnyTLSClient(server.outbound()) as client:
            threads = [threading.Thread(target=work) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert errors == []
            wait_until(lambda: seen.streams == 160, what="160 streams in the log")
            assert seen.sessions <= 16


class TestLongTransfers:
    @pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
    def test_down(self, client: AnyTLSClient, site: Site, tls_site: Site, tls: bool) -> None:
        origin = tls_site if tls else site
        digest = hashlib.sha256()
        buffer = bytearray(256 * 1024)
        view = memoryview(buffer)
        with contextlib.ExitStack() as stack:
            sock: Any = stack.enter_context(client.create_connection(address_of(origin), timeout=20))
            if tls:
                sock = stack.enter_context(sock.start_tls(tls_site.ssl_context(), "localhost"))
            sock.sendall(
                f"GET /bytes/{LONG} HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n".encode()
            )
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(1000)
            body = head.split(b"\r\n\r\n", 1)[1]
            digest.update(body)
            left = LONG - len(body)
            while left and (count := sock.recv_into(view[: min(left, len(view))])):
                digest.update(view[:count])
                left -= count
        assert left == 0
        assert digest.hexdigest() == body_sha256(LONG)

    def test_up(self, client: AnyTLSClient, site: Site) -> None:
        digest = hashlib.sha256()
        with client.create_connection(address_of(site), timeout=20) as sock:
            sock.sendall(
                f"POST /echo-hash HTTP/1.1\r\nHost: site.test\r\nContent-Length: {LONG}\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            for block in body_blocks(LONG):
                digest.update(block)
                sock.sendall(block)
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
        assert json.loads(answer.split(b"\r\n\r\n", 1)[1]) == {"length": LONG, "sha256": digest.hexdigest()}
        assert client.stats().bytes_sent > LONG


class TestHTTPClient:
    def test_http(self, client: AnyTLSClient, server: SingBoxServer, site: Site) -> None:
        seen = Requests(server)
        connection = http.client.HTTPConnection("site.test")
        connection.sock = client.create_connection(address_of(site), timeout=5)
        with contextlib.closing(connection):
            for path in ("/", "/stream", "/close"):
                connection.request("GET", path)
                response = connection.getresponse()
                assert response.status == 200
                assert len(response.read()) in (len(GREETING), 5000)
        wait_until(lambda: (seen.sessions, seen.streams) == (1, 1))

    def test_https(self, client: AnyTLSClient, tls_site: Site) -> None:
        context = anytls_http.create_default_context()
        context.load_verify_locations(cadata=tls_site.ca_pem)
        connection = http.client.HTTPSConnection("localhost", context=context)
        connection.sock = context.wrap_socket(
            client.create_connection(address_of(tls_site), timeout=5), server_hostname="localhost"
        )
        with contextlib.closing(connection):
            for _ in range(2):
                connection.request("GET", "/bytes/1000000")
                body = connection.getresponse().read()
                assert hashlib.sha256(body).hexdigest() == body_sha256(1_000_000)


class TestPassword:
    def test_wrong(self, server: SingBoxServer, site: Site) -> None:
        with AnyTLSClient(server.outbound(password="wrong")) as client:
            with (
                client.create_connection(address_of(site), timeout=5) as sock,
                pytest.raises(AuthenticationError, match="wrong password"),
            ):
                sock.sendall(b"user data")
                sock.recv(1)
            with pytest.raises(AuthenticationError):
                client.create_connection(address_of(site), timeout=5, wait_open=True)
            assert client.stats().idle == 0


class RecordingRelay(Relay):
    """Keeps what each client sends; :meth:`records` cuts it into TLS records."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(target)
        self._sent: dict[socket.socket, bytearray] = {}

    def _read(self, way: Any) -> None:
        before = len(way.waiting)
        super()._read(way)
        if way.upwards and len(way.waiting) > before:
            self._sent.setdefault(way.source, bytearray()).extend(way.waiting[-1][1])

    def records(self, number: int) -> list[int]:
        """Return the plaintext sizes of the application data records of a connection, in order.

        The first in TLS 1.3 is the client's Finished, which looks the same from outside; it is left out.
        """
        data = bytes(list(self._sent.values())[number])
        sizes = []
        while len(data) >= 5:
            kind, size = data[0], int.from_bytes(data[3:5], "big")
            if kind == 23 and len(data) >= 5 + size:
                sizes.append(size - 1 - 16)  # the inner type, and the tag of AES-GCM or ChaCha20
            data = data[5 + size :]
        return sizes[1:]


def test_a_padding_scheme_that_the_server_pushes_is_used_by_the_next_session(site: Site) -> None:
    scheme = ["stop=4", "0=50-50", "1=300-300", "2=200-200,c,444-444", "3=150-150,c,150-150"]
    raw = "\n".join(scheme)
    with (
        SingBoxServer(padding_scheme=scheme) as server,
        RecordingRelay(("127.0.0.1", server.port)) as relay,
        AnyTLSClient(relay.outbound(server.outbound())) as client,
    ):
        with client.create_connection(address_of(site), timeout=5) as first:
            first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert first.recv(8) == b"HTTP/1.1"
            assert client._pool.state.scheme.md5 == hashlib.md5(raw.encode()).hexdigest()
            with client.create_connection(address_of(site), timeout=5) as second:
                second.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert second.recv(8) == b"HTTP/1.1"
                second.sendall(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 200 + b"\r\nHost: x\r\n\r\n")
                while b"hello" not in second.recv(1000):
                    pass
                second.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                wait_until(lambda: len(relay.records(1)) >= 6)
        default = relay.records(0)
        assert default[0] == 34 + 30
        assert 100 <= default[1] < 400
        assert 400 <= default[2] < 500
        # The authentication; Settings, SYN and address; a short packet 2, which the check mark ends; a packet 3
        # of 244 bytes, which goes on after it; then no padding.
        assert relay.records(1)[:6] == [34 + 50, 300, 200, 150, 150, 7 + 27]


class TestFailingServer:
    @pytest.fixture
    def own(self) -> Iterator[SingBoxServer]:
        with SingBoxServer() as running:
            yield running

    def test_killed_in_mid_download_and_restarted(self, own: SingBoxServer, site: Site) -> None:
        with AnyTLSClient(own.outbound()) as client:
            with client.create_connection(address_of(site), timeout=5) as sock:
                sock.sendall(b"GET /stream?count=1000&pause=0.01 HTTP/1.1\r\nHost: site.test\r\n\r\n")
                assert sock.recv(10) == b"HTTP/1.1 2"
                own.kill()
                begin = time.monotonic()
                with pytest.raises(SessionClosed):
                    while sock.recv(65536):
                        pass
                assert time.monotonic() - begin < 1 + STARVED
            own.start()
            with client.create_connection(address_of(site), timeout=5) as sock:
                assert get(sock).endswith(GREETING)
            assert client.stats().closed["peer"] == 1

    def test_restarted_behind_idle_sessions(self, own: SingBoxServer, site: Site) -> None:
        with AnyTLSClient(own.outbound()) as client:
            for _ in range(2):
                with client.create_connection(address_of(site), timeout=5) as sock:
                    assert get(sock).endswith(GREETING)
                own.restart()
            with client.create_connection(address_of(site), timeout=5) as sock:
                assert get(sock).endswith(GREETING)

    def test_stopped_by_a_signal(self, own: SingBoxServer, site: Site) -> None:
        with AnyTLSClient(own.outbound()) as client:
            with client.create_connection(address_of(site), timeout=0.4, wait_open=True) as sock:
                own.pause()
                begin = time.monotonic()
                with pytest.raises(AnyTLSTimeout):
                    get(sock)
                assert 0.39 < time.monotonic() - begin < 0.4 + LATE
                assert not sock.is_readable()
            # A new session doesn't come about either.
            begin = time.monotonic()
            with pytest.raises(TimeoutError), client.create_connection(address_of(site), timeout=0.4) as sock:
                get(sock)
            assert time.monotonic() - begin < 0.8 + 2 * LATE
            own.resume()
            with client.create_connection(address_of(site), timeout=5) as sock:
                assert get(sock).endswith(GREETING)

    def test_a_stopped_one_is_found_out_by_the_heartbeat(self, own: SingBoxServer, site: Site) -> None:
        with AnyTLSClient(own.outbound(heartbeat="200ms")) as client:
            with client.create_connection(address_of(site), timeout=5) as sock:
                assert get(sock).endswith(GREETING)
            own.pause()
            begin = time.monotonic()
            wait_until(lambda: client.stats().closed["heartbeat_timeout"] == 1, 5, "the heartbeat's verdict")
            assert time.monotonic() - begin < 0.2 + 3 + 0.3 + STARVED
            own.resume()


def test_tls_to_the_target_is_end_to_end(client: AnyTLSClient, tls_site: Site) -> None:
    with client.create_connection(address_of(tls_site), timeout=5) as plain:
        assert isinstance(plain, AnyTLSSocket)
        with pytest.raises(ssl.SSLCertVerificationError):
            plain.start_tls(ssl.create_default_context(), "localhost")
    with (
        client.create_connection(address_of(tls_site), timeout=5) as plain,
        plain.start_tls(tls_site.ssl_context(["http/1.1"]), "localhost") as sock,
    ):
        assert sock.selected_alpn_protocol() == "http/1.1"
        assert get(sock).endswith(GREETING)
