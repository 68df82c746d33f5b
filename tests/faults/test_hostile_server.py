"""A server that means harm, or is broken: memory and time stay bounded, and the error says what happened."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from anytls_http import AnyTLSClient, AnyTLSSocket, AnyTLSTimeout, SessionClosed, StreamRefused
from anytls_http.pool import rules
from anytls_http.protocol.frames import MAX_DATA, Command, encode_frame
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING
from tests.sockets.targets import Target, get, read_exactly
from tests.support.reliability import Ended
from tests.support.timing import LATE, takes, wait_until

#: Most bytes that the client, and the server beside it in this process, may need while it is attacked.
MEMORY = 6_000_000


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as running:
        yield running


@pytest.fixture
def client(server: AnyTLSServer) -> Iterator[AnyTLSClient]:
    with AnyTLSClient(server.outbound()) as running:
        yield running


def connected(target: Target, sock: AnyTLSSocket) -> socket.socket:
    """Return the target's end of ``sock``, with the SYNACK received: what the test sends can't get before it."""
    sock.sendall(b"x")
    far = target.accept()
    far.sendall(b"y")
    assert read_exactly(sock, 1) == b"y"
    return far


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < MEMORY, f"{peak / 1e6:.1f} MB"


@contextlib.contextmanager
def flooding(server: AnyTLSServer, data: bytes) -> Iterator[None]:
    """Send ``data`` on every session again and again."""
    stop = threading.Event()
    for session in server.live_sessions:
        # A reader works off what the kernel holds before it sees what was sent after it.
        session._channel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)

    def run() -> None:
        while not stop.is_set():
            for session in server.live_sessions:
                with contextlib.suppress(OSError):
                    session.send_raw(data)
            time.sleep(0)

    thread = threading.Thread(target=run, name="test-flood", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        server.close_sessions(reset=True)
        thread.join(5)
        assert not thread.is_alive()


FLOODS = {
    "Waste": encode_frame(Command.WASTE, 0, bytes(MAX_DATA)),
    "HeartRequest": encode_frame(Command.HEART_REQUEST, 0) * 1000,
    "HeartResponse": encode_frame(Command.HEART_RESPONSE, 0) * 1000,
    "PSH for an unknown stream": encode_frame(Command.PSH, 4711, bytes(MAX_DATA)),
    "empty PSH": encode_frame(Command.PSH, 1, b"") * 1000,
    "SYNACK for the wrong stream": encode_frame(Command.SYNACK, 99, b"no") * 1000,
    "FIN for the wrong stream": encode_frame(Command.FIN, 99) * 1000,
    "unknown commands": encode_frame(200, 7, bytes(1000)) * 50,
    "ServerSettings": encode_frame(Command.SERVER_SETTINGS, 0, b"v=2\n" * 1000) * 10,
    "UpdatePaddingScheme": encode_frame(Command.UPDATE_PADDING_SCHEME, 0, b"stop=3\n" + b"1=1-2,\n" * 9000),
}


@pytest.mark.parametrize("kind", list(FLOODS))
@pytest.mark.fault("endless {kind} frames while a reader waits")
def test_a_flood_under_a_reader(client: AnyTLSClient, server: AnyTLSServer, kind: str, ended: Ended) -> None:
    """The reader's time-out is kept, and what the target sends arrives between the rubbish."""
    with Target() as target, client.create_connection(target.address, timeout=0.3) as sock:
        far = connected(target, sock)
        with bounded_memory(), flooding(server, FLOODS[kind]):
            with takes(0.3, 0.3 + 5 * LATE), pytest.raises(AnyTLSTimeout):
                sock.recv(10)
            sock.settimeout(40)  # no rule's: as long as the machine takes to work the rubbish off
            far.sendall(b"needle")
            assert read_exactly(sock, 6) == b"needle"
    ended("the time-out is kept, data arrives in between, memory is bounded")


@pytest.mark.parametrize("kind", ["Waste", "HeartRequest", "UpdatePaddingScheme"])
@pytest.mark.fault("endless {kind} frames on an idle session")
def test_a_flood_on_an_idle_session(server: AnyTLSServer, kind: str, ended: Ended) -> None:
    with AnyTLSClient(server.outbound()) as client:
        client.wait_ready(1, 5)
        with bounded_memory(), flooding(server, FLOODS[kind]):
            wait_until(lambda: client.stats().total == 0, 40)
            assert client.stats().closed["error"] == 1
    ended("the session is dropped")


@pytest.mark.fault("a slow flood on an idle session, for days")
def test_a_server_that_beats_for_days_is_no_flood() -> None:
    class Idle:
        sequence = 1
        expires_at = None
        idle_since = 0.0
        unasked_bytes = 0

    session = Idle()
    for day in range(1, 40):
        session.unasked_bytes = day * 86_400 * 40  # a heartbeat, and some padding, each second
        assert not rules.is_flood(day * 86_400.0, session)
    session.unasked_bytes += 1 << 32
    assert rules.is_flood(40 * 86_400.0, session)


SCHEMES = {
    "sizes of 65,535 again and again": "stop=100\n"
    + "\n".join(f"{n}=" + "65535-65535," * 50 for n in range(80)),
    "sizes over 65,535": "stop=8\n1=70000-80000\n2=99999999999999999999-1",
    "thousands of lines": "stop=9999999\n" + "\n".join(f"{n}=1-9" for n in range(6000)),
    "one endless line": "stop=8\n2=" + "1-1," * 16000,
    "nothing but check marks": "stop=8\n1=" + "c," * 30000,
    "stop beyond all numbers": "stop=99999999999999999999999\n1=1-2",
    "binary rubbish": "stop=8\n1=\x00\x01-\x02\n\x7f=\x03",
}


@pytest.mark.parametrize("kind", list(SCHEMES))
@pytest.mark.fault("padding scheme: {kind}")
def test_padding_schemes(
    client: AnyTLSClient, server: AnyTLSServer, site: Site, kind: str, ended: Ended
) -> None:
    scheme = SCHEMES[kind].encode()[:MAX_DATA].decode()
    with bounded_memory():
        with client.create_connection((site.host, site.port), timeout=5) as sock:
            server.push_scheme(scheme)
            assert get(sock).endswith(GREETING)
        server.close_sessions()
        wait_until(lambda: client.stats().total == 0)
        with takes(0, 2), client.create_connection((site.host, site.port), timeout=5) as sock:
            assert get(sock).endswith(GREETING)
    sent = client.stats().bytes_sent
    assert sent < 1000
    assert server.sessions[-1].bytes_received < 9 * (1 << 20)
    ended("the next session works, its padding is bounded")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe\x00 no way \x1b[31m", "no way"),
        (b"", "the server ended the session"),
        (b"A" * MAX_DATA, "AAAA"),
    ],
)
@pytest.mark.fault("alerts that are no UTF-8, hold control characters, are empty or endless")
def test_alerts(client: AnyTLSClient, server: AnyTLSServer, text: bytes, words: str, ended: Ended) -> None:
    with Target() as target, client.create_connection(target.address, timeout=5) as sock:
        connected(target, sock)
        server.send_frame(Command.ALERT, 0, text)
        with pytest.raises(SessionClosed) as caught:
            sock.recv(10)
    message = str(caught.value)
    assert words in message
    assert message.isprintable()
    assert len(message) < 2000
    ended("SessionClosed with what can be printed of it")


@pytest.mark.fault("a refusal of 64 KiB, no UTF-8")
def test_refusals(client: AnyTLSClient, server: AnyTLSServer, ended: Ended) -> None:
    server.faults.withhold_synack = True
    with client.create_connection(("127.0.0.1", 9), timeout=5) as sock:
        sock.sendall(b"x")
        server.wait_for(lambda: bool(server.sessions and server.sessions[0].streams))
        server.send_frame(Command.SYNACK, 1, b"\xff\x00" * 30_000)
        with pytest.raises(StreamRefused) as caught:
            sock.recv(10)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000
    ended("StreamRefused with the beginning of it")


@pytest.mark.fault("SYNACK for the wrong stream, twice, and after data")
def test_wrong_synacks(client: AnyTLSClient, server: AnyTLSServer, ended: Ended) -> None:
    with Target() as target, client.create_connection(target.address, timeout=0.3) as sock:
        far = connected(target, sock)
        for stream in (0, 2, 1 << 31):
            server.send_frame(Command.SYNACK, stream, b"refused, says the wrong stream")
        with pytest.raises(AnyTLSTimeout):
            sock.recv(10)
        far.sendall(b"data")
        assert read_exactly(sock, 4) == b"data"
        server.send_frame(Command.SYNACK, 1, b"refused, too late")
        far.sendall(b"more")
        assert read_exactly(sock, 4) == b"more"
        ended("ignored; the stream goes on")


@pytest.mark.fault("data and a FIN for streams that were never opened, or are long closed")
def test_frames_of_other_streams(
    client: AnyTLSClient, server: AnyTLSServer, site: Site, ended: Ended
) -> None:
    client.wait_ready(1, 5)
    wait_until(lambda: bool(server.live_sessions))
    for stream in (1, 2, 3):
        server.send_frame(Command.PSH, stream, b"evil")
        server.send_frame(Command.SYNACK, stream, b"evil")
        server.send_frame(Command.FIN, stream)
    for _ in range(3):
        with client.create_connection((site.host, site.port), timeout=5) as sock:
            answer = get(sock)
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(GREETING)
            assert b"evil" not in answer
    ended("never reach a reader")


HALVES = {
    "half a header": b"\x02\x00\x00",
    "half a PSH": encode_frame(Command.PSH, 1, bytes(1000))[:500],
    "half a SYNACK": encode_frame(Command.SYNACK, 1, bytes(1000))[:500],
    "half a Waste of 64 KiB": struct.pack(">BIH", Command.WASTE, 0, MAX_DATA),
}


@pytest.mark.parametrize("kind", list(HALVES))
@pytest.mark.fault("{kind}, then silence")
def test_half_frames(
    server: AnyTLSServer, kind: str, site: Site, monkeypatch: pytest.MonkeyPatch, ended: Ended
) -> None:
    monkeypatch.setattr(rules, "HEARTBEAT_TIMEOUT", 0.5)
    with (
        AnyTLSClient(server.outbound(heartbeat="100ms")) as client,
        Target() as target,
        # No frame of the server's own may come after the half one, and be taken for its rest.
        client.create_connection(target.address, timeout=5, wait_open=True) as sock,
    ):
        sock.settimeout(0.3)
        connected(target, sock)
        server.faults.answer_heartbeats = False
        time.sleep(0.05)
        server.send_raw(HALVES[kind])
        received = b""
        with contextlib.suppress(AnyTLSTimeout):
            while True:
                received += sock.recv(10_000)
        assert received == (bytes(493) if kind == "half a PSH" else b"")
        sock.close()
        with client.create_connection((site.host, site.port), timeout=5) as sock:
            server.faults.answer_heartbeats = True
            assert get(sock).endswith(GREETING)
    ended("the time-out is kept, the next request takes a new session")


@pytest.mark.fault("a session ended in the midst of a frame")
def test_an_end_in_mid_frame(client: AnyTLSClient, server: AnyTLSServer, ended: Ended) -> None:
    with Target() as target, client.create_connection(target.address, timeout=5) as sock:
        connected(target, sock)
        server.send_raw(encode_frame(Command.PSH, 1, b"12345678")[:-4])
        server.wait_for(lambda: True)
        assert read_exactly(sock, 4) == b"1234"
        server.close_sessions()
        with pytest.raises(SessionClosed):
            sock.recv(10)
    ended("SessionClosed: never an end of the stream that could be taken for a whole answer")


@pytest.mark.fault("frames of one byte per TLS record")
def test_a_drip(client: AnyTLSClient, server: AnyTLSServer, ended: Ended) -> None:
    with Target() as target, client.create_connection(target.address, timeout=5) as sock:
        connected(target, sock)
        (session,) = server.live_sessions
        for byte in encode_frame(Command.PSH, 1, b"slow but sure") + encode_frame(Command.FIN, 1):
            session.send_raw(bytes([byte]))
        assert read_exactly(sock, 13) == b"slow but sure"
        assert sock.recv(10) == b""
    ended("parsed all the same")
