"""How a stream comes to be: what is dialled and sent when, what waits, what is refused."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import anytls_http.client
from anytls_http import (
    AnyTLSClient,
    AnyTLSSocket,
    AnyTLSTimeout,
    AuthenticationError,
    SessionClosed,
    StreamRefused,
)
from anytls_http.protocol.frames import Command
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING
from tests.sockets.targets import Target, get, read_exactly
from tests.support.timing import takes, wait_until


class TestFirstUse:
    def test_nothing_is_dialled_in_the_constructor(self, server: AnyTLSServer) -> None:
        client = AnyTLSClient(server.outbound(ensure_idle_session=2))
        assert client.stats().total == 0
        assert server.connections == []
        client.close()
        assert server.connections == []

    def test_entering_fills_the_pool(self, server: AnyTLSServer) -> None:
        with AnyTLSClient(server.outbound(ensure_idle_session=2)) as client:
            server.wait_for(lambda: server.sessions_accepted == 2)
            wait_until(lambda: client.stats().idle == 2)
            assert client.stats().created == {"demand": 0, "ensure_idle": 2}

    def test_a_connection_without_with_dials_on_demand(self, server: AnyTLSServer, site: Site) -> None:
        client = AnyTLSClient(server.outbound())
        with client.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
            assert get(sock).endswith(GREETING)
        assert client.stats().created["demand"] == 1
        client.close()

    def test_source_address_must_be_none(self, client: AnyTLSClient, target: Target) -> None:
        with pytest.raises(TypeError, match="source_address"):
            client.create_connection(target.address, 5, ("127.0.0.1", 0))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "address", [("", 80), ("a" * 300, 80), ("example.org", -1), ("example.org", 70000)]
    )
    def test_an_address_that_is_none(
        self, client: AnyTLSClient, server: AnyTLSServer, address: tuple[str, int]
    ) -> None:
        with pytest.raises(StreamRefused, match="can't be a target"):
            client.create_connection(address, timeout=5)
        assert server.connections == []

    def test_the_default_timeout_is_the_socket_modules(self, client: AnyTLSClient, target: Target) -> None:
        with client.create_connection(target.address) as sock:
            assert sock.gettimeout() is None
        socket.setdefaulttimeout(3.5)
        try:
            with client.create_connection(target.address) as sock:
                assert sock.gettimeout() == 3.5
        finally:
            socket.setdefaulttimeout(None)


class TestReuse:
    def test_one_session_carries_stream_after_stream(
        self, client: AnyTLSClient, server: AnyTLSServer, site: Site
    ) -> None:
        for _ in range(3):
            with client.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
                assert get(sock).endswith(GREETING)
        assert server.sessions_accepted == 1
        assert [stream.id for stream in server.sessions[0].streams] == [1, 2, 3]
        stats = client.stats()
        assert (stats.idle, stats.active, stats.streams_opened) == (1, 0, 3)

    def test_the_newest_session_is_used_first(
        self, client: AnyTLSClient, server: AnyTLSServer, site: Site
    ) -> None:
        address = ("127.0.0.1", site.port)
        socks = [client.create_connection(address, timeout=5) for _ in range(3)]
        ports = [sock.getsockname()[1] for sock in socks]
        # Given back in another order than that of their numbers.
        for index in (2, 0, 1):
            socks[index].close()
        again = [client.create_connection(address, timeout=5) for _ in range(3)]
        assert [sock.getsockname()[1] for sock in again] == ports[::-1]
        for sock in again:
            sock.close()
        assert len(server.connections) == 3


class TestAcknowledgement:
    """The server's word that it reached the target comes alone, and the target's data after it."""

    @pytest.fixture(autouse=True)
    def version_is_known(self, client: AnyTLSClient, target: Target) -> None:
        """A session that has learnt from a first stream that the server gives this word."""
        with client.create_connection(target.address, 5, wait_open=True):
            pass

    @pytest.fixture
    def sock(self, client: AnyTLSClient, server: AnyTLSServer, target: Target) -> Iterator[AnyTLSSocket]:
        server.faults.synack_delay = 0.05  # it finds its reader waiting
        with client.create_connection(target.address, 5) as sock:
            sock.sendall(b"?")
            yield sock

    def test_that_comes_long_before_the_data(self, target: Target, sock: AnyTLSSocket) -> None:
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(sock.recv, 10)
            wait_until(lambda: sock._opened)
            target.accept()
            target.accept().sendall(b"!")
            assert waiting.result() == b"!"

    def test_missing_before_the_end(self, client: AnyTLSClient, server: AnyTLSServer, target: Target) -> None:
        server.faults.withhold_synack = True
        with client.create_connection(target.address, 5) as sock, ThreadPoolExecutor(1) as thread:
            sock.sendall(b"?")
            waiting = thread.submit(sock.recv, 10)
            server.wait_for(lambda: server.streams_opened == 2)
            server.live_sessions[0].send_frame(Command.FIN, 2)
            with takes(0):
                assert waiting.result() == b""
        server.faults.withhold_synack = False

    def test_missing_at_the_deadline(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        server.faults.withhold_synack = True
        for timeout in (0.02, 0.1):
            with client.create_connection(target.address, timeout) as sock:
                sock.sendall(b"?")
                with takes(timeout), pytest.raises(AnyTLSTimeout):
                    sock.recv(10)
        server.faults.withhold_synack = False


class TestHeldOpening:
    def test_nothing_leaves_before_the_first_use(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        with client.create_connection(target.address, timeout=5):
            server.wait_for(lambda: server.sessions_accepted == 1)
        session = server.sessions[0]
        # A closed stream that was never announced leaves no trace, and its session goes back.
        assert client.stats().idle == 1
        with client.create_connection(target.address, timeout=5) as sock:
            sock.sendall(b"x")
            assert target.accept().recv(1) == b"x"
        assert [stream.id for stream in session.streams] == [1]
        assert [frame[:2] for frame in session.frames if frame[0] != Command.WASTE][:3] == [
            (Command.SETTINGS, 0),
            (Command.SYN, 1),
            (Command.PSH, 1),
        ]

    @pytest.mark.parametrize("first", ["send", "recv", "is_readable"])
    def test_what_announces_the_stream(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target, first: str
    ) -> None:
        with client.create_connection(target.address, timeout=0.05) as sock:
            if first == "send":
                assert sock.send(b"hello") == 5
            elif first == "recv":
                with pytest.raises(AnyTLSTimeout):
                    sock.recv(1)
            else:
                assert sock.is_readable() is False
            target.accept()
            assert server.streams_opened == 1

    def test_records_of_the_first_packets_follow_the_scheme(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        with client.create_connection(target.address, timeout=5) as sock:
            sock.sendall(b"user data")
            assert read_exactly(target.accept(), 9) == b"user data"
            session = server.sessions[0]
            authentication, opening, data = session.record_sizes
            assert authentication == 34 + 30
            assert 100 <= opening < 400
            # Nine bytes fit the first range of line 2, and the check mark ends it there.
            assert 400 <= data < 500
            assert session.settings["v"] == "2"
            assert session.settings["client"].startswith("anytls_http/")

    def test_after_the_padding_opening_and_data_are_one_record(self, target: Target) -> None:
        with AnyTLSServer(scheme="stop=1\n0=10-10") as server, AnyTLSClient(server.outbound()) as client:
            # The first session doesn't know the server's scheme yet.
            with client.create_connection(target.address, timeout=5, wait_open=True) as first:
                second = client.create_connection(target.address, timeout=5)
                with second:
                    second.sendall(b"user data")
                    target.accept()
                    assert read_exactly(target.accept(), 9) == b"user data"
                first.close()
            session = server.sessions[1]
            server.wait_for(lambda: session.frames[-1][0] == Command.FIN)
            settings = next(size for command, _, size in session.frames if command == Command.SETTINGS)
            assert session.record_sizes == [34 + 10, 7 + settings + 7 + 7 + 7 + 7 + 9, 7]


class TestWaitOpen:
    def test_waits_for_the_servers_word(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        server.faults.synack_delay = 0.15
        with takes(0.15, 2), client.create_connection(target.address, timeout=5, wait_open=True) as sock:
            assert sock._opened
            assert server.sessions[0].streams[0].opened

    def test_refused(self, client: AnyTLSClient, server: AnyTLSServer, site: Site) -> None:
        server.faults.refuse = lambda host, port: "no way" if host == "bad.test" else None
        with pytest.raises(StreamRefused, match=r"bad\.test:80.*no way"):
            client.create_connection(("bad.test", 80), timeout=5, wait_open=True)
        with client.create_connection(("127.0.0.1", site.port), timeout=5, wait_open=True) as sock:
            assert get(sock).endswith(GREETING)
        assert server.sessions_accepted == 1

    @pytest.mark.parametrize("warm", [False, True])
    def test_a_withheld_word_ends_at_the_deadline(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target, warm: bool
    ) -> None:
        if warm:
            client.create_connection(target.address, timeout=5, wait_open=True).close()
        server.faults.withhold_synack = True
        with takes(0.3), pytest.raises(AnyTLSTimeout):
            client.create_connection(target.address, timeout=0.3, wait_open=True)
        server.faults.withhold_synack = False
        with client.create_connection(target.address, timeout=5, wait_open=True) as sock:
            assert sock._opened

    def test_a_version_1_server_gives_no_word(
        self, target: Target, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(anytls_http.client, "VERSION_1_AFTER", 0.15)
        with AnyTLSServer(version=1) as server, AnyTLSClient(server.outbound()) as client:
            with takes(0.15, 2):
                sock = client.create_connection(("127.0.0.1", site.port), timeout=5, wait_open=True)
            with sock:
                assert get(sock).endswith(GREETING)
            assert client.stats().idle == 1

    def test_wrong_password(self, server: AnyTLSServer, target: Target) -> None:
        with (
            AnyTLSClient(server.outbound(password="wrong")) as client,
            pytest.raises(AuthenticationError, match="wrong password"),
        ):
            client.create_connection(target.address, timeout=5, wait_open=True)


class TestRefusal:
    def test_is_raised_by_the_first_read_with_the_servers_words(
        self, client: AnyTLSClient, server: AnyTLSServer, site: Site
    ) -> None:
        server.faults.refuse = lambda host, port: (
            "the words\x1b[31m of the server" if host == "bad.test" else None
        )
        with client.create_connection(("bad.test", 443), timeout=5) as sock:
            sock.sendall(b"user data")
            with pytest.raises(StreamRefused, match=r"^bad\.test:443: .*the words \[31m of the server$"):
                sock.recv(10)
            assert sock.is_readable()
            with pytest.raises(StreamRefused):
                sock.recv(10)
            with pytest.raises(StreamRefused):
                sock.sendall(b"more")
        with client.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
            assert get(sock).endswith(GREETING)
        assert server.sessions_accepted == 1
        assert client.stats().closed["error"] == 0

    def test_a_closed_port(self, client: AnyTLSClient) -> None:
        with Target() as gone:
            address = gone.address
        with (
            client.create_connection(address, timeout=5) as sock,
            pytest.raises(ConnectionRefusedError) as caught,
        ):
            sock.recv(10)
        assert "connection refused" in str(caught.value)

    def test_while_data_is_sent(self, client: AnyTLSClient, server: AnyTLSServer) -> None:
        server.faults.refuse = lambda host, port: "full up"
        with client.create_connection(("bad.test", 80), timeout=5) as sock, pytest.raises(StreamRefused):
            for _ in range(100):
                sock.sendall(bytes(1 << 20))


class TestPassword:
    def test_wrong_one_is_told_by_the_first_read(self, server: AnyTLSServer, target: Target) -> None:
        with (
            AnyTLSClient(server.outbound(password="wr0ng-secret")) as client,
            client.create_connection(target.address, timeout=5) as sock,
        ):
            with pytest.raises(AuthenticationError) as caught:
                sock.sendall(b"user data")
                sock.recv(1)
            assert "wrong password" in str(caught.value)
            assert "wr0ng-secret" not in str(caught.value) + repr(client) + repr(sock) + repr(client.outbound)
            wait_until(lambda: server.auth_failures == 1)

    def test_not_told_once_a_frame_was_received(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        client.create_connection(target.address, timeout=5, wait_open=True).close()
        target.accept()
        # From now on a close means something else, whatever the session that it befalls has received.
        server.faults.close_after_authentication = True
        server.close_sessions()
        wait_until(lambda: client.stats().idle == 0)
        with client.create_connection(target.address, timeout=5) as sock, pytest.raises(SessionClosed):
            sock.sendall(b"user data")
            sock.recv(1)


def test_a_timeout_that_http_client_was_not_given(
    server: AnyTLSServer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    import http.client

    monkeypatch.setattr(socket, "getdefaulttimeout", lambda: 4.0)
    with AnyTLSClient(server.outbound()) as client:
        connection = http.client.HTTPConnection(site.host, site.port)
        monkeypatch.setattr(connection, "_create_connection", client.create_connection)
        connection.request("GET", "/")
        assert connection.sock.gettimeout() == 4.0
        assert connection.getresponse().read()
        connection.close()
