"""The pool against a server that acts and fails: events, numbers, heartbeats, proof of life, rotation."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from anytls_http import AnyTLSClient, AnyTLSTimeout, ConfigError, SessionClosed, StreamRefused
from anytls_http.pool import rules
from anytls_http.pool.events import EVENT_NAMES, Event
from anytls_http.protocol.frames import Command
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING, body_bytes
from tests.sockets.targets import Background, Target, get, read_exactly
from tests.support.timing import takes, wait_until


class Log(list[Event]):
    """Takes every event."""

    def hooks(self) -> dict[str, list[Any]]:
        return {key: [self.append] for key in EVENT_NAMES}

    @property
    def names(self) -> list[str]:
        return [event.name for event in self]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def watched(server: AnyTLSServer, log: Log) -> Iterator[AnyTLSClient]:
    """A client whose events are in ``log``."""
    with AnyTLSClient(server.outbound(), event_hooks=log.hooks()) as running:
        yield running


class TestEvents:
    def test_in_order_with_the_sessions_numbers(
        self, watched: AnyTLSClient, server: AnyTLSServer, site: Site, log: Log
    ) -> None:
        server.faults.refuse = lambda host, port: "no way" if host == "bad.test" else None
        with watched.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
            get(sock)
            with (
                watched.create_connection(("bad.test", 80), timeout=5) as other,
                pytest.raises(StreamRefused),
            ):
                other.recv(1)
        watched.close()
        good = f"127.0.0.1:{site.port}"
        assert [(event.name, event.session, event.target) for event in log][:6] == [
            ("session_created", 1, ""),
            ("stream_opened", 1, good),
            ("session_created", 2, ""),
            ("stream_failed", 2, "bad.test:80"),
            ("stream_closed", 2, "bad.test:80"),
            ("stream_closed", 1, good),
        ]
        assert {(event.name, event.session, event.reason) for event in log[6:]} == {
            ("session_closed", 1, "client_closed"),
            ("session_closed", 2, "client_closed"),
        }
        assert log[0].reason == "demand"
        assert log[0].seconds is not None
        assert 0 < log[0].seconds < 1
        assert log[3].detail == "no way"
        with pytest.raises(AttributeError):
            log[0].session = 7  # type: ignore[misc]

    def test_a_hook_may_use_the_client(self, server: AnyTLSServer, site: Site) -> None:
        seen: list[tuple[str, int]] = []
        locked = threading.Event()

        def hook(event: Event) -> None:
            # From another thread, so that even a lock that may be taken twice would show.
            ask = Background(lambda: (client.stats(), repr(client)))
            if ask.error(2) is not None:
                locked.set()
            seen.append((event.name, event.session))

        with AnyTLSClient(server.outbound(), event_hooks={key: [hook] for key in EVENT_NAMES}) as client:
            with client.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
                get(sock)
            server.alert("enough")
            wait_until(lambda: ("session_closed", 1) in seen)
        assert not locked.is_set()
        assert ("alert", 1) in seen

    @pytest.mark.parametrize("name", ["session_created", "stream_opened", "stream_closed", "session_closed"])
    def test_a_hook_may_close_the_client(self, server: AnyTLSServer, site: Site, name: str) -> None:
        client = AnyTLSClient(server.outbound(), event_hooks={name: [lambda event: client.close()]})
        with takes(0, 2):
            try:
                with client.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
                    get(sock)
            except OSError:
                pass
            client.close()
        assert client.stats().total == 0

    def test_a_hook_that_fails_breaks_nothing(
        self, server: AnyTLSServer, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        def hook(event: Event) -> None:
            raise LookupError("the hook's own fault")

        with AnyTLSClient(server.outbound(), event_hooks={key: [hook] for key in EVENT_NAMES}) as client:
            with client.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
                assert get(sock).endswith(GREETING)
            assert client.stats().idle == 1
        assert "the hook's own fault" in caplog.text

    @pytest.mark.parametrize("hooks", [{"session_made": []}, {"alert": print}, {"alert": ["print"]}])
    def test_hooks_that_are_none(self, server: AnyTLSServer, hooks: Any) -> None:
        with pytest.raises(ConfigError, match="event_hooks"):
            AnyTLSClient(server.outbound(), event_hooks=hooks)

    def test_no_password_anywhere(
        self,
        watched: AnyTLSClient,
        server: AnyTLSServer,
        site: Site,
        log: Log,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with watched.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
            get(sock)
        server.close_sessions()
        wait_until(lambda: "session_closed" in log.names)
        assert server.password not in caplog.text + repr(log) + repr(watched) + repr(watched.outbound)


def test_the_numbers(server: AnyTLSServer, target: Target) -> None:
    with AnyTLSClient(server.outbound(ensure_idle_session=1)) as client:
        client.wait_ready(1, timeout=5)
        assert client.stats().oldest_age is not None
        with client.create_connection(target.address, timeout=5) as sock:
            sock.sendall(bytes(100_000))
            far = target.accept()
            read_exactly(far, 100_000)
            far.sendall(bytes(2000))
            read_exactly(sock, 2000)
            wait_until(lambda: client.stats().idle == 1)
            stats = client.stats()
            assert (stats.active, stats.total, stats.deficit, stats.streams_opened) == (1, 2, 0, 1)
            # The users' bytes, without frames and padding.
            assert (stats.bytes_sent, stats.bytes_received) == (100_000, 2000)
            assert stats.created == {"demand": 0, "ensure_idle": 2}
            assert sum(stats.closed.values()) == 0
        server.stop_listening()
        server.close_sessions()
        wait_until(lambda: client.stats().closed["peer"] == 2)
        stats = client.stats()
        assert (stats.total, stats.deficit, stats.bytes_sent, stats.bytes_received) == (0, 1, 100_000, 2000)


class TestPadding:
    def test_an_update_is_for_the_next_session(
        self, watched: AnyTLSClient, server: AnyTLSServer, target: Target, log: Log
    ) -> None:
        with watched.create_connection(target.address, timeout=5, wait_open=True) as sock:
            target.accept()
            server.push_scheme("stop=3\n0=50-50\n1=300-300\n2=60-60,c,444-444")
            wait_until(lambda: (sock.is_readable(), "padding_updated" in log.names)[1])
            sock.sendall(b"old scheme")
            with watched.create_connection(target.address, timeout=5) as other:
                other.sendall(bytes(20))
                far = target.accept()
                assert len(read_exactly(far, 20)) == 20
                other.sendall(bytes(20))
                assert len(read_exactly(far, 20)) == 20
        old, new = server.sessions
        # Packet 2 of the old session is still padded by the default scheme.
        assert old.record_sizes[0] == 34 + 30
        assert 400 <= old.record_sizes[2] < 500
        # 20 bytes and a header need one record of 60; packet 3 is past the stop.
        assert new.record_sizes[:4] == [34 + 50, 300, 60, 27]
        assert new.settings["padding-md5"] == next(e.detail for e in log if e.name == "padding_updated")
        assert old.settings["padding-md5"] != new.settings["padding-md5"]

    def test_an_unusable_scheme_is_not_taken(
        self, watched: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        with watched.create_connection(target.address, timeout=5, wait_open=True) as sock:
            server.send_frame(Command.UPDATE_PADDING_SCHEME, 0, b"\xff no scheme at all")
            server.send_frame(Command.HEART_REQUEST)
            server.wait_for(lambda: (sock.is_readable(), server.sessions[0].heart_responses_received == 1)[1])
            with watched.create_connection(target.address, timeout=5, wait_open=True):
                pass
        assert server.sessions[1].settings["padding-md5"] == server.sessions[0].settings["padding-md5"]


class TestAlert:
    def test_ends_the_session_and_is_told(
        self, watched: AnyTLSClient, server: AnyTLSServer, target: Target, log: Log
    ) -> None:
        with watched.create_connection(target.address, timeout=5, wait_open=True) as sock:
            server.alert("the words\nof the server")
            with pytest.raises(SessionClosed, match="the words of the server"):
                sock.recv(1)
            with pytest.raises(SessionClosed, match="the words of the server"):
                sock.sendall(b"x")
        assert watched.stats().closed["alert"] == 1
        alert = next(event for event in log if event.name == "alert")
        assert (alert.session, alert.detail) == (1, "the words of the server")

    def test_on_an_idle_session(
        self, watched: AnyTLSClient, server: AnyTLSServer, target: Target, log: Log
    ) -> None:
        watched.create_connection(target.address, timeout=5, wait_open=True).close()
        server.alert("go away")
        wait_until(lambda: watched.stats().closed["alert"] == 1)
        wait_until(lambda: "alert" in log.names)


class TestEndOfAnIdleSession:
    @pytest.mark.parametrize("reset", [False, True])
    def test_is_noticed_told_and_made_good(self, server: AnyTLSServer, log: Log, reset: bool) -> None:
        outbound = server.outbound(ensure_idle_session=2, heartbeat="20ms")
        with AnyTLSClient(outbound, event_hooks=log.hooks()) as client:
            client.wait_ready(2, timeout=5)
            # Before their first frame, sessions that end count as failed dials.
            wait_until(
                lambda: all(session.frames for session in server.sessions) and len(server.sessions) == 2
            )
            wait_until(lambda: log.names.count("heartbeat") >= 2 and len({e.session for e in log}) == 2)
            server.close_sessions(reset)
            wait_until(lambda: log.names.count("session_closed") == 2)
            wait_until(lambda: client.stats().idle == 2)
            assert client.stats().closed["peer"] == 2
            assert client.stats().created["ensure_idle"] == 4

    def test_the_next_request_does_not_see_it(
        self, client: AnyTLSClient, server: AnyTLSServer, site: Site
    ) -> None:
        address = ("127.0.0.1", site.port)
        for _ in range(20):
            with client.create_connection(address, timeout=5) as sock:
                assert get(sock).endswith(GREETING)
            server.close_sessions()
            server.wait_for(lambda: server.live_sessions == [])
        assert server.sessions_accepted == 20


class TestHeartbeat:
    def test_is_sent_on_idle_and_busy_sessions(
        self, server: AnyTLSServer, target: Target, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rules, "HEARTBEAT_TIMEOUT", 0.3)
        with AnyTLSClient(server.outbound(heartbeat="50ms"), event_hooks=log.hooks()) as client:
            client.wait_ready(2, timeout=5)
            with client.create_connection(target.address, timeout=5) as sock:
                sock.sendall(b"x")
                # On the busy one nobody reads: the maintenance thread does, when it has to know.
                wait_until(lambda: {e.session for e in log if e.name == "heartbeat"} == {1, 2})
                wait_until(lambda: log.names.count("heartbeat") > 6)
                target.accept()
                # An answer that lay unread is no measure of the way.
                assert all(session.round_trip < 0.2 for session in client._pool.state.sessions)
            assert any(event.seconds is not None for event in log if event.name == "heartbeat")
            assert client.stats().total == 2

    def test_the_rest_of_an_old_stream_is_no_measure_of_the_way(
        self, client: AnyTLSClient, target: Target
    ) -> None:
        with client.create_connection(target.address, timeout=5, wait_open=True) as sock:
            session = sock._session
        session.shortest_trip = 1.0
        session._drained_by = session.heartbeats_answered + 1
        assert session.send_heartbeat()
        wait_until(lambda: session.look() and session.heart_sent_at is None)
        assert session.shortest_trip == 1.0

    def test_before_the_first_stream_padding_does_not_advance(
        self, server: AnyTLSServer, target: Target
    ) -> None:
        with AnyTLSClient(server.outbound(heartbeat="20ms")) as client:
            client.wait_ready(1, timeout=5)
            server.wait_for(lambda: server.heartbeats_received >= 10)
            with client.create_connection(target.address, timeout=5) as sock:
                before = len(server.sessions[0].record_sizes)
                sock.sendall(b"the user's first data")
                read_exactly(target.accept(), 20)
                session = server.sessions[0]
                sizes = session.record_sizes
            # Each by line 1 of the scheme, and so is the SYN; then comes the data, by line 2.
            assert all(100 <= size < 400 for size in sizes[1:before])
            first = next(i for i in range(before, len(sizes)) if sizes[i] >= 400)
            assert 400 <= sizes[first] < 500
            assert client.stats().total == 1

    def test_a_dead_idle_session_is_dropped(
        self, server: AnyTLSServer, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rules, "HEARTBEAT_TIMEOUT", 0.3)
        with AnyTLSClient(server.outbound(heartbeat="200ms"), event_hooks=log.hooks()) as client:
            client.wait_ready(1, timeout=5)
            wait_until(lambda: "heartbeat" in log.names)
            server.freeze()
            with takes(0.2, 0.2 + 0.3 + 0.3):
                wait_until(lambda: client.stats().closed["heartbeat_timeout"] == 1)
            assert client.stats().total == 0
            server.thaw()

    def test_a_reader_on_a_dead_session_is_woken(
        self, server: AnyTLSServer, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rules, "HEARTBEAT_TIMEOUT", 0.2)
        with (
            AnyTLSClient(server.outbound(heartbeat="100ms")) as client,
            client.create_connection(target.address, timeout=None, wait_open=True) as sock,
        ):
            server.wait_for(lambda: server.heartbeats_received >= 1)
            reader = Background(sock.recv, 1)
            server.freeze()
            assert isinstance(reader.error(2), SessionClosed)
            server.thaw()

    def test_a_server_that_may_be_mute_is_not_judged(
        self, server: AnyTLSServer, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # It takes nothing more from a session while it dials a target for which data waits.
        monkeypatch.setattr(rules, "HEARTBEAT_TIMEOUT", 0.1)
        server.faults.synack_delay = 0.6
        with AnyTLSClient(server.outbound(heartbeat="50ms")) as client:
            client.wait_ready(1, timeout=5)
            server.wait_for(lambda: server.heartbeats_received >= 1)
            with client.create_connection(target.address, timeout=5) as sock:
                sock.sendall(b"x")
                far = target.accept()
                far.sendall(b"answer")
                assert sock.recv(10) == b"answer"
            assert client.stats().closed["heartbeat_timeout"] == 0

    def test_a_version_1_server_is_not_judged(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rules, "HEARTBEAT_TIMEOUT", 0.05)
        with AnyTLSServer(version=1) as server, AnyTLSClient(server.outbound(heartbeat="50ms")) as client:
            client.wait_ready(1, timeout=5)
            server.wait_for(lambda: server.heartbeats_received >= 4)
            assert client.stats().idle == 1


class TestProofOfLife:
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rules, "SILENT_AFTER", 0.05)
        monkeypatch.setattr(rules, "SHORTEST_PROOF", 0.2)

    def test_a_session_on_a_frozen_server_is_replaced_unseen(
        self, client: AnyTLSClient, server: AnyTLSServer, site: Site
    ) -> None:
        address = ("127.0.0.1", site.port)
        first = client.create_connection(address, timeout=5)
        with client.create_connection(address, timeout=5) as second:
            get(second)
        get(first)
        first.close()
        time.sleep(0.1)
        server.freeze(new_sessions=False)
        with takes(0.2, 1), client.create_connection(address, timeout=5) as sock:
            assert get(sock).endswith(GREETING)
        # With the silent one go those that have been silent for as long, and none of them costs time.
        assert client.stats().closed["proof_of_life"] == 2
        assert client.stats().created["demand"] == 3
        server.thaw()

    def test_a_living_session_proves_itself(
        self, client: AnyTLSClient, server: AnyTLSServer, site: Site
    ) -> None:
        address = ("127.0.0.1", site.port)
        for _ in range(3):
            with client.create_connection(address, timeout=5) as sock:
                assert get(sock).endswith(GREETING)
            time.sleep(0.08)
        assert server.sessions_accepted == 1
        assert server.heartbeats_received == 2

    def test_not_asked_of_a_version_1_server(self, site: Site) -> None:
        with AnyTLSServer(version=1) as server, AnyTLSClient(server.outbound()) as client:
            for _ in range(2):
                with client.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
                    assert get(sock).endswith(GREETING)
                time.sleep(0.08)
            assert server.heartbeats_received == 0
            assert server.sessions_accepted == 1

    def test_ends_at_the_users_deadline(self, client: AnyTLSClient, server: AnyTLSServer, site: Site) -> None:
        address = ("127.0.0.1", site.port)
        with client.create_connection(address, timeout=5) as sock:
            get(sock)
        time.sleep(0.08)
        server.freeze()
        with takes(0.1), pytest.raises(AnyTLSTimeout):
            client.create_connection(address, timeout=0.1)
        server.thaw()

    def test_of_a_stream_that_another_thread_reads(
        self, client: AnyTLSClient, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The reader takes the answer in and waits on; who asked need not wait until it leaves.
        monkeypatch.setattr(rules, "SHORTEST_PROOF", 5.0)
        with client.create_connection(target.address, timeout=5, wait_open=True) as sock:
            reader = Background(sock.recv, 1)
            time.sleep(0.08)
            assert sock._session.is_silent()
            with takes(0, 0.5):
                assert sock._prove_alive(time.monotonic() + 10)
            assert reader.running
            target.accept().sendall(b"x")
            assert reader.result() == b"x"

    def test_of_an_open_stream(self, client: AnyTLSClient, server: AnyTLSServer, target: Target) -> None:
        with client.create_connection(target.address, timeout=5, wait_open=True) as sock:
            time.sleep(0.08)
            assert sock._prove_alive(time.monotonic() + 5)
            time.sleep(0.08)
            server.freeze()
            with takes(0.2, 0.5):
                assert not sock._prove_alive(time.monotonic() + 5)
            with pytest.raises(SessionClosed):
                sock.sendall(b"x")
            server.thaw()


class TestRotation:
    def test_a_busy_session_is_closed_when_its_stream_ends(
        self, server: AnyTLSServer, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rules, "SHORTEST_LIFETIME", 0.05)
        outbound = server.outbound(max_connection_lifetime="100ms", idle_session_check_interval="10s")
        with AnyTLSClient(outbound) as client:
            sock = client.create_connection(target.address, timeout=5, wait_open=True)
            far = target.accept()
            time.sleep(0.15)
            sock.sendall(b"still good")
            assert far.recv(20) == b"still good"
            assert client.stats().closed["max_age"] == 0
            sock.close()
            assert client.stats().closed["max_age"] == 1
            assert far.recv(1) == b""

    def test_idle_ones_are_closed_in_a_check(
        self, server: AnyTLSServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rules, "SHORTEST_LIFETIME", 0.05)
        outbound = server.outbound(
            max_connection_lifetime="100ms", idle_session_check_interval="50ms", ensure_idle_session=1
        )
        with AnyTLSClient(outbound) as client:
            wait_until(lambda: client.stats().closed["max_age"] >= 2)
            wait_until(lambda: client.stats().idle == 1)

    def test_idle_for_too_long(self, server: AnyTLSServer) -> None:
        outbound = server.outbound(
            idle_session_timeout="100ms", idle_session_check_interval="50ms", min_idle_session=1
        )
        with AnyTLSClient(outbound) as client:
            client.wait_ready(3, timeout=5)
            wait_until(lambda: client.stats().closed["idle_timeout"] == 2)
            assert client.stats().idle == 1


def test_sixteen_threads_on_one_client(server: AnyTLSServer, site: Site) -> None:
    address = ("127.0.0.1", site.port)
    body = body_bytes(5000)

    def work(seed: int) -> int:
        rng = random.Random(seed)
        for _ in range(20):
            with client.create_connection(address, timeout=20) as sock:
                if rng.random() < 0.2:
                    continue
                get(sock, "/bytes/5000", close=False)
                if rng.random() < 0.2:
                    sock.recv(10)
                    continue
                data = b""
                while b"\r\n\r\n" not in data or len(data.split(b"\r\n\r\n", 1)[1]) < 5000:
                    data += sock.recv(3000)
                assert data.split(b"\r\n\r\n", 1)[1] == body
        return seed

    with AnyTLSClient(server.outbound()) as client:
        threads = [Background(work, seed) for seed in range(16)]
        assert [thread.result(20) for thread in threads] == list(range(16))
        wait_until(lambda: client.stats().active == 0)  # one that was dialled just now counts for a moment
        stats = client.stats()
        assert stats.active == 0
        assert stats.streams_opened == 16 * 20
        # None was given up, not even because maintenance looked at it as its stream ended. There may be more
        # than threads: one that was left in mid-answer is drained before it is used again.
        assert sum(stats.closed.values()) == 0, stats.closed

    def test_is_as_patient_as_the_fastest_dial_asks_for(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        """A dial beside fifty others measures the wait for them, not the way to the server."""
        with (
            client.create_connection(target.address, timeout=5, wait_open=True),
            client.create_connection(target.address, timeout=5, wait_open=True) as sock,
        ):
            sock._session.shortest_trip = 2.0
            time.sleep(0.08)
            server.freeze()
            with takes(0.2, 0.5):
                assert not sock._prove_alive(time.monotonic() + 5)
            server.thaw()
