"""TLS to the target inside the tunnel: AnyTLSTLSSocket, and the standard library on top of it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest

import anytls_http
from anytls_http import (
    AnyTLSClient,
    AnyTLSSocket,
    AnyTLSTimeout,
    AnyTLSTLSSocket,
    SessionClosed,
    StreamRefused,
)
from anytls_http.net import tls as tls_module
from anytls_http.protocol.frames import Command, encode_frame
from anytls_http.sockets import tls as tls_socket_module
from anytls_http.sockets.tls import TLS_WRITE_SIZE
from anytls_http.testing import AnyTLSServer, Site, make_certificate
from anytls_http.testing.site import GREETING, body_bytes
from anytls_http.tls_context import TunnelSSLContext
from tests.sockets.targets import Background, Target, get, read_exactly
from tests.support.buffers import OVERFLOW
from tests.support.timing import takes, wait_until

CERTIFICATE = make_certificate("target.test", "localhost", "127.0.0.1")


def server_side(far: socket.socket, maximum: ssl.TLSVersion | None = None, tickets: int = 2) -> ssl.SSLSocket:
    """Do the target's side of the handshake; ``far`` is consumed."""
    context = CERTIFICATE.server_context(["http/1.1"])
    context.num_tickets = tickets
    if maximum is not None:
        context.maximum_version = maximum
    return context.wrap_socket(far, server_side=True)


Pair = tuple[AnyTLSTLSSocket, ssl.SSLSocket]


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2], ids=["1.3", "1.2"])
def pair(client: AnyTLSClient, target: Target, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A TLS stream and its target's end."""
    with client.create_connection(target.address, timeout=5) as plain:
        far = Background(lambda: server_side(target.accept(), request.param))
        sock = plain.start_tls(CERTIFICATE.client_context(["http/1.1"]), "target.test")
        # In TLS 1.3 the client's last flight leaves with its first data.
        sock.sendall(b"!")
        with sock, far.result() as end:
            end.settimeout(5)
            assert end.recv(1) == b"!"
            yield sock, end


class TestStream:
    def test_both_ways(self, pair: Pair) -> None:
        sock, far = pair
        body = hashlib.sha256(b"x").digest() * 50_000
        sender = Background(sock.sendall, body)
        assert read_exactly(far, len(body)) == body
        sender.result()
        sender = Background(far.sendall, body)
        assert read_exactly(sock, len(body)) == body
        sender.result()

    def test_each_step_of_a_large_body_is_one_write_of_the_session(
        self, pair: Pair, server: AnyTLSServer
    ) -> None:
        sock, far = pair
        while not sock._inner._session._protocol.padding_is_over:
            sock.sendall(b"x")
            assert far.recv(1) == b"x"
        before = len(server.sessions[0].record_sizes)
        body = bytes(3 * TLS_WRITE_SIZE)
        sender = Background(sock.sendall, body)
        assert read_exactly(far, len(body)) == body
        sender.result()
        assert len(server.sessions[0].record_sizes) - before == 3 * 7

    def test_what_is_at_hand_is_handed_out_in_one_piece(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tls_module, "FEED_SIZE", 16384)
        monkeypatch.setattr(tls_socket_module, "TLS_READ_SIZE", 16384)
        sock, far = pair
        body = hashlib.sha256(b"x").digest() * 1600
        far.sendall(body)
        wait_until(lambda: sock._inner._session._tls.unread() > len(body))
        assert sock.recv(65536) == body

    def test_data_before_an_alert_is_handed_out(self, pair: Pair, server: AnyTLSServer) -> None:
        sock, far = pair
        body = bytes(50_000)
        far.sendall(body)
        wait_until(lambda: sock._inner._session._tls.unread() > len(body))
        (session,) = server.live_sessions
        session.send_raw(encode_frame(Command.ALERT, 0, b"enough"))
        assert read_exactly(sock, len(body)) == body
        with pytest.raises(SessionClosed, match="enough"):
            sock.recv(1)

    def test_into_a_buffer(self, pair: Pair) -> None:
        sock, far = pair
        far.sendall(b"abcdef")
        buffer = bytearray(10)
        assert sock.recv_into(buffer, 4) == 4
        assert sock.recv_into(memoryview(buffer)[4:]) == 2
        assert buffer == b"abcdef" + bytes(4)

    def test_facts(self, pair: Pair, target: Target) -> None:
        sock, far = pair
        assert sock.version() == far.version()
        assert sock.cipher() == far.cipher()
        assert sock.selected_alpn_protocol() == "http/1.1"
        assert ("DNS", "target.test") in sock.getpeercert()["subjectAltName"]
        assert sock.getpeercert(True) == ssl.PEM_cert_to_DER_cert(CERTIFICATE.pem)
        assert sock.getpeername() == target.address
        assert sock.getsockname()[0] == "127.0.0.1"
        assert sock.gettimeout() == 5
        assert str(sock.version()) in repr(sock)

    def test_read_timeout(self, pair: Pair) -> None:
        sock, far = pair
        sock.settimeout(0.15)
        with takes(0.15), pytest.raises(AnyTLSTimeout):
            sock.recv(1)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        far.sendall(b"x")
        wait_until(sock.is_readable)
        assert sock.recv(10) == b"x"

    def test_write_timeout(self, pair: Pair) -> None:
        sock, _ = pair
        sock.settimeout(0.15)
        with takes(0.15), pytest.raises(AnyTLSTimeout):
            sock.sendall(bytes(OVERFLOW))
        assert sock.is_readable()
        with pytest.raises(SessionClosed, match="a write on it timed out"):
            sock.recv(1)

    def test_a_reader_and_a_writer_at_once(self, pair: Pair) -> None:
        sock, far = pair
        body = bytes(4 << 20)

        def echo() -> None:
            left = len(body)
            while left:
                data = far.recv(65536)
                far.sendall(data)
                left -= len(data)

        echoes = Background(echo)
        writer = Background(sock.sendall, body)
        reader = Background(read_exactly, sock, len(body))
        assert len(reader.result(20)) == len(body)
        writer.result()
        echoes.result()

    def test_the_targets_end(self, pair: Pair) -> None:
        sock, far = pair
        far.sendall(b"last")
        far.close()
        assert sock.recv(10) == b"last"
        assert sock.recv(10) == b""

    def test_the_end_of_who_can_not_be_answered(self, pair: Pair) -> None:
        """As when the target asks for new keys, and ends the stream before it has them."""
        sock, far = pair
        far.close()
        wait_until(sock._inner.is_readable)
        sock._ssl_object.write(b"an answer that reading has produced")
        assert sock.recv(10) == b""

    def test_unwrap_gives_the_plain_stream(self, pair: Pair) -> None:
        sock, far = pair
        other = Background(far.unwrap)
        plain = sock.unwrap()
        assert isinstance(plain, AnyTLSSocket)
        far_plain = other.result()
        far_plain.settimeout(5)
        plain.sendall(b"in clear")
        assert read_exactly(far_plain, 8) == b"in clear"
        plain.close()
        far_plain.close()

    def test_closing_gives_the_session_back(self, pair: Pair, client: AnyTLSClient) -> None:
        sock, _ = pair
        sock.close()
        assert client.stats().idle == 1
        with pytest.raises(OSError, match="closed"):
            sock.recv(1)
        assert sock.fileno() == -1

    @pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
    def test_shutdown_wakes_the_reader(self, pair: Pair, how: int) -> None:
        sock, _ = pair
        sock.settimeout(None)
        reader = Background(sock.recv, 1)
        time.sleep(0.05)
        assert reader.running
        sock.shutdown(how)
        assert reader.result(1) == b""
        assert sock.recv(1) == b""


class TestReadable:
    def test_data_and_end(self, pair: Pair) -> None:
        sock, far = pair
        assert not sock.is_readable()
        far.sendall(b"x")
        wait_until(sock.is_readable)
        assert sock.is_readable()
        assert sock.recv(10) == b"x"
        assert not sock.is_readable()
        far.close()
        wait_until(sock.is_readable)
        assert sock.recv(1) == b""

    def test_who_speaks_first_has_heard_the_end_of_the_handshake(
        self, client: AnyTLSClient, target: Target
    ) -> None:
        with client.create_connection(target.address, timeout=5) as plain:
            far = Background(lambda: server_side(target.accept()))
            with plain.start_tls(CERTIFICATE.client_context(), "target.test") as sock:
                wait_until(lambda: sock.is_readable() or not far.running)
                with far.result() as end:
                    end.sendall(b"220 mail.test")
                    wait_until(sock.is_readable)
                    assert sock.recv(20) == b"220 mail.test"

    def test_an_answer_that_can_not_leave_keeps_nothing_from_being_read(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def blocked(self: AnyTLSTLSSocket, deadline: float | None) -> None:
            raise AnyTLSTimeout("the connection takes nothing")

        sock, far = pair
        sock._ssl_object.write(b"as OpenSSL does when the target asks for new keys")
        monkeypatch.setattr(AnyTLSTLSSocket, "_flush", blocked)
        far.sendall(b"x")
        wait_until(sock.is_readable)
        assert sock.recv(10) == b"x"
        far.sendall(b"y")
        wait_until(sock._inner.is_readable)
        sock.settimeout(0)
        assert sock.recv(10) == b"y"

    def test_a_late_session_ticket_is_nothing(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        with client.create_connection(target.address, timeout=5) as plain:
            # The tickets come after the handshake, as the first thing on the stream.
            far = Background(lambda: server_side(target.accept(), tickets=4))
            with plain.start_tls(CERTIFICATE.client_context(), "target.test") as sock:
                sock.sendall(b"!")
                with far.result() as end:
                    assert end.recv(1) == b"!"
                    # Wait until they are here, by asking the layer below.
                    wait_until(lambda: server.sessions[0].streams[0].bytes_down > 1500)
                    wait_until(plain.is_readable)
                    assert not sock.is_readable()
                    end.sendall(b"x")
                    wait_until(sock.is_readable)
                    assert sock.recv(10) == b"x"

    def test_a_dead_session(self, pair: Pair, server: AnyTLSServer) -> None:
        sock, _ = pair
        server.close_sessions()
        wait_until(sock.is_readable)


class TestHandshake:
    def test_a_certificate_that_is_not_trusted(self, client: AnyTLSClient, target: Target) -> None:
        def refused() -> str:
            try:
                server_side(target.accept())
            except ssl.SSLError as exc:
                return str(exc.reason)
            return "accepted"

        with client.create_connection(target.address, timeout=5) as sock:
            far = Background(refused)
            with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
                sock.start_tls(ssl.create_default_context(), "target.test")
            # The target was told why.
            assert "UNKNOWN_CA" in far.result()

    def test_a_wrong_name(self, client: AnyTLSClient, target: Target) -> None:
        with client.create_connection(target.address, timeout=5) as sock:
            far = Background(lambda: server_side(target.accept()))
            with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.test"):
                sock.start_tls(CERTIFICATE.client_context(), "other.test")
            far.error()

    def test_no_tls_at_the_target(self, client: AnyTLSClient, target: Target) -> None:
        with client.create_connection(target.address, timeout=5) as sock:
            far = Background(lambda: target.accept().sendall(b"220 hello, I speak SMTP\r\n"))
            with pytest.raises(ssl.SSLError):
                sock.start_tls(CERTIFICATE.client_context(), "target.test")
            far.result()

    def test_a_refused_target(self, client: AnyTLSClient, server: AnyTLSServer) -> None:
        server.faults.refuse = lambda host, port: "no"
        with (
            client.create_connection(("bad.test", 443), timeout=5) as sock,
            pytest.raises(StreamRefused, match=r"bad\.test:443.*no"),
        ):
            sock.start_tls(CERTIFICATE.client_context(), "bad.test")

    def test_a_mute_target(self, client: AnyTLSClient, target: Target) -> None:
        with client.create_connection(target.address, timeout=0.2) as sock:
            with takes(0.2), pytest.raises(AnyTLSTimeout):
                sock.start_tls(CERTIFICATE.client_context(), "target.test")
            target.accept()

    def test_the_target_hangs_up(self, client: AnyTLSClient, target: Target) -> None:
        with client.create_connection(target.address, timeout=5) as sock:
            far = Background(lambda: target.accept().close())
            with pytest.raises(OSError):
                sock.start_tls(CERTIFICATE.client_context(), "target.test")
            far.result()


@pytest.fixture
def tls_site() -> Iterator[Site]:
    with Site(tls=True, names=["site.test"]) as running:
        yield running


def trusting(site: Site) -> TunnelSSLContext:
    context = anytls_http.create_default_context()
    context.load_verify_locations(cadata=site.ca_pem)
    return context


class TestContext:
    def test_verifies_by_default(self, client: AnyTLSClient, tls_site: Site) -> None:
        context = anytls_http.create_default_context()
        assert context.check_hostname
        assert context.verify_mode == ssl.CERT_REQUIRED
        with (
            client.create_connection(("127.0.0.1", tls_site.port), timeout=5) as sock,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(sock, server_hostname="localhost")

    def test_wraps_a_tunnel_socket_inside_the_tunnel(
        self, client: AnyTLSClient, server: AnyTLSServer, tls_site: Site
    ) -> None:
        server.routes["site.test", 443] = ("127.0.0.1", tls_site.port)
        with (
            client.create_connection(("site.test", 443), timeout=5) as plain,
            trusting(tls_site).wrap_socket(plain, server_hostname="site.test") as sock,
        ):
            assert isinstance(sock, AnyTLSTLSSocket)
            assert get(sock).endswith(GREETING)
        assert client.stats().idle == 1

    def test_wraps_any_other_as_usual(self, tls_site: Site) -> None:
        with (
            socket.create_connection(("127.0.0.1", tls_site.port), timeout=5) as plain,
            trusting(tls_site).wrap_socket(plain, server_hostname="localhost") as sock,
        ):
            assert isinstance(sock, ssl.SSLSocket)
            assert get(sock).endswith(GREETING)

    @pytest.mark.parametrize(
        "option",
        [{"server_side": True}, {"do_handshake_on_connect": False}],
        ids=["server", "late handshake"],
    )
    def test_what_it_cant_do(self, client: AnyTLSClient, target: Target, option: dict[str, Any]) -> None:
        with client.create_connection(target.address, timeout=5) as sock, pytest.raises(ValueError):
            anytls_http.create_default_context().wrap_socket(sock, **option)

    def test_a_plain_context_is_stopped_by_the_missing_descriptor(
        self, client: AnyTLSClient, target: Target
    ) -> None:
        with (
            client.create_connection(target.address, timeout=5) as sock,
            pytest.raises((OSError, AttributeError, TypeError, NotImplementedError)),
        ):
            ssl.create_default_context().wrap_socket(sock, server_hostname="target.test")  # type: ignore[arg-type]


class TestHTTPClient:
    def test_http_over_one_kept_connection(
        self, client: AnyTLSClient, server: AnyTLSServer, site: Site
    ) -> None:
        connection = http.client.HTTPConnection("site.test")
        connection.sock = client.create_connection(("127.0.0.1", site.port), timeout=5)
        with contextlib.closing(connection):
            for _ in range(3):
                connection.request("GET", "/bytes/200000")
                response = connection.getresponse()
                assert response.status == 200
                assert response.read() == body_bytes(200_000)
            connection.request("POST", "/echo-hash", iter([b"abc", b"def"]), {"Content-Type": "text/plain"})
            answer = json.loads(connection.getresponse().read())
            assert answer == {"length": 6, "sha256": hashlib.sha256(b"abcdef").hexdigest()}
        assert (server.streams_opened, site.connections) == (1, 1)

    def test_a_body_that_outlives_its_connection(self, client: AnyTLSClient, site: Site) -> None:
        connection = http.client.HTTPConnection("site.test")
        connection.sock = client.create_connection(("127.0.0.1", site.port), timeout=5)
        connection.request("GET", "/close")
        response = connection.getresponse()
        assert connection.sock is None  # http.client has closed it already
        assert response.read() == GREETING
        wait_until(lambda: client.stats().idle == 1)

    def test_https(self, client: AnyTLSClient, server: AnyTLSServer, tls_site: Site) -> None:
        server.routes["site.test", 443] = ("127.0.0.1", tls_site.port)
        context = trusting(tls_site)
        connection = http.client.HTTPSConnection("site.test", context=context)
        connection.sock = context.wrap_socket(
            client.create_connection(("site.test", 443), timeout=5), server_hostname="site.test"
        )
        with contextlib.closing(connection):
            connection.request("GET", "/bytes/300000")
            assert connection.getresponse().read() == body_bytes(300_000)
        assert server.sessions[0].streams[0].target == ("site.test", 443)

    def test_https_that_connects_by_itself(
        self, client: AnyTLSClient, server: AnyTLSServer, tls_site: Site
    ) -> None:
        server.routes["site.test", 443] = ("127.0.0.1", tls_site.port)
        connection = http.client.HTTPSConnection("site.test", timeout=5, context=trusting(tls_site))
        connection._create_connection = client.create_connection  # type: ignore[attr-defined]
        with contextlib.closing(connection):
            connection.request("GET", "/close")
            response = connection.getresponse()
            assert response.read() == GREETING
        assert client.stats().idle == 1


class SMTPServer:
    """Speaks just enough SMTP to take one mail, before and after STARTTLS; on a thread."""

    def __init__(self, target: Target) -> None:
        self.mail = b""
        self._thread = Background(lambda: self._run(target.accept()))

    def result(self) -> bytes:
        self._thread.result()
        return self.mail

    def _run(self, sock: socket.socket) -> None:
        sock.sendall(b"220 mail.test ready\r\n")
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(sock.makefile("rb"))
            while line := file.readline():
                verb = line.split()[0].upper()
                if verb == b"EHLO":
                    secure = isinstance(sock, ssl.SSLSocket)
                    sock.sendall(b"250 mail.test\r\n" if secure else b"250-mail.test\r\n250 STARTTLS\r\n")
                elif verb == b"STARTTLS":
                    sock.sendall(b"220 go on\r\n")
                    sock = stack.enter_context(server_side(sock))
                    file = stack.enter_context(sock.makefile("rb"))
                elif verb == b"DATA":
                    sock.sendall(b"354 go on\r\n")
                    while (line := file.readline()) != b".\r\n":
                        self.mail += line
                    sock.sendall(b"250 taken\r\n")
                elif verb == b"QUIT":
                    sock.sendall(b"221 bye\r\n")
                    return
                else:
                    sock.sendall(b"250 fine\r\n")


def test_smtplib_with_starttls(client: AnyTLSClient, target: Target) -> None:
    class TunnelSMTP(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> Any:
            return client.create_connection(target.address, timeout)

    context = anytls_http.create_default_context()
    context.load_verify_locations(cadata=CERTIFICATE.ca_pem)
    server = SMTPServer(target)
    with TunnelSMTP("target.test", 25, local_hostname="me.test", timeout=5) as smtp:
        smtp.starttls(context=context)
        assert isinstance(smtp.sock, AnyTLSTLSSocket)
        smtp.sendmail("a@me.test", ["b@target.test"], "Subject: hi\r\n\r\nthrough the tunnel\r\n")
    assert server.result().endswith(b"through the tunnel\r\n")
    assert client.stats().idle == 1
