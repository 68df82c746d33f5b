"""The end of clients, sockets and processes: who is blocked is woken, nothing is left, nothing foreign is touched."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import os
import pickle
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from anytls_http import AnyTLSClient, AnyTLSTimeout, ClientClosed, SessionClosed
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING
from tests.sockets.targets import Background, FullBacklog, Target, get
from tests.support.buffers import OVERFLOW
from tests.support.timing import takes, wait_until


class TestCloseOfTheClient:
    def test_wakes_a_reader(self, client: AnyTLSClient, target: Target) -> None:
        sock = client.create_connection(target.address, timeout=None)
        reader = Background(sock.recv, 1)
        target.accept()
        with takes(0, 0.5):
            client.close()
            assert isinstance(reader.error(), ClientClosed)
        with pytest.raises(ClientClosed):
            sock.recv(1)
        with pytest.raises(ClientClosed):
            sock.sendall(b"x")
        sock.close()

    def test_wakes_a_writer(self, client: AnyTLSClient, target: Target) -> None:
        sock = client.create_connection(target.address, timeout=None)
        sock.sendall(b"x")
        target.accept()
        writer = Background(sock.sendall, bytes(OVERFLOW))
        time.sleep(0.2)
        assert writer.running
        with takes(0, 0.5):
            client.close()
            assert isinstance(writer.error(), ClientClosed)
        sock.close()

    def test_wakes_both_and_one_who_waits_for_the_opening(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        sock = client.create_connection(target.address, timeout=None)
        sock.sendall(b"x")
        target.accept()
        server.wait_for(lambda: server.sessions[0].streams[0].opened)
        server.faults.withhold_synack = True
        opening = Background(client.create_connection, target.address, timeout=None, wait_open=True)
        server.wait_for(lambda: server.streams_opened == 2)
        reader = Background(sock.recv, 1)
        writer = Background(sock.sendall, bytes(OVERFLOW))
        time.sleep(0.1)
        with takes(0, 0.5):
            client.close()
            for call in (opening, reader, writer):
                assert isinstance(call.error(), ClientClosed)
        sock.close()

    def test_wakes_one_who_dials(self, server: AnyTLSServer) -> None:
        server.freeze()
        client = AnyTLSClient(server.outbound())
        dialler = Background(client.create_connection, ("target.test", 80), timeout=None)
        server.wait_for(lambda: len(server.connections) == 1)
        time.sleep(0.05)
        with takes(0, 0.5):
            client.close()
            assert isinstance(dialler.error(), ClientClosed)

    def test_wakes_those_who_wait_for_tcp(self, server: AnyTLSServer) -> None:
        with FullBacklog() as port:
            client = AnyTLSClient(server.outbound(server_port=port, ensure_idle_session=2))
            dialler = Background(client.create_connection, ("target.test", 80), timeout=None)
            waiter = Background(client.wait_ready, 2)
            time.sleep(0.05)
            with takes(0, 0.5):
                client.close()
                assert isinstance(dialler.error(), ClientClosed)
                assert isinstance(waiter.error(), ClientClosed)

    def test_from_the_maintenance_thread(self, server: AnyTLSServer, target: Target) -> None:
        client = AnyTLSClient(server.outbound(), event_hooks={"alert": [lambda event: client.close()]})
        client.create_connection(target.address, timeout=5, wait_open=True).close()
        server.alert("end it all")
        wait_until(lambda: repr(client).endswith("closed>"))
        wait_until(lambda: maintenance_threads() == [])
        client.close()

    def test_leaves_numbers_behind(self, client: AnyTLSClient, server: AnyTLSServer, target: Target) -> None:
        client.wait_ready(2, timeout=5)
        sock = client.create_connection(target.address, timeout=5)
        client.close()
        client.close()
        stats = client.stats()
        assert (stats.idle, stats.active, stats.total, stats.oldest_age) == (0, 0, 0, None)
        assert stats.closed["client_closed"] == 2
        assert repr(client).endswith("closed>")
        server.wait_for(lambda: server.live_sessions == [])
        sock.close()
        assert client.stats() == stats
        for call in (lambda: client.create_connection(target.address), client.wait_ready):
            with pytest.raises(ClientClosed):
                call()


def test_each_of_two_who_wait_gets_its_sessions(server: AnyTLSServer) -> None:
    """The one who wants fewer leaves first; the other's are dialled all the same."""
    for _ in range(5):
        with AnyTLSClient(server.outbound()) as client:
            more = Background(client.wait_ready, 6, 5)
            client.wait_ready(1, 5)
            more.result()
            assert client.stats().idle == 6


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((2.5, 1), TypeError),
        (("2", 1), TypeError),
        ((1, -1), ValueError),
        ((1, math.nan), ValueError),
        ((1, "x"), ValueError),
    ],
)
def test_what_cannot_be_waited_for(server: AnyTLSServer, arguments: Any, error: type[Exception]) -> None:
    with AnyTLSClient(server.outbound()) as client:
        with pytest.raises(error):
            client.wait_ready(*arguments)
        client.wait_ready(1, timeout=5)
        assert client.stats().idle == 1
        assert maintenance_threads() != []


def test_a_hook_that_exits_does_not_keep_sessions_open(server: AnyTLSServer) -> None:
    client = AnyTLSClient(server.outbound(), event_hooks={"session_closed": [lambda event: sys.exit(1)]})
    client.wait_ready(3, timeout=5)
    client.close()
    assert client.stats().total == 0
    server.wait_for(lambda: server.live_sessions == [])


def test_a_huge_warm_target_ends_with_the_client(server: AnyTLSServer) -> None:
    with AnyTLSClient(server.outbound()) as client:
        with pytest.raises(AnyTLSTimeout):
            client.wait_ready(10**6, 0.05)
        with takes(0, 3):
            client.close()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("anytls-dial")])


class TestCloseOfASocket:
    def test_from_a_third_thread(self, client: AnyTLSClient, target: Target) -> None:
        sock = client.create_connection(target.address, timeout=None)
        sock.sendall(b"x")
        target.accept()
        reader = Background(sock.recv, 1)
        writer = Background(sock.sendall, bytes(OVERFLOW))
        time.sleep(0.1)
        assert reader.running
        assert writer.running
        with takes(0, 0.5):
            sock.close()
            assert isinstance(reader.error(), (SessionClosed, OSError))
            assert isinstance(writer.error(), (SessionClosed, OSError))
        # A session that somebody was inside is not used again.
        assert client.stats().total == 0
        with client.create_connection(target.address, timeout=5) as again:
            again.sendall(b"y")
            assert target.accept().recv(1) == b"y"

    def test_while_another_thread_uses_the_session_next(
        self, client: AnyTLSClient, server: AnyTLSServer, site: Site
    ) -> None:
        # A reader that comes late, with its socket closed and the session in other hands, disturbs nobody.
        address = ("127.0.0.1", site.port)
        for _ in range(30):
            sock = client.create_connection(address, timeout=5)
            sock.sendall(b"GET /slow?seconds=9 HTTP/1.1\r\nHost: site.test\r\n\r\n")
            late = Background(sock.recv, 10)
            sock.close()
            with client.create_connection(address, timeout=5) as other:
                assert get(other).endswith(GREETING)
            assert isinstance(late.error(), OSError)

    def test_an_interrupted_reader_drops_the_session(
        self, client: AnyTLSClient, site: Site, target: Target
    ) -> None:
        # Ctrl-C may have come between a read and its bookkeeping.
        sock = client.create_connection(target.address, timeout=10)
        sock.sendall(b"x")
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with takes(0.05, 1), pytest.raises(Interrupted):
                sock.recv(1)
        finally:
            signal.signal(signal.SIGALRM, before)
        sock.close()
        assert client.stats().closed["error"] == 1
        with client.create_connection(("127.0.0.1", site.port), timeout=5) as other:
            assert get(other).endswith(GREETING)

    def test_an_interrupted_reader_reads_nothing_beyond_a_gap(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        for step in itertools.count(1):
            sock = client.create_connection(target.address, timeout=10)
            sock.sendall(b"x")
            far = target.accept()
            for _ in range(3):
                far.sendall(bytes(3000))  # a frame each
            assert sock.recv(10) == bytes(10)
            wait_until(lambda: server.sessions[-1].streams[-1].bytes_down >= 9000)
            try:
                with interrupted_at(step, "_receive"):
                    sock.recv_into(bytearray(5000))
            except Interrupted:
                with pytest.raises(SessionClosed, match="interrupted"):
                    sock.recv(1)
            else:
                assert step > 20
                break
            finally:
                sock.close()
                far.close()

    def test_a_dropped_socket_gives_its_session_back(
        self, client: AnyTLSClient, server: AnyTLSServer, target: Target
    ) -> None:
        sock = client.create_connection(target.address, timeout=5)
        sock.sendall(b"x")
        far = target.accept()
        socks = [sock]
        del sock
        with pytest.warns(ResourceWarning, match="unclosed <AnyTLSSocket"):
            socks.clear()
        assert far.recv(10) == b"x"
        assert far.recv(10) == b""
        wait_until(lambda: client.stats().idle == 1)
        assert server.sessions_accepted == 1

    def test_it_does_so_where_warnings_are_errors(self, client: AnyTLSClient, target: Target) -> None:
        sock = client.create_connection(target.address, timeout=5)
        with warnings.catch_warnings(), unraisable_ignored():
            warnings.simplefilter("error")
            del sock
            gc.collect()
        wait_until(lambda: client.stats().idle == 1)

    def test_an_abandoned_download_does_not_hold_up_the_next(
        self, client: AnyTLSClient, server: AnyTLSServer, site: Site
    ) -> None:
        address = ("127.0.0.1", site.port)
        for size in (20_000, 50_000_000):
            with client.create_connection(address, timeout=5) as sock:
                get(sock, f"/bytes/{size}", close=False)
                assert sock.recv(100).startswith(b"HTTP/1.1 200")
                if size > 100_000:
                    wait_until(lambda: sock._session._tls.unread() > 70_000)
            with takes(0, 1), client.create_connection(address, timeout=5) as sock:
                assert get(sock).endswith(GREETING)
        # Little that is unread is read over; for much, a new session is cheaper.
        assert server.sessions_accepted == 2
        assert client.stats().closed["client_closed"] == 1

    def test_whose_doing_it_was(self, client: AnyTLSClient, target: Target) -> None:
        # What was on its way here meets a closed connection, which the system may call a reset.
        with client.create_connection(target.address, timeout=5) as sock:
            sock.sendall(b"x")
            sock._session.close("client_closed")
            broken = SessionClosed("the connection to the server broke: Connection reset by peer")
            assert str(sock._session._break(broken)) == "the connection was closed"


class Interrupted(BaseException):
    """As KeyboardInterrupt, which would end the test run."""


def interrupt(number: int, frame: object) -> None:
    raise Interrupted


@contextlib.contextmanager
def interrupted_at(step: int, function: str) -> Iterator[None]:
    """Interrupt this thread before it runs so many lines of the ``function`` of a session."""
    steps = itertools.count(1)

    def in_function(frame: FrameType, event: str, arg: object) -> object:
        if event == "line" and next(steps) == step:
            raise Interrupted
        return in_function

    def everywhere(frame: FrameType, event: str, arg: object) -> object:
        code = frame.f_code
        return in_function if code.co_name == function and "/pool/" in code.co_filename else None

    before = sys.gettrace()
    sys.settrace(everywhere)
    try:
        yield
    finally:
        sys.settrace(before)


@contextlib.contextmanager
def unraisable_ignored() -> Iterator[None]:
    before, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = before


def maintenance_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("anytls-maintenance")]


class TestDroppedClient:
    def test_its_thread_ends_and_its_sessions_are_closed(self, server: AnyTLSServer) -> None:
        client = AnyTLSClient(server.outbound(ensure_idle_session=2))
        client.wait_ready(2, timeout=5)
        assert len(maintenance_threads()) == 1
        gone = weakref.ref(client)
        del client
        gc.collect()
        assert gone() is None
        server.wait_for(lambda: server.sessions_accepted == 2 and server.live_sessions == [])
        wait_until(lambda: maintenance_threads() == [])

    def test_a_socket_keeps_its_pool(self, server: AnyTLSServer, site: Site) -> None:
        sock = AnyTLSClient(server.outbound()).create_connection(("127.0.0.1", site.port), timeout=5)
        gc.collect()
        assert get(sock).endswith(GREETING)
        sock.close()
        del sock
        gc.collect()
        server.wait_for(lambda: server.live_sessions == [])


def in_child(action: Callable[[], str]) -> str:
    """Fork, do ``action`` in the child, and return what it returned."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork with threads
        pid = os.fork()
    if pid == 0:
        text = "the child failed"
        try:
            os.close(reader)
            text = action()
        except BaseException as exc:
            text = repr(exc)
        finally:
            os.write(writer, text.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        text = file.read().decode()
    os.waitpid(pid, 0)
    return text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
class TestFork:
    def test_the_child_begins_anew_and_the_parent_goes_on(
        self, server: AnyTLSServer, site: Site, target: Target
    ) -> None:
        address = ("127.0.0.1", site.port)
        with AnyTLSClient(server.outbound()) as client:
            client.wait_ready(2, timeout=5)
            with client.create_connection(target.address, timeout=5) as busy:
                busy.sendall(b"before")
                far = target.accept()
                assert far.recv(10) == b"before"

                def child() -> str:
                    stats = client.stats()
                    if stats.total or maintenance_threads():
                        return repr(stats)
                    if not busy.is_readable():
                        return "a connection of the parent looks alive"
                    for call in (lambda: busy.recv(1), lambda: busy.sendall(b"x")):
                        with contextlib.suppress(SessionClosed):
                            return f"a connection of the parent can be used: {call()!r}"
                    with client.create_connection(address, timeout=5) as sock:
                        answer = get(sock)
                    client.wait_ready(2, timeout=5)
                    if maintenance_threads() == []:
                        return "no maintenance"
                    client.close()
                    busy.close()
                    return "fine" if answer.endswith(GREETING) else repr(answer)

                assert in_child(child) == "fine"
                assert server.sessions_accepted == 4
                # The parent's sessions are as they were: the busy one and the idle one.
                busy.sendall(b"after")
                assert far.recv(10) == b"after"
                with client.create_connection(address, timeout=5) as sock:
                    assert get(sock).endswith(GREETING)
            assert server.sessions_accepted == 4
            assert client.stats().idle == 2
            server.close_sessions()
            wait_until(lambda: client.stats().idle == 0)

    def test_a_child_of_a_thread_that_holds_a_lock(self, server: AnyTLSServer, site: Site) -> None:
        with AnyTLSClient(server.outbound()) as client:
            client.wait_ready(1, timeout=5)
            with client._pool.state.lock:
                # The child's copy of this lock is never released.
                def child() -> str:
                    with client.create_connection(("127.0.0.1", site.port), timeout=5) as sock:
                        answer = get(sock)
                    client.close()
                    return "fine" if answer.endswith(GREETING) else repr(answer)

                assert in_child(child) == "fine"


def test_a_client_cant_be_pickled(client: AnyTLSClient) -> None:
    with pytest.raises(TypeError, match="pickle its configuration"):
        pickle.dumps(client)
    again = pickle.loads(pickle.dumps(client.outbound))
    assert again == client.outbound


def test_a_finalizer_inside_the_pools_lock_leaves_the_end_to_others(
    client: AnyTLSClient, target: Target
) -> None:
    """Garbage collection may close a stream at any allocation, under the pool's lock too."""
    sock = client.create_connection(target.address, timeout=5, wait_open=True)
    with client._pool.state.lock:
        sock.close()
        assert client._pool.state.sessions
    wait_until(lambda: client.stats().active == 0)
    assert client.stats().total == 1
