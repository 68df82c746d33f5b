"""``as_socket()``: a stream behind a real descriptor, for everything that wants one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import select
import selectors
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from anytls_http import AnyTLSClient, AnyTLSSocket
from anytls_http.relay import poller, shared_relay
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING, body_sha256
from tests.sockets.targets import Background, Target, get, read_all, read_exactly
from tests.support.buffers import more_than_buffers
from tests.support.timing import wait_until

SIZE = 50_000_000


@pytest.fixture(params=["epoll", "selectors"], autouse=True)
def kind_of_poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each test runs with the relay of Linux and with that of other systems."""
    wait_until(lambda: shared_relay()._thread is None)
    if request.param == "selectors":
        monkeypatch.setattr("anytls_http.relay.loop.make_poller", poller.SelectorPoller)
    elif not hasattr(select, "epoll"):
        pytest.skip("no epoll on this system")
    yield request.param
    wait_until(lambda: shared_relay()._thread is None)


def connect(client: AnyTLSClient, target: Target) -> tuple[socket.socket, socket.socket]:
    """Return a socket of as_socket() and the target's end of its stream."""
    sock = client.create_connection(target.address, 5, wait_open=True).as_socket()
    return sock, target.accept()


def test_a_get(client: AnyTLSClient, site: Site) -> None:
    with client.create_connection((site.host, site.port), 5).as_socket() as sock:
        assert sock.gettimeout() == 5
        assert get(sock).endswith(GREETING)


def test_the_server_may_speak_first(client: AnyTLSClient, target: Target) -> None:
    with client.create_connection(target.address, 5).as_socket() as sock:
        target.accept().sendall(b"220 welcome\r\n")
        assert sock.recv(100) == b"220 welcome\r\n"


def test_select_and_selectors(client: AnyTLSClient, target: Target) -> None:
    sock, far = connect(client, target)
    with sock:
        assert select.select([sock], [sock], [], 0.05)[:2] == ([], [sock])
        far.sendall(b"x")
        assert select.select([sock], [], [], 5)[0] == [sock]
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            assert selector.select(5)
        assert sock.recv(10) == b"x"


def test_asyncio(client: AnyTLSClient, site: Site) -> None:
    async def fetch(number: int) -> bytes:
        sock = client.create_connection((site.host, site.port), 5).as_socket()
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(
            f"GET /bytes/{100_000 + number} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def main() -> list[bytes]:
        return await asyncio.gather(*map(fetch, range(10)))

    for number, answer in enumerate(asyncio.run(main())):
        body = answer.partition(b"\r\n\r\n")[2]
        assert hashlib.sha256(body).hexdigest() == body_sha256(100_000 + number)


def test_ssl_wrap_socket(client: AnyTLSClient) -> None:
    with Site(tls=True) as site:
        plain = client.create_connection((site.host, site.port), 5).as_socket()
        with site.ssl_context().wrap_socket(plain, server_hostname="localhost") as sock:
            body = get(sock, "/bytes/3000000").partition(b"\r\n\r\n")[2]
        assert hashlib.sha256(body).hexdigest() == body_sha256(3_000_000)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls in the tunnel"])
def test_fifty_megabytes_both_ways(client: AnyTLSClient, tls: bool) -> None:
    with Site(tls=tls) as site:
        stream = client.create_connection((site.host, site.port), 20)
        secure = stream.start_tls(site.ssl_context(), "localhost") if tls else stream
        block = bytes(range(256)) * 4096
        with secure.as_socket() as sock:
            head = f"POST /echo-hash HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n".encode()
            sock.sendall(head)
            digest = hashlib.sha256()
            left = SIZE
            while left:
                piece = block[:left]
                sock.sendall(piece)
                digest.update(piece)
                left -= len(piece)
            answer = sock.recv(65536)
            while not answer.endswith(b"}"):
                answer += sock.recv(65536)
            assert digest.hexdigest().encode() in answer
            sock.sendall(f"GET /bytes/{SIZE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(1)
            digest = hashlib.sha256()
            while data := sock.recv(1 << 18):
                digest.update(data)
            assert digest.hexdigest() == body_sha256(SIZE)


def test_both_directions_at_once(client: AnyTLSClient, target: Target) -> None:
    sock, far = connect(client, target)
    data = os.urandom(1 << 20) * 8
    with sock:
        far.settimeout(20)
        sock.settimeout(20)
        senders = [Background(sock.sendall, data), Background(far.sendall, data)]
        up = Background(read_exactly, far, len(data))
        assert read_exactly(sock, len(data)) == data
        assert up.result(20) == data
        for sender in senders:
            sender.result()


def test_a_slow_reader_slows_its_sender(client: AnyTLSClient, target: Target, server: AnyTLSServer) -> None:
    sock, far = connect(client, target)
    with sock:
        far.setblocking(False)
        sent = push(far)
        # What lies in the kernel's buffers of three connections, and 64 KiB here.
        assert sent < more_than_buffers(3)
        relay_keeps = [pair._down for pair in shared_relay()._pairs]
        assert [len(kept) <= 64 * 1024 for kept in relay_keeps] == [True]
        far.settimeout(5)
        drained = Background(read_exactly, sock, sent + 3)
        far.sendall(b"end")
        assert drained.result(20).endswith(b"end")


def test_a_slow_target_slows_its_sender(client: AnyTLSClient, target: Target) -> None:
    sock, far = connect(client, target)
    with sock:
        sock.setblocking(False)
        sent = push(sock)
        assert sent < more_than_buffers(3)
        sock.settimeout(5)
        drained = Background(read_exactly, far, sent + 3)
        sock.sendall(b"end")
        assert drained.result(20).endswith(b"end")


def push(sock: socket.socket) -> int:
    """Send until nothing more is taken for half a second; return how much was."""
    sent = 0
    last = time.monotonic()
    while time.monotonic() - last < 0.5 and sent < 2 * more_than_buffers(3):
        try:
            sent += sock.send(bytes(65536))
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    return sent


def test_a_slow_pair_does_not_slow_another(client: AnyTLSClient, target: Target, site: Site) -> None:
    slow, far = connect(client, target)
    with slow:
        far.setblocking(False)
        push(far)
        with client.create_connection((site.host, site.port), 5).as_socket() as sock:
            body = get(sock, "/bytes/5000000").partition(b"\r\n\r\n")[2]
        assert hashlib.sha256(body).hexdigest() == body_sha256(5_000_000)


def test_the_targets_end_is_the_sockets(client: AnyTLSClient, target: Target) -> None:
    sock, far = connect(client, target)
    with sock:
        far.sendall(b"x" * 300_000)
        far.close()
        assert len(read_all(sock)) == 300_000
        wait_until(lambda: client.stats().idle == 1)


def test_the_end_of_the_socket_ends_the_stream_with_all_its_data(
    client: AnyTLSClient, target: Target
) -> None:
    sock, far = connect(client, target)
    sender = Background(lambda: (sock.sendall(b"y" * 3_000_000), sock.close()))
    assert len(read_all(far)) == 3_000_000
    sender.result()
    wait_until(lambda: client.stats().idle == 1)


def test_one_direction_may_end_alone(client: AnyTLSClient, target: Target, kind_of_poller: str) -> None:
    sock, far = connect(client, target)
    with sock:
        sock.sendall(b"question")
        sock.shutdown(socket.SHUT_WR)
        assert far.recv(100) == b"question"
        time.sleep(0.1)
        far.sendall(b"answer")
        far.close()
        assert read_all(sock) == b"answer"


def test_dropped_without_close(client: AnyTLSClient, target: Target) -> None:
    sock, far = connect(client, target)
    with pytest.warns(ResourceWarning):
        del sock
    assert far.recv(1) == b""
    wait_until(lambda: client.stats().idle == 1)


def test_the_client_is_closed(client: AnyTLSClient, target: Target) -> None:
    sock, _ = connect(client, target)
    with sock:
        client.close()
        assert sock.recv(1) == b""


def test_the_session_breaks(
    client: AnyTLSClient, target: Target, server: AnyTLSServer, caplog: pytest.LogCaptureFixture
) -> None:
    sock, _ = connect(client, target)
    with sock, caplog.at_level(logging.INFO):
        server.close_sessions(reset=True)
        assert sock.recv(1) == b""
    wait_until(lambda: "a relayed stream broke" in caplog.text)


def test_a_refused_target(
    client: AnyTLSClient, server: AnyTLSServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.refuse = lambda host, port: "no way"
    with client.create_connection(("nobody.test", 1), 5).as_socket() as sock:
        assert sock.recv(1) == b""
    assert "no way" in caplog.text
    wait_until(lambda: client.stats().idle == 1)


def test_the_sessions_are_used_again(client: AnyTLSClient, site: Site, server: AnyTLSServer) -> None:
    for _ in range(20):
        with client.create_connection((site.host, site.port), 5).as_socket() as sock:
            assert get(sock).endswith(GREETING)
        wait_until(lambda: client.stats().idle == 1)
    assert server.sessions_accepted == 1
    assert sum(thread.name == "anytls-relay" for thread in threading.enumerate()) == 1


def test_heartbeats_of_a_quiet_stream(server: AnyTLSServer, target: Target) -> None:
    # The maintenance thread and the relay read the same session.
    with AnyTLSClient(server.outbound(heartbeat="50ms")) as client:
        sock, far = connect(client, target)
        with sock:
            begin = server.heartbeats_received
            for number in range(50):
                far.sendall(b"%d " % number * 1000)
                assert read_exactly(sock, len(b"%d " % number * 1000)) == b"%d " % number * 1000
                sock.sendall(b"ok")
                assert far.recv(10) == b"ok"
                time.sleep(0.02)
            assert server.heartbeats_received > begin + 5


def test_what_another_thread_has_read_is_not_lost(client: AnyTLSClient, target: Target) -> None:
    sock, far = connect(client, target)
    wait_until(lambda: len(shared_relay()._pairs) == 1)
    (pair,) = shared_relay()._pairs
    stream = pair.stream
    assert isinstance(stream, AnyTLSSocket)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            stream._session.look()

    with sock:
        looker = Background(look)
        data = os.urandom(2_000_000)
        sender = Background(far.sendall, data)
        assert read_exactly(sock, len(data)) == data
        sock.sendall(data)
        assert read_exactly(far, len(data)) == data
        stop.set()
        looker.result()
        sender.result()


def test_the_stream_is_the_relays(client: AnyTLSClient, target: Target) -> None:
    stream = client.create_connection(target.address, 5)
    with stream.as_socket():
        for call in (
            lambda: stream.recv(1),
            lambda: stream.sendall(b"x"),
            lambda: stream.getpeername(),
            lambda: stream.makefile("rb"),
            lambda: stream.as_socket(),
        ):
            with pytest.raises(OSError, match="as_socket"):
                call()
        assert stream.fileno() == -1
        stream.close()
        target.accept().sendall(b"still open")


def test_not_with_open_files_nor_when_closed(client: AnyTLSClient, target: Target) -> None:
    stream = client.create_connection(target.address, 5)
    with stream.makefile("rb"), pytest.raises(ValueError, match="makefile"):
        stream.as_socket()
    stream.close()
    with pytest.raises(OSError, match="closed"):
        stream.as_socket()


def test_fileno_names_it(client: AnyTLSClient, target: Target) -> None:
    with client.create_connection(target.address, 5) as stream, pytest.raises(OSError, match="as_socket"):
        stream.fileno()


def test_no_thread_to_be_had(client: AnyTLSClient, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = client.create_connection(target.address, 5)
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "anytls-relay":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="new thread"):
        stream.as_socket()
    monkeypatch.undo()
    with client.create_connection(target.address, 5).as_socket() as sock:
        target.accept().sendall(b"x")
        assert sock.recv(1) == b"x"


def test_a_failing_pair_ends_alone(
    client: AnyTLSClient, target: Target, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock, far = connect(client, target)
    wait_until(lambda: len(shared_relay()._pairs) == 1)
    (pair,) = shared_relay()._pairs
    other, far_other = connect(client, target)
    with sock, other:
        monkeypatch.setattr(pair, "pump", lambda buffer: 1 / 0)
        far.sendall(b"x")
        assert sock.recv(1) == b""
        far_other.sendall(b"y")
        assert other.recv(1) == b"y"
    assert "relaying failed" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork(client: AnyTLSClient, target: Target, server: AnyTLSServer, site: Site) -> None:
    sock, far = connect(client, target)
    with sock:
        child = os.fork()
        if not child:
            code = 1
            try:
                with client.create_connection((site.host, site.port), 5).as_socket() as own:
                    code = 0 if get(own).endswith(GREETING) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        far.sendall(b"for the parent")
        assert sock.recv(100) == b"for the parent"
    assert far.recv(1) == b""
