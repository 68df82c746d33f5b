"""The test server against a client that shares no code with it; and the same client against the real sing-box."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from anytls_http.testing import AnyTLSServer, Certificate, Site, make_authority, make_certificate
from anytls_http.testing.site import GREETING, body_bytes
from tests.support import rawclient as raw
from tests.support.rawclient import RawClient, frame
from tests.support.singbox import SingBoxServer, free_port, skip_without_singbox
from tests.support.timing import STARVED


class ServerLike(Protocol):
    """What both servers have."""

    def outbound(self, **extra: Any) -> dict[str, Any]: ...


@pytest.fixture(autouse=True)
def no_leftover_threads() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as running:
        yield running


@pytest.fixture(params=["embedded", pytest.param("sing-box", marks=skip_without_singbox)])
def either_server(request: pytest.FixtureRequest) -> Iterator[ServerLike]:
    """The embedded server, then the real one: what a test asks of this holds for both."""
    if request.param == "embedded":
        with AnyTLSServer() as embedded:
            yield embedded
    else:
        with SingBoxServer() as real:
            yield real


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


def request_for(path: str, close: bool = True) -> bytes:
    connection = "close" if close else "keep-alive"
    return f"GET {path} HTTP/1.1\r\nHost: site.test\r\nConnection: {connection}\r\n\r\n".encode()


class TestBothServersAlike:
    def test_request_and_answer(self, either_server: ServerLike, site: Site) -> None:
        with RawClient(either_server.outbound()) as client:
            client.begin()
            client.open(1, raw.ipv4("127.0.0.1", site.port), request_for("/"))
            assert client.wait_for(raw.SERVER_SETTINGS).data == b"v=2"
            assert client.wait_for(raw.SYNACK, 1).data == b""
            assert client.read_stream(1).endswith(GREETING)

    def test_default_scheme_is_known_by_its_md5(self, either_server: ServerLike) -> None:
        with RawClient(either_server.outbound()) as client:
            client.begin()
            scheme = client.wait_for(raw.UPDATE).data
        with RawClient(either_server.outbound()) as client:
            client.begin(padding_md5=hashlib.md5(scheme).hexdigest())
            got = client.next_frame()
            assert got is not None
            assert got.command == raw.SERVER_SETTINGS  # and no update before it

    def test_heartbeat_before_any_stream(self, either_server: ServerLike) -> None:
        with RawClient(either_server.outbound()) as client:
            client.begin()
            client.send(frame(raw.HEART_REQUEST))
            client.wait_for(raw.HEART_RESPONSE)

    def test_streams_one_after_another_with_padding_between(
        self, either_server: ServerLike, site: Site
    ) -> None:
        with RawClient(either_server.outbound()) as client:
            client.begin()
            for stream in range(1, 6):
                client.send(frame(raw.WASTE, 0, bytes(100)))
                client.open(stream, raw.name("localhost", site.port), request_for("/bytes/200000"))
                assert client.read_stream(stream).endswith(body_bytes(200000))
        assert site.requests == 5

    def test_two_streams_at_once(self, either_server: ServerLike, site: Site) -> None:
        with RawClient(either_server.outbound()) as client:
            client.begin()
            client.open(1, raw.ipv4("127.0.0.1", site.port))
            client.wait_for(raw.SYNACK, 1)
            client.open(2, raw.ipv4("127.0.0.1", site.port), request_for("/"))
            assert client.read_stream(2).endswith(GREETING)
            client.send(frame(raw.PSH, 1, request_for("/")))
            assert client.read_stream(1).endswith(GREETING)

    def test_refused_target(self, either_server: ServerLike) -> None:
        port = free_port()
        with RawClient(either_server.outbound()) as client:
            client.begin()
            client.open(1, raw.ipv4("127.0.0.1", port))
            text = client.wait_for(raw.SYNACK, 1).data.decode()
            assert f"open connection to 127.0.0.1:{port} using outbound/direct[0]: dial tcp" in text
            assert text.endswith("connect: connection refused")
            client.wait_for(raw.FIN, 1)
            client.send(frame(raw.HEART_REQUEST))  # the session lives on
            client.wait_for(raw.HEART_RESPONSE)

    def test_wrong_password_ends_the_connection_without_a_word(self, either_server: ServerLike) -> None:
        with RawClient(either_server.outbound()) as client:
            client.authenticate("not this one")
            client.send(client.settings())
            assert client.has_ended()

    def test_authentication_in_two_records_is_refused(self, either_server: ServerLike) -> None:
        outbound = either_server.outbound()
        with RawClient(outbound) as client:
            digest = hashlib.sha256(outbound["password"].encode()).digest()
            client.send(digest[:20])
            assert client.has_ended()  # it doesn't even wait for the rest

    def test_syn_before_settings_is_an_alert(self, either_server: ServerLike) -> None:
        with RawClient(either_server.outbound()) as client:
            client.authenticate()
            client.open(1, raw.ipv4("127.0.0.1", 1))
            assert b"settings" in client.wait_for(raw.ALERT).data
            assert client.has_ended()

    def test_no_heartbeat_answer_while_a_target_takes_no_data(self, either_server: ServerLike) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as deaf,
            RawClient(either_server.outbound(), 0.5) as client,
        ):
            client.begin()
            client.open(1, raw.ipv4("127.0.0.1", deaf.getsockname()[1]))
            client.wait_for(raw.SYNACK, 1)
            with pytest.raises(TimeoutError):
                for _ in range(2000):
                    client.send(frame(raw.PSH, 1, bytes(60_000)))

    def test_a_client_that_speaks_version_1_gets_no_synack(
        self, either_server: ServerLike, site: Site
    ) -> None:
        with RawClient(either_server.outbound()) as client:
            client.begin(version=1)
            client.open(1, raw.ipv4("127.0.0.1", site.port), request_for("/"))
            commands = []
            while (got := client.next_frame()) is not None and got.command != raw.FIN:
                commands.append(got.command)
            assert commands[0] == raw.UPDATE
            assert set(commands[1:]) == {raw.PSH}


class TestServer:
    def test_ipv6_target(self, server: AnyTLSServer) -> None:
        with Site(host="::1") as site, RawClient(server.outbound()) as client:
            client.begin()
            client.open(1, raw.ipv6("::1", site.port), request_for("/"))
            assert client.read_stream(1).endswith(GREETING)
            assert server.sessions[0].streams[0].target == ("::1", site.port)

    def test_routes_stand_for_name_resolution(self, server: AnyTLSServer, site: Site) -> None:
        server.routes["example.org", 80] = ("127.0.0.1", site.port)
        with RawClient(server.outbound()) as client:
            client.begin()
            client.open(1, raw.name("example.org", 80), request_for("/"))
            assert client.read_stream(1).endswith(GREETING)

    def test_address_in_pieces(self, server: AnyTLSServer, site: Site) -> None:
        address = raw.name("localhost", site.port)
        with RawClient(server.outbound()) as client:
            client.begin()
            client.send(frame(raw.SYN, 1) + b"".join(frame(raw.PSH, 1, bytes([byte])) for byte in address))
            client.send(frame(raw.PSH, 1, request_for("/")))
            assert client.read_stream(1).endswith(GREETING)

    def test_nonsense_ends_the_session(self, server: AnyTLSServer) -> None:
        with RawClient(server.outbound()) as client:
            client.begin()
            client.open(1, b"\x07nonsense")
            assert client.has_ended()

    def test_version_1(self, site: Site) -> None:
        with AnyTLSServer(version=1) as server, RawClient(server.outbound()) as client:
            client.begin(padding_md5=hashlib.md5(server.scheme).hexdigest())
            client.send(frame(raw.HEART_REQUEST))
            client.open(1, raw.ipv4("127.0.0.1", site.port), request_for("/"))
            got = client.next_frame()
            assert got is not None
            assert got.command == raw.PSH
            assert server.heartbeats_received == 1

    def test_own_scheme_is_pushed(self) -> None:
        lines = ["stop=2", "0=10-10", "1=50-50"]
        with AnyTLSServer(scheme=lines) as server, RawClient(server.outbound()) as client:
            client.begin()
            assert client.wait_for(raw.UPDATE).data == b"stop=2\n0=10-10\n1=50-50"
            server.push_scheme("stop=3")
            assert client.wait_for(raw.UPDATE).data == b"stop=3"

    def test_what_is_recorded(self, server: AnyTLSServer, site: Site) -> None:
        with RawClient(server.outbound()) as client:
            client.authenticate(padding=66)
            client.send(client.settings() + frame(raw.WASTE, 0, bytes(300)))
            client.open(1, raw.ipv4("127.0.0.1", site.port), request_for("/"))
            client.read_stream(1)
            server.wait_for(lambda: server.sessions[0].streams[0].closed)
            session = server.sessions[0]
            stream = session.streams[0]
            first = len(client.settings()) + 307
            assert session.record_sizes == [100, first, 7 + 14 + 7 + len(request_for("/"))]
            assert session.settings == {"v": "2", "client": "raw/1", "padding-md5": "0" * 32}
            assert session.frames[:3] == [(4, 0, first - 314), (0, 0, 300), (1, 1, 0)]
            assert session.server_name == "anytls.test"
            assert session.bytes_received == sum(session.record_sizes)
            assert stream.target == ("127.0.0.1", site.port)
            assert stream.bytes_up == len(request_for("/"))
            assert stream.bytes_down > len(GREETING)
            assert (server.sessions_accepted, server.streams_opened, server.auth_failures) == (1, 1, 0)
        server.wait_for(lambda: not server.live_sessions)

    def test_wrong_passwords_are_counted(self, server: AnyTLSServer) -> None:
        with RawClient(server.outbound()) as client:
            client.authenticate("not this one")
            assert client.has_ended()
        server.wait_for(lambda: server.auth_failures == 1)
        assert server.sessions == []
        assert server.unauthenticated_bytes == 64

    def test_a_client_that_distrusts_the_certificate_is_recorded(self, server: AnyTLSServer) -> None:
        outbound = server.outbound(tls={"certificate": make_certificate().ca_pem})
        with pytest.raises(ssl.SSLCertVerificationError):
            RawClient(outbound)
        server.wait_for(lambda: server.connections[0].closed)
        assert server.connections[0].handshake_error
        assert (server.unauthenticated_bytes, server.auth_failures) == (0, 0)

    def test_tls_versions(self) -> None:
        with (
            AnyTLSServer(maximum_tls=ssl.TLSVersion.TLSv1_2) as server,
            RawClient(server.outbound()) as client,
        ):
            client.begin()
            client.wait_for(raw.SERVER_SETTINGS)
            assert server.sessions[0].tls_version == "TLSv1.2"

    def test_closed_and_started_again_on_the_same_port(self, site: Site) -> None:
        server = AnyTLSServer()
        for count in (1, 2):
            with server, RawClient(server.outbound()) as client:
                client.begin()
                client.wait_for(raw.SERVER_SETTINGS)
                assert server.sessions_accepted == count

    def test_stop_listening_keeps_sessions(self, server: AnyTLSServer) -> None:
        with RawClient(server.outbound()) as client:
            client.begin()
            client.wait_for(raw.SERVER_SETTINGS)
            server.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                RawClient(server.outbound())
            client.send(frame(raw.HEART_REQUEST))
            client.wait_for(raw.HEART_RESPONSE)

    def test_outbound_takes_extra_fields(self, server: AnyTLSServer) -> None:
        outbound = server.outbound(heartbeat="1s", tls={"server_name": None, "insecure": True}, password=None)
        assert outbound["heartbeat"] == "1s"
        assert "password" not in outbound
        assert outbound["tls"] == {
            "enabled": True,
            "insecure": True,
            "certificate": server.certificate.ca_pem,
        }

    def test_wait_for_tells_the_state(self, server: AnyTLSServer) -> None:
        with pytest.raises(TimeoutError, match="0 sessions"):
            server.wait_for(lambda: server.sessions_accepted == 1, timeout=0.01)

    def test_the_password_is_in_no_repr(self) -> None:
        server = AnyTLSServer("hush-hush")
        assert "hush" not in repr(server)


class TestFaults:
    @pytest.fixture
    def client(self, server: AnyTLSServer) -> Iterator[RawClient]:
        with RawClient(server.outbound()) as client:
            client.begin()
            client.wait_for(raw.SERVER_SETTINGS)
            yield client

    def test_delayed_synack(self, server: AnyTLSServer, client: RawClient, site: Site) -> None:
        server.faults.synack_delay = 0.2
        start = time.monotonic()
        client.open(1, raw.ipv4("127.0.0.1", site.port))
        client.wait_for(raw.SYNACK, 1)
        assert 0.2 <= time.monotonic() - start < 1 + STARVED

    def test_withheld_synack(self, server: AnyTLSServer, client: RawClient, site: Site) -> None:
        server.faults.withhold_synack = True
        client.open(1, raw.ipv4("127.0.0.1", site.port), request_for("/"))
        client.send(frame(raw.HEART_REQUEST))  # not answered: user data waits, as with sing-box
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.next_frame()
        assert site.connections == 0
        server.faults.withhold_synack = False
        client.sock.settimeout(5)
        client.wait_for(raw.SYNACK, 1)
        client.wait_for(raw.HEART_RESPONSE)

    def test_reads_while_dialling(self, server: AnyTLSServer, client: RawClient, site: Site) -> None:
        server.faults.withhold_synack = server.faults.reads_while_dialling = True
        client.open(1, raw.ipv4("127.0.0.1", site.port), request_for("/"))
        client.send(frame(raw.HEART_REQUEST))
        client.wait_for(raw.HEART_RESPONSE)
        server.faults.withhold_synack = False
        assert client.read_stream(1).endswith(GREETING)

    def test_a_stream_closed_while_it_is_dialled(self, server: AnyTLSServer, client: RawClient) -> None:
        server.faults.withhold_synack = True
        client.open(1, raw.ipv4("127.0.0.1", 1))
        client.send(frame(raw.FIN, 1) + frame(raw.HEART_REQUEST))
        assert client.next_frame() == raw.Frame(raw.HEART_RESPONSE, 0, b"")

    def test_refusal_with_a_text(self, server: AnyTLSServer, client: RawClient, site: Site) -> None:
        server.faults.refuse = lambda host, port: f"no {host} today" if host == "bad.test" else None
        client.open(1, raw.name("bad.test", 80), request_for("/"))
        assert client.wait_for(raw.SYNACK, 1).data == b"no bad.test today"
        client.wait_for(raw.FIN, 1)
        client.open(2, raw.name("localhost", site.port), request_for("/"))
        assert client.read_stream(2).endswith(GREETING)
        assert server.sessions[0].streams[0].refused == "no bad.test today"

    @pytest.mark.parametrize("name", ["a..b", ".", "x" * 64 + ".test"])
    def test_a_name_that_can_be_none(self, client: RawClient, name: str) -> None:
        client.open(1, raw.name(name, 80), request_for("/"))
        assert name.encode() in client.wait_for(raw.SYNACK, 1).data

    def test_no_answer_to_heartbeats(self, server: AnyTLSServer, client: RawClient) -> None:
        server.faults.answer_heartbeats = False
        client.send(frame(raw.HEART_REQUEST))
        server.wait_for(lambda: server.heartbeats_received == 1)
        client.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.next_frame()

    def test_close_on_accept(self, server: AnyTLSServer) -> None:
        server.faults.close_on_accept = True
        with pytest.raises((ssl.SSLError, OSError)):
            RawClient(server.outbound())

    def test_close_after_authentication(self, server: AnyTLSServer) -> None:
        server.faults.close_after_authentication = True
        with RawClient(server.outbound()) as client:
            client.begin()
            assert client.next_frame() is None
        assert server.sessions_accepted == 1

    def test_ignored_settings(self, server: AnyTLSServer, site: Site) -> None:
        server.faults.ignore_settings = True
        with RawClient(server.outbound()) as client:
            client.begin()
            client.open(1, raw.ipv4("127.0.0.1", site.port))
            got = client.next_frame()
            assert got is not None
            assert got.command == raw.SYNACK

    @pytest.mark.parametrize("reset", [False, True])
    def test_close_sessions(self, server: AnyTLSServer, client: RawClient, site: Site, reset: bool) -> None:
        client.open(1, raw.ipv4("127.0.0.1", site.port), request_for("/slow?seconds=30"))
        client.wait_for(raw.SYNACK, 1)
        server.close_sessions(reset)
        if reset:
            # Below TLS, which makes an end of file of it.
            with pytest.raises(ConnectionResetError):
                socket.socket.recv(client.sock, 10)
        else:
            assert client.sock.recv(10) == b""
        server.wait_for(lambda: server.sessions[0].closed)

    def test_freeze_and_thaw(self, server: AnyTLSServer, client: RawClient) -> None:
        server.freeze()
        client.send(frame(raw.HEART_REQUEST))
        client.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.next_frame()
        with pytest.raises(TimeoutError):
            RawClient(server.outbound(), timeout=0.1)
        server.thaw()
        client.sock.settimeout(5)
        client.wait_for(raw.HEART_RESPONSE)

    def test_freeze_in_the_middle_of_a_download(
        self, server: AnyTLSServer, client: RawClient, site: Site
    ) -> None:
        client.open(1, raw.ipv4("127.0.0.1", site.port), request_for("/bytes/50000000"))
        client.wait_for(raw.PSH, 1)
        server.freeze()
        client.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.read_stream(1)
        server.thaw()
        client.sock.settimeout(5)
        client.read_stream(1)
        stream = server.sessions[0].streams[0]
        assert stream.bytes_down > 50_000_000

    def test_freeze_of_what_exists_only(self, server: AnyTLSServer, client: RawClient) -> None:
        server.freeze(new_sessions=False)
        with RawClient(server.outbound()) as second:
            second.begin()
            second.wait_for(raw.SERVER_SETTINGS)

    def test_any_frame_any_bytes_alert(self, server: AnyTLSServer, client: RawClient) -> None:
        server.send_frame(77, 5, b"who knows")
        assert client.next_frame() == raw.Frame(77, 5, b"who knows")
        server.live_sessions[0].send_raw(b"\x08\0\0\0\0\0")
        server.send_raw(b"\0")
        assert client.next_frame() == raw.Frame(raw.HEART_REQUEST, 0, b"")
        server.alert("maintenance")
        assert client.next_frame() == raw.Frame(raw.ALERT, 0, b"maintenance")
        assert client.has_ended()

    def test_close_is_quick_whatever_is_going_on(
        self, server: AnyTLSServer, client: RawClient, site: Site
    ) -> None:
        server.faults.synack_delay = 30
        client.open(1, raw.ipv4("127.0.0.1", site.port), request_for("/"))
        server.wait_for(lambda: server.streams_opened == 1)
        server.faults.synack_delay = 0
        with RawClient(server.outbound()) as second:
            second.begin()
            second.open(1, raw.ipv4("127.0.0.1", site.port), request_for("/bytes/50000000"))
            second.wait_for(raw.PSH, 1)
            server.freeze()
            start = time.monotonic()
            server.close()
            assert time.monotonic() - start < 1 + STARVED


class TestCertificates:
    def test_one_authority_for_several(self) -> None:
        authority = make_authority()
        certificates = [authority.issue("a.test"), authority.issue("b.test", "10.0.0.1")]
        assert {certificate.ca_pem for certificate in certificates} == {authority.pem}
        assert [certificate.name for certificate in certificates] == ["a.test", "b.test"]

    @pytest.mark.parametrize(
        ("certificate", "words"),
        [
            (make_certificate(expired=True), "expired"),
            (make_certificate(not_yet_valid=True), "not yet valid"),
        ],
    )
    def test_dates(self, certificate: Certificate, words: str) -> None:
        with (
            AnyTLSServer(certificate=certificate) as server,
            pytest.raises(ssl.SSLCertVerificationError, match=words),
        ):
            RawClient(server.outbound())

    def test_wrong_name(self) -> None:
        with (
            AnyTLSServer(certificate=make_certificate("other.test")) as server,
            pytest.raises(ssl.SSLCertVerificationError, match="anytls.test"),
        ):
            RawClient(server.outbound(tls={"server_name": "anytls.test"}))

    def test_the_key_is_in_no_repr(self) -> None:
        certificate = make_certificate()
        assert "PRIVATE" in certificate.key_pem
        assert "PRIVATE" not in repr(certificate)
