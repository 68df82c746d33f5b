"""An AnyTLSSocket against what code written for ``socket.socket`` expects."""

from __future__ import annotations

import array
import hashlib
import io
import pickle
import select
import socket
import time
from collections.abc import Iterator

import pytest

from anytls_http import AnyTLSClient, AnyTLSSocket, AnyTLSTimeout, SessionClosed
from anytls_http.net import tls as tls_module
from anytls_http.pool.session_writing import WRITE_SIZE
from anytls_http.protocol.frames import Command, encode_frame
from anytls_http.testing import AnyTLSServer
from tests.sockets.targets import Background, Target, read_all, read_exactly
from tests.support.buffers import OVERFLOW
from tests.support.timing import takes, wait_until

Pair = tuple[AnyTLSSocket, socket.socket]


@pytest.fixture
def pair(client: AnyTLSClient, target: Target) -> Iterator[Pair]:
    """A stream and its target's end of it."""
    with client.create_connection(target.address, timeout=5) as sock:
        assert sock.is_readable() is False
        yield sock, target.accept()


class TestReading:
    def test_gives_what_is_there_and_waits_for_no_more(self, pair: Pair) -> None:
        sock, far = pair
        far.sendall(b"12345")
        assert sock.recv(100) == b"12345"
        far.sendall(b"67890")
        assert sock.recv(2) == b"67"
        assert sock.recv(2) == b"89"
        assert sock.recv(2) == b"0"

    def test_several_records_at_once(self, pair: Pair) -> None:
        sock, far = pair
        body = bytes(range(256)) * 400
        far.sendall(body)
        wait_until(sock.is_readable)
        got = b""
        calls = 0
        while len(got) < len(body):
            got += sock.recv(len(body))
            calls += 1
        assert got == body
        assert calls < 20

    def test_what_is_at_hand_is_handed_out_in_one_piece(
        self, pair: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tls_module, "FEED_SIZE", 16384)
        sock, far = pair
        body = bytes(range(256)) * 200
        far.sendall(body)
        wait_until(lambda: sock._session._tls.unread() > len(body))
        assert sock.recv(65536) == body

    def test_who_wants_whole_pieces_gets_them_in_one_read(self, pair: Pair) -> None:
        sock, far = pair
        body = bytes(range(256)) * 200
        far.sendall(body)
        wait_until(lambda: sock._session._tls.unread() > len(body))
        with sock.makefile("rb") as file:
            buffer = bytearray(20_000)
            count = file.raw.readinto(buffer)
            assert 8192 < count < 20_000, "a record's rest is left for the next read"
            file.raw.room = 0
            more = bytearray(20_000)
            assert file.raw.readinto(more) == 20_000
            assert buffer[:count] + more == body[: count + 20_000]

    def test_what_was_read_ahead_is_there_at_once(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tls_module, "FEED_SIZE", 16384)
        sock, far = pair
        body = bytes(range(256)) * 4096
        sending = Background(far.sendall, body)
        tls = sock._session._tls
        wait_until(lambda: tls.unread() > 70_000)
        assert sock.recv(10) == body[:10]
        assert len(tls.arrived) > 40_000, "more was read than OpenSSL got"
        assert tls.has_arrived()
        assert tls.unread() > 40_000
        assert sock.is_readable()
        sock.settimeout(0)
        assert sock.recv(10_000) == body[10:10_010]
        sock.settimeout(5)
        assert read_exactly(sock, len(body) - 10_010) == body[10_010:]
        sending.result()
        assert not sock.is_readable()

    def test_data_before_an_alert_is_handed_out(self, pair: Pair, server: AnyTLSServer) -> None:
        sock, _ = pair
        (session,) = server.live_sessions
        session.send_raw(
            encode_frame(Command.PSH, 1, b"the last ")
            + encode_frame(Command.PSH, 1, b"words")
            + encode_frame(Command.ALERT, 0, b"enough")
        )
        assert sock.recv(100) == b"the last words"
        with pytest.raises(SessionClosed, match="enough"):
            sock.recv(100)

    @pytest.mark.parametrize("into", [False, True])
    def test_data_before_a_broken_record_is_handed_out(
        self, pair: Pair, server: AnyTLSServer, into: bool
    ) -> None:
        sock, _ = pair
        (session,) = server.live_sessions
        body = bytes(range(256)) * 80
        session.send_raw(encode_frame(Command.PSH, 1, body))
        session._channel._sock.send(b"this is no TLS at all")
        wait_until(lambda: sock._session._tls.unread() > len(body))
        buffer = bytearray(65536)
        got = buffer[: sock.recv_into(buffer)] if into else sock.recv(65536)
        assert got == body
        with pytest.raises(SessionClosed):
            sock.recv(100)

    def test_nothing_is_asked_for(self, pair: Pair) -> None:
        sock, _ = pair
        assert sock.recv(0) == b""
        assert sock.recv_into(bytearray()) == 0
        with pytest.raises(ValueError):
            sock.recv(-1)

    def test_the_end(self, pair: Pair) -> None:
        sock, far = pair
        far.sendall(b"last words")
        far.close()
        assert read_all(sock) == b"last words"
        assert sock.recv(10) == b""
        assert sock.recv_into(bytearray(10)) == 0

    def test_into_a_buffer(self, pair: Pair) -> None:
        sock, far = pair
        far.sendall(b"abcdef")
        buffer = bytearray(10)
        assert sock.recv_into(buffer, 4) == 4
        assert sock.recv_into(memoryview(buffer)[4:]) == 2
        assert buffer == b"abcdef" + bytes(4)

    def test_into_an_array_of_another_type(self, pair: Pair) -> None:
        sock, far = pair
        far.sendall(b"abcdefgh")
        buffer = memoryview(bytearray(8)).cast("I")
        assert sock.recv_into(buffer) == 8
        assert buffer.tobytes() == b"abcdefgh"

    def test_flags_are_refused(self, pair: Pair) -> None:
        sock, _ = pair
        with pytest.raises(ValueError, match="flags"):
            sock.recv(1, socket.MSG_PEEK)
        with pytest.raises(ValueError, match="flags"):
            sock.send(b"x", socket.MSG_OOB)


class TestWriting:
    def test_sendall_carries_everything(self, pair: Pair) -> None:
        sock, far = pair
        body = hashlib.sha256(b"seed").digest() * 100_000
        sender = Background(sock.sendall, body)
        assert read_exactly(far, len(body)) == body
        assert sender.result() is None

    def test_a_large_body_fills_whole_records(self, pair: Pair, server: AnyTLSServer) -> None:
        sock, far = pair
        while not sock._session._protocol.padding_is_over:
            sock.sendall(b"x")
            assert far.recv(1) == b"x"
        before = len(server.sessions[0].record_sizes)
        body = bytes(3 * WRITE_SIZE)
        sender = Background(sock.sendall, body)
        assert read_exactly(far, len(body)) == body
        sender.result()
        assert server.sessions[0].record_sizes[before:] == 3 * 7 * [16384]

    @pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"xbytes")[1:]])
    def test_kinds_of_buffers(self, pair: Pair, data: bytes) -> None:
        sock, far = pair
        assert sock.send(data) == 5
        assert read_exactly(far, 5) == b"bytes"

    def test_an_array_of_another_type(self, pair: Pair) -> None:
        sock, far = pair
        assert sock.send(memoryview(b"abcdefgh").cast("I")) == 8
        assert read_exactly(far, 8) == b"abcdefgh"

    def test_nothing(self, pair: Pair) -> None:
        sock, _ = pair
        assert sock.send(b"") == 0
        sock.sendall(b"")

    def test_an_upload_notices_that_the_target_has_gone(self, pair: Pair) -> None:
        sock, far = pair

        def leave() -> None:
            far.recv(100_000)
            far.close()

        reset = Background(leave)
        with takes(0, 3), pytest.raises(ConnectionError, match="closed the stream"):
            while True:
                sock.sendall(bytes(1 << 20))
        reset.result()

    def test_after_the_other_side_has_closed(self, pair: Pair, client: AnyTLSClient) -> None:
        sock, far = pair
        far.close()
        wait_until(sock.is_readable)
        with pytest.raises(ConnectionError):
            sock.sendall(b"too late")
        # It is the stream that has ended, not its session.
        sock.close()
        assert client.stats().idle == 1


class TestTimeouts:
    def test_read(self, pair: Pair) -> None:
        sock, far = pair
        sock.settimeout(0.2)
        with takes(0.2), pytest.raises(TimeoutError):
            sock.recv(1)
        far.sendall(b"x")
        assert sock.recv(1) == b"x"

    def test_read_of_a_silent_server(self, pair: Pair, server: AnyTLSServer) -> None:
        sock, _ = pair
        server.freeze()
        sock.settimeout(0.2)
        with takes(0.2), pytest.raises(AnyTLSTimeout):
            sock.recv(1)
        server.thaw()

    def test_read_while_padding_comes_without_end(self, pair: Pair, server: AnyTLSServer) -> None:
        sock, _ = pair
        sock.settimeout(0.3)
        session = server.live_sessions[0]

        def flood() -> None:
            for _ in range(3000):
                session.send_frame(0, 0, bytes(200))
                time.sleep(0.0005)

        flooder = Background(flood)
        with takes(0.3), pytest.raises(AnyTLSTimeout):
            sock.recv(1)
        server.close_sessions()
        flooder.error()

    def test_sendall_that_nobody_takes(self, pair: Pair, server: AnyTLSServer) -> None:
        sock, _ = pair
        sock.settimeout(0.3)
        with takes(0.3), pytest.raises(TimeoutError):
            while True:
                sock.sendall(bytes(1 << 20))

    def test_sendall_has_one_deadline_for_all_pieces(self, pair: Pair) -> None:
        sock, far = pair
        sock.settimeout(0.3)

        def drain_slowly() -> None:
            while far.recv(32 * 1024):
                time.sleep(0.02)

        drain = Background(drain_slowly)
        with takes(0.3), pytest.raises(TimeoutError):
            sock.sendall(bytes(OVERFLOW))
        sock.close()
        far.shutdown(socket.SHUT_RDWR)
        drain.error()

    def test_a_time_out_in_a_packet_breaks_the_session(self, pair: Pair, client: AnyTLSClient) -> None:
        sock, _ = pair
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(OVERFLOW))
        assert sock.is_readable()
        # No time-out: who tries again after one would do so for ever.
        with pytest.raises(SessionClosed, match="the session was given up: a write on it timed out"):
            sock.recv(1)
        with pytest.raises(SessionClosed):
            sock.sendall(b"the peer would take this for the rest of a frame")
        sock.close()
        assert client.stats().idle == 0
        assert client.stats().closed["error"] == 1

    def test_stall_counts_from_the_last_progress(self, pair: Pair) -> None:
        sock, far = pair
        size = 12 << 20

        def drain_slowly() -> int:
            total = 0
            while total < size:
                total += len(far.recv(1 << 20))
                time.sleep(0.02)
            return total

        drain = Background(drain_slowly)
        sock._write(bytes(size), stall=2.0)
        assert drain.result() == size
        with takes(0.2, 2), pytest.raises(AnyTLSTimeout):
            sock._write(bytes(OVERFLOW), stall=0.2)

    def test_a_second_reader_and_a_second_writer(self, pair: Pair) -> None:
        sock, far = pair
        first = Background(sock.recv, 1)
        wait_until(lambda: sock._session._reader_waits)
        second = Background(sock.sendall, bytes(OVERFLOW))
        time.sleep(0.1)
        sock.settimeout(0.1)
        with takes(0.1), pytest.raises(AnyTLSTimeout, match="another thread"):
            sock.recv(1)
        with takes(0.1), pytest.raises(AnyTLSTimeout, match="another thread"):
            sock.sendall(b"x")
        with takes(0):
            assert not sock.is_readable()
        # Whoever waits is not disturbed by it.
        far.sendall(b"1")
        assert first.result() == b"1"
        assert second.running
        drain = Background(read_exactly, far, OVERFLOW)
        second.result()
        assert len(drain.result()) == OVERFLOW

    def test_never_blocks_with_zero(self, pair: Pair) -> None:
        sock, far = pair
        sock.setblocking(False)
        assert sock.gettimeout() == 0
        assert not sock.getblocking()
        with takes(0), pytest.raises(BlockingIOError):
            sock.recv(1)
        with takes(0), pytest.raises(BlockingIOError):
            sock.recv_into(bytearray(1))
        far.sendall(b"x")
        wait_until(sock.is_readable)
        assert sock.recv(10) == b"x"
        sent = 0
        begin = time.monotonic()
        with pytest.raises(BlockingIOError):
            while time.monotonic() - begin < 5:
                sent += sock.send(bytes(100_000))
        # Nothing of what it has taken is lost.
        sock.setblocking(True)
        sock.settimeout(5)
        reader = Background(read_exactly, far, sent + 3)
        sock.sendall(b"end")
        assert reader.result().endswith(b"end")

    def test_values(self, pair: Pair) -> None:
        sock, _ = pair
        sock.settimeout(2)
        assert sock.gettimeout() == sock.timeout == 2.0
        with pytest.raises(ValueError):
            sock.settimeout(-1)
        with pytest.raises(ValueError, match="NaN"):
            sock.settimeout(float("nan"))
        assert sock.gettimeout() == 2.0
        sock.setblocking(True)
        assert sock.gettimeout() is None
        assert sock.getblocking()

    @pytest.mark.parametrize("timeout", [-1, float("nan")])
    def test_no_values(self, client: AnyTLSClient, timeout: float) -> None:
        with pytest.raises(ValueError):
            client.create_connection(("127.0.0.1", 1), timeout)


def test_a_buffer_that_is_no_place_to_read_to(pair: Pair) -> None:
    sock, far = pair
    far.sendall(b"still there")
    wait_until(sock.is_readable)
    with pytest.raises(TypeError, match="can be written to, not bytes"):
        sock.recv_into(b"read-only")
    with sock.makefile("rb", 0) as file, pytest.raises(TypeError):
        file.readinto(b"read-only")
    with pytest.raises(ValueError):
        sock.recv_into(bytearray(5), -1)
    assert sock.recv(20) == b"still there"


class TestReadable:
    def test_nothing(self, pair: Pair) -> None:
        sock, _ = pair
        with takes(0):
            assert sock.is_readable() is False

    def test_data(self, pair: Pair) -> None:
        sock, far = pair
        far.sendall(b"x")
        wait_until(sock.is_readable)
        assert sock.is_readable()
        assert sock.recv(10) == b"x"
        assert not sock.is_readable()

    def test_the_streams_end(self, pair: Pair) -> None:
        sock, far = pair
        far.close()
        wait_until(sock.is_readable)
        assert sock.recv(1) == b""
        assert sock.is_readable()

    @pytest.mark.parametrize("reset", [False, True])
    def test_a_dead_session(self, pair: Pair, server: AnyTLSServer, reset: bool) -> None:
        sock, _ = pair
        server.close_sessions(reset)
        wait_until(sock.is_readable)
        with pytest.raises(SessionClosed):
            sock.recv(1)

    def test_a_server_that_asks_for_a_sign_of_life(
        self, pair: Pair, client: AnyTLSClient, server: AnyTLSServer
    ) -> None:
        sock, _ = pair
        session = server.sessions[0]
        session.send_frame(8)
        sock.settimeout(0.05)
        with pytest.raises(AnyTLSTimeout):
            sock.recv(1)
        server.wait_for(lambda: session.heart_responses_received == 1)
        # On an idle session the maintenance thread answers.
        sock.close()
        session.send_frame(8)
        server.wait_for(lambda: session.heart_responses_received == 2)
        assert client.stats().idle == 1

    def test_a_frozen_server(self, pair: Pair, server: AnyTLSServer) -> None:
        sock, _ = pair
        server.freeze()
        with takes(0):
            assert not sock.is_readable()
        server.thaw()

    def test_frames_without_data(self, pair: Pair, server: AnyTLSServer) -> None:
        sock, _ = pair
        server.send_frame(0, 0, bytes(1000))
        server.send_frame(8)
        server.wait_for(lambda: (sock.is_readable(), server.sessions[0].heart_responses_received == 1)[1])
        assert not sock.is_readable()

    def test_a_closed_socket(self, pair: Pair) -> None:
        sock, _ = pair
        sock.close()
        assert sock.is_readable()


class TestShutdown:
    def test_both_ways_sends_the_end(self, pair: Pair, client: AnyTLSClient) -> None:
        sock, far = pair
        sock.shutdown(socket.SHUT_RDWR)
        assert far.recv(1) == b""
        assert sock.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            sock.send(b"x")
        assert client.stats().idle == 1
        sock.close()
        assert client.stats().idle == 1

    def test_writing_is_refused_here_and_told_nobody(self, pair: Pair) -> None:
        sock, far = pair
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            sock.send(b"x")
        far.settimeout(0.1)
        with pytest.raises(TimeoutError):
            far.recv(1)
        far.sendall(b"still there")
        assert sock.recv(100) == b"still there"

    def test_reading_wakes_the_reader_and_writing_goes_on(self, pair: Pair, client: AnyTLSClient) -> None:
        sock, far = pair
        sock.settimeout(None)
        reader = Background(sock.recv, 1)
        time.sleep(0.05)
        assert reader.running
        sock.shutdown(socket.SHUT_RD)
        assert reader.result(1) == b""
        assert sock.recv(1) == b""
        far.sendall(b"nobody wants this")
        sock.sendall(b"still sent")
        assert read_exactly(far, 10) == b"still sent"
        assert sock.is_readable()
        sock.close()
        assert far.recv(1) == b""

    def test_unknown_direction(self, pair: Pair) -> None:
        sock, _ = pair
        with pytest.raises(OSError):
            sock.shutdown(17)


class TestFacts:
    def test_addresses(self, pair: Pair, target: Target, server: AnyTLSServer) -> None:
        sock, _ = pair
        assert sock.getpeername() == target.address
        assert sock.getsockname() == server.sessions[0].peer_address
        assert sock.family == socket.AF_INET
        assert sock.type == socket.SOCK_STREAM

    def test_there_is_no_descriptor(self, pair: Pair) -> None:
        sock, _ = pair
        with pytest.raises(io.UnsupportedOperation, match="as_socket"):
            sock.fileno()
        with pytest.raises((io.UnsupportedOperation, ValueError, TypeError)):
            select.select([sock], [], [], 0)
        assert not hasattr(sock, "getsockopt")
        assert not hasattr(sock, "detach")
        sock.close()
        assert sock.fileno() == -1

    def test_socket_options(self, pair: Pair) -> None:
        sock, _ = pair
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with pytest.raises(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)

    def test_repr(self, pair: Pair) -> None:
        sock, _ = pair
        host, port = sock.getpeername()
        assert repr(sock) == f"<AnyTLSSocket to {host}:{port}, open, session #1>" or "opening" in repr(sock)
        sock.close()
        assert "closed" in repr(sock)

    def test_a_socket_cant_be_pickled(self, pair: Pair) -> None:
        with pytest.raises(TypeError):
            pickle.dumps(pair[0])


class TestClosed:
    def test_every_call_says_so(self, pair: Pair) -> None:
        sock, far = pair
        sock.close()
        sock.close()
        assert far.recv(1) == b""
        for call in (
            lambda: sock.recv(1),
            lambda: sock.recv_into(bytearray(1)),
            lambda: sock.send(b"x"),
            lambda: sock.sendall(b"x"),
            sock.getpeername,
            sock.getsockname,
            sock.makefile,
            lambda: sock.shutdown(socket.SHUT_RDWR),
        ):
            with pytest.raises(OSError, match="closed"):
                call()

    def test_a_stale_socket_leaves_the_next_stream_alone(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        # What a thread does that was past the socket's own checks when another closed it.
        old = client.create_connection(target.address, timeout=5)
        old.sendall(b"x")
        target.accept()
        session, stream_id = old._session, old._stream_id
        old.close()
        with client.create_connection(target.address, timeout=5) as new:
            assert new._session is session
            new.sendall(b"y")
            far = target.accept()
            with pytest.raises(SessionClosed):
                session.receive(stream_id, 1, bytes, None)
            with pytest.raises(SessionClosed):
                session.send(stream_id, memoryview(b"z"), None)
            far.sendall(b"answer")
            assert new.recv(10) == b"answer"
            assert read_exactly(far, 1) == b"y"
        assert server.sessions_accepted == 1


class TestFiles:
    def test_reading(self, pair: Pair) -> None:
        sock, far = pair
        far.sendall(b"line 1\nline 2\nrest")
        far.close()
        with sock.makefile("rb") as file:
            assert file.readline() == b"line 1\n"
            assert file.read() == b"line 2\nrest"

    def test_writing_is_buffered(self, pair: Pair) -> None:
        sock, far = pair
        with sock.makefile("wb") as file:
            file.write(b"abc")
            file.write(b"def")
            file.flush()
            assert read_exactly(far, 6) == b"abcdef"
            file.write(b"ghi")
        assert read_exactly(far, 3) == b"ghi"

    def test_both_ways(self, pair: Pair) -> None:
        sock, far = pair
        with sock.makefile("rwb") as file:
            file.write(b"question\n")
            file.flush()
            assert read_exactly(far, 9) == b"question\n"
            far.sendall(b"answer\n")
            assert file.readline() == b"answer\n"

    def test_text(self, pair: Pair) -> None:
        sock, far = pair
        with sock.makefile("rw", encoding="utf-8", newline="\r\n") as file:
            assert file.mode == "rw"
            file.write("grün\n")
            file.flush()
            assert read_exactly(far, 7) == "grün\r\n".encode()
            far.sendall(b"blau\r\n")
            assert file.readline() == "blau\r\n"

    def test_unbuffered(self, pair: Pair) -> None:
        sock, far = pair
        with sock.makefile("rwb", buffering=0) as file:
            assert file.write(b"abc") == 3
            assert read_exactly(far, 3) == b"abc"
            far.sendall(b"de")
            assert file.read(10) == b"de"

    def test_the_stream_ends_with_the_last_file(self, pair: Pair, client: AnyTLSClient) -> None:
        # http.client closes its socket first and reads the response from the file.
        sock, far = pair
        file = sock.makefile("rb")
        sock.close()
        far.settimeout(0.05)
        with pytest.raises(TimeoutError):
            far.recv(1)
        far.sendall(b"body")
        assert file.read(4) == b"body"
        file.close()
        far.settimeout(5)
        assert far.recv(1) == b""
        assert client.stats().idle == 1

    def test_a_file_keeps_the_sockets_timeout(self, pair: Pair) -> None:
        sock, _ = pair
        sock.settimeout(0.1)
        with sock.makefile("rb") as file:
            with takes(0.1), pytest.raises(TimeoutError):
                file.read(1)
            with pytest.raises(OSError, match="timed out object"):  # part of an answer may be lost
                file.read(1)

    def test_a_file_of_a_socket_that_does_not_block(self, pair: Pair) -> None:
        sock, far = pair
        sock.settimeout(0)
        with sock.makefile("rb", buffering=0) as file:
            assert file.readinto(bytearray(1)) is None
            far.sendall(b"x")
            sock.settimeout(5)
            assert file.readinto(bytearray()) == 0
            assert file.readinto(array.array("H", [0])) == 1
        with pytest.raises(ValueError, match="closed file"):
            file.readinto(bytearray(1))

    def test_modes(self, pair: Pair) -> None:
        sock, _ = pair
        with pytest.raises(ValueError, match="mode"):
            sock.makefile("a")
        with pytest.raises(ValueError, match="unbuffered"):
            sock.makefile("r", buffering=0)
        sock.close()
