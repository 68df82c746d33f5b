"""What the heartbeat must not take for death: a server that may rightly be mute. And what it must not disturb.

``--soak`` has the real numbers: an upload blocked for 12 s, a target that takes 6 s to connect.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import pytest

from anytls_http import AnyTLSClient
from anytls_http.pool import rules
from tests.faults.servers import Embedded, Server
from tests.sockets.targets import Background, Target, read_exactly
from tests.support.buffers import OVERFLOW
from tests.support.relay import Relay
from tests.support.reliability import Ended
from tests.support.timing import wait_until

pytestmark = pytest.mark.usefixtures("quick")


def body() -> bytes:
    return hashlib.shake_128(b"body").digest(OVERFLOW)


class SlowTarget:
    """A port of loopback that answers TCP's handshake late: its queue is full until :meth:`accept`."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.address: tuple[str, int] = self._listener.getsockname()
        self._fillers = [socket.socket() for _ in range(4)]

    def __enter__(self) -> Self:
        for sock in self._fillers:
            sock.setblocking(False)
            sock.connect_ex(self.address)
        time.sleep(0.02)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for sock in [self._listener, *self._fillers]:
            sock.close()

    def accept(self) -> socket.socket:
        """Empty the queue, and return the connection that isn't one of the fillers."""
        ours = set()
        for sock in self._fillers:
            with contextlib.suppress(OSError):
                ours.add(sock.getsockname())
        self._listener.settimeout(15)
        while True:
            sock, address = self._listener.accept()
            if address not in ours:
                sock.settimeout(10)
                return sock
            sock.close()


def unharmed(client: AnyTLSClient) -> None:
    """Nothing was killed."""
    stats = client.stats()
    assert stats.closed == dict.fromkeys(stats.closed, 0)


@dataclass
class Times:
    """How long things take (seconds): longer than heartbeat and verdict together."""

    mute: float
    slow_connect: float


def a_blocked_upload(client: AnyTLSClient, times: Times) -> str:
    data = body()
    with Target() as target, client.create_connection(target.address, timeout=60) as sock:
        sending = Background(sock.sendall, data)
        far = target.accept()
        far.settimeout(20)
        time.sleep(times.mute)
        assert sending.running
        received = read_exactly(far, OVERFLOW)
        sending.result(20)
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        far.sendall(b"thanks")
        assert read_exactly(sock, 6) == b"thanks"
    return f"blocked for {times.mute:.1f} s; nothing is killed, all bytes arrive"


def a_target_that_connects_slowly(client: AnyTLSClient, times: Times) -> str:
    with SlowTarget() as target, client.create_connection(target.address, timeout=30) as sock:
        begin = time.monotonic()
        sock.sendall(b"hello")
        time.sleep(times.slow_connect)
        with target.accept() as far:
            took = time.monotonic() - begin
            assert read_exactly(far, 5) == b"hello"
            far.sendall(b"world")
            assert read_exactly(sock, 5) == b"world"
    return f"connected after {took:.1f} s; nothing is killed"


def a_paused_reader(client: AnyTLSClient, times: Times) -> str:
    data = body()
    with Target() as target, client.create_connection(target.address, timeout=20) as sock:
        sock.sendall(b"give")
        far = target.accept()
        far.settimeout(20)
        assert read_exactly(far, 4) == b"give"
        sending = Background(far.sendall, data)
        assert sock.recv(1) == data[:1]
        time.sleep(times.mute)
        received = data[:1] + read_exactly(sock, OVERFLOW - 1)
        sending.result(20)
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
    return f"paused for {times.mute:.1f} s; nothing is killed, all bytes arrive"


def a_kept_alive_stream_that_nobody_reads(client: AnyTLSClient, times: Times) -> str:
    with Target() as target, client.create_connection(target.address, timeout=5) as sock:
        sock.sendall(b"ping")
        far = target.accept()
        far.sendall(b"pong")
        assert read_exactly(sock, 4) == b"pong"
        (session,) = client._pool.state.sessions - set(client._pool.state.idle)
        time.sleep(times.mute)
        assert not session.is_silent()
        sock.sendall(b"ping")
        far.sendall(b"pong")
        assert read_exactly(sock, 4) == b"pong"
    return "the heartbeats' answers are read for it, the stream goes on"


MUTE = {
    "heartbeats during an upload that the target doesn't take": a_blocked_upload,
    "heartbeats while a target connects slowly, user data waiting": a_target_that_connects_slowly,
    "heartbeats while the reader pauses with a full buffer": a_paused_reader,
    "heartbeats on an open stream that nobody reads from": a_kept_alive_stream_that_nobody_reads,
}


@pytest.mark.fault("a server that is rightly mute")
def test_a_server_that_is_rightly_mute(server: Server, in_earnest: bool, ended: Ended) -> None:
    heartbeat, times = ("1s", Times(12.0, 6.0)) if in_earnest else ("200ms", Times(2.0, 2.0))
    assert times.mute > rules.HEARTBEAT_TIMEOUT + 0.5
    if isinstance(server, Embedded):
        server.faults.dial_timeout = 20
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(MUTE)) as threads:
        running = {}
        for fault, act in MUTE.items():
            client = stack.enter_context(AnyTLSClient(server.outbound(heartbeat=heartbeat)))
            client.wait_ready(1, 5)
            wait_until(lambda client=client: client._pool.state.server_version == 2)  # type: ignore[misc]
            running[fault] = (client, threads.submit(act, client, times))
        for fault, (client, result) in running.items():
            text = result.result(50)
            unharmed(client)
            ended(text, fault=fault)


def test_nothing_is_asked_while_data_lies_unread(ended: Ended) -> None:
    """sing-box ends a session on which its answer to a heartbeat can't leave for 5 s (seen with ``--soak``)."""
    with Embedded() as server, Target() as target, AnyTLSClient(server.outbound(heartbeat="50ms")) as client:
        with client.create_connection(target.address, timeout=10) as sock:
            sock.sendall(b"give")
            far = target.accept()
            assert read_exactly(far, 4) == b"give"
            sending = Background(far.sendall, bytes(OVERFLOW))
            assert sock.recv(1) == b"\0"
            time.sleep(0.3)  # everything on the way is full
            before = server.heartbeats_received
            time.sleep(0.5)
            assert server.heartbeats_received == before
            read_exactly(sock, OVERFLOW - 1)
            sending.result(10)
            wait_until(lambda: server.heartbeats_received > before)
        unharmed(client)


class RecordingRelay(Relay):
    """Keeps what each connection sent to the server."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(target)
        self.sent = bytearray()

    def _read(self, way: object) -> None:
        waiting = way.waiting  # type: ignore[attr-defined]
        before = len(waiting)
        super()._read(way)  # type: ignore[arg-type]
        if way.upwards and len(waiting) > before:  # type: ignore[attr-defined]
            self.sent += waiting[-1][1]

    def record_sizes(self) -> list[int]:
        """Return the sizes of the TLS records, as they are on the wire (TLS 1.3: 22 bytes more than their content)."""
        sizes, data = [], bytes(self.sent)
        while len(data) >= 5:
            size = int.from_bytes(data[3:5], "big")
            if data[0] == 23:
                sizes.append(size - 17)
            data = data[5 + size :]
        return sizes


@pytest.mark.fault("a hundred heartbeats on a pre-warmed session, then its first user")
def test_a_hundred_heartbeats_before_the_first_user(server: Server, ended: Ended) -> None:
    """They are on the wire, and the first user's packets are padded as ever: packet 2 in 500 to 1,000 bytes."""
    with Target() as target, RecordingRelay(("127.0.0.1", server.port)) as relay:
        outbound = relay.outbound(server.outbound(heartbeat="10ms"))
        beats = threading.Semaphore(0)
        with AnyTLSClient(outbound, event_hooks={"heartbeat": [lambda event: beats.release()]}) as client:
            client.wait_ready(1, 5)
            for _ in range(100):
                assert beats.acquire(timeout=5)
            with client._pool.state.lock:
                session = client._pool.state.idle[0]
            before = len(relay.record_sizes())
            assert before >= 100
            if isinstance(server, Embedded):
                assert server.heartbeats_received >= 100
            assert session._protocol._packet == 1
            with client.create_connection(target.address, timeout=5) as sock:
                sock.sendall(b"hello")
                far = target.accept()
                assert read_exactly(far, 5) == b"hello"
            sizes = relay.record_sizes()[before:]
            # Some heartbeats may have come between: they have 7 bytes, or are padded as line 1 says.
            assert any(100 <= size <= 400 + 7 for size in sizes)
            assert any(400 <= size <= 1000 + 7 for size in sizes), sizes
            assert client.stats().created == {"demand": 0, "ensure_idle": 1}
            ended("all on the wire, and the first packets are padded")
