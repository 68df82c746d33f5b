"""Watching sessions for input: real socket pairs, the epoll watcher and the one for systems without epoll."""

from __future__ import annotations

import os
import random
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import cast

import pytest

from anytls_http.pool.session import Session
from anytls_http.pool.watcher import Watcher, _Selector
from tests.support.timing import STARVED

#: Seconds after which a wait that should have ended has failed the test.
LONG = 10.0
#: Waits that a configuration may ask for: 30 days are more milliseconds than an int holds; Go's longest duration.
LONG_INTERVALS = (30 * 86400.0, 9.2e9)


class FakeSession:
    """A session that is a socket only."""

    def __init__(self, stack: ExitStack) -> None:
        self.here, self.there = (stack.enter_context(end) for end in socket.socketpair())
        self.closed = False

    def fileno(self) -> int:
        return self.here.fileno()

    @property
    def as_session(self) -> Session:
        return cast(Session, self)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=["as it is here", "without epoll", "select alone"])
def watcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    if request.param != "as it is here":
        monkeypatch.delattr(select, "epoll", raising=False)
    if request.param == "select alone":  # as on Windows
        monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    watcher = Watcher()
    yield watcher
    watcher.close()


def add(watcher: Watcher, stack: ExitStack) -> FakeSession:
    session = FakeSession(stack)
    watcher.watch(session.as_session)
    return session


def drain(watcher: Watcher) -> None:
    """Let the fallback take its changes: each one wakes who waits."""
    assert watcher.wait(0) == []


def in_thread(stack: ExitStack, act: Callable[[], object]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    stack.callback(thread.join)


def wait_asleep(watcher: Watcher) -> tuple[list[Session], threading.Thread]:
    found: list[Session] = []
    ready = threading.Event()

    def wait() -> None:
        ready.set()
        found.extend(watcher.wait(LONG))

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    return found, thread


def wait_for_input(watcher: Watcher) -> list[FakeSession]:
    """Wait as the maintenance does: a wake-up for a change alone is no report."""
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        found = watcher.wait(LONG)
        if found:
            return cast("list[FakeSession]", found)
    raise AssertionError("nothing was reported")


def test_a_session_with_input_is_reported(watcher: Watcher, stack: ExitStack) -> None:
    quiet, loud = add(watcher, stack), add(watcher, stack)
    loud.there.send(b"x")
    assert wait_for_input(watcher) == [loud]
    assert quiet is not loud


def test_a_session_whose_peer_closes_is_reported(watcher: Watcher, stack: ExitStack) -> None:
    session = add(watcher, stack)
    session.there.close()
    assert wait_for_input(watcher) == [session]


def test_several_are_reported_at_once(watcher: Watcher, stack: ExitStack) -> None:
    sessions = [add(watcher, stack) for _ in range(20)]
    drain(watcher)
    for session in sessions[::2]:
        session.there.send(b"x")
    assert set(watcher.wait(LONG)) == {session.as_session for session in sessions[::2]}


def test_what_is_not_read_is_reported_again(watcher: Watcher, stack: ExitStack) -> None:
    session = add(watcher, stack)
    session.there.send(b"x")
    assert wait_for_input(watcher) == wait_for_input(watcher) == [session]
    session.here.recv(1)
    assert watcher.wait(0) == []


def test_without_input_it_waits_as_long_as_it_was_told(watcher: Watcher, stack: ExitStack) -> None:
    add(watcher, stack)
    drain(watcher)
    begin = time.monotonic()
    assert watcher.wait(0.05) == []
    assert 0.049 <= time.monotonic() - begin < 1 + STARVED


def test_a_due_time_less_than_a_millisecond_away_is_not_met_early(watcher: Watcher) -> None:
    """Else the thread would spin until it is there."""
    drain(watcher)
    for _ in range(5):
        begin = time.monotonic()
        watcher.wait(0.0004)
        assert time.monotonic() - begin >= 0.0004


def test_a_wait_of_0_returns_at_once(watcher: Watcher) -> None:
    begin = time.monotonic()
    assert watcher.wait(0) == []
    assert time.monotonic() - begin < 1 + STARVED


def test_the_wake_up_ends_a_wait(watcher: Watcher) -> None:
    drain(watcher)
    found, thread = wait_asleep(watcher)
    watcher.wake_writer.send(b"\0")
    thread.join(LONG)
    assert not thread.is_alive() and found == []


def test_a_wake_up_that_came_before_the_wait_ends_it_too(watcher: Watcher) -> None:
    drain(watcher)
    watcher.wake_writer.send(b"\0")
    begin = time.monotonic()
    assert watcher.wait(LONG) == []
    assert time.monotonic() - begin < LONG / 2


def test_many_wake_ups_are_one(watcher: Watcher) -> None:
    drain(watcher)
    with pytest.raises(BlockingIOError):
        while True:
            watcher.wake_writer.send(b"\0" * 4096)
    assert watcher.wait(LONG) == []
    begin = time.monotonic()
    assert watcher.wait(0.02) == []
    assert time.monotonic() - begin >= 0.019, "woken again by an old wake-up"


def test_a_wait_without_limit_ends_with_a_wake_up(watcher: Watcher) -> None:
    watcher.wake_writer.send(b"\0")
    assert watcher.wait(None) == []


def test_a_wait_may_be_longer_than_a_month(watcher: Watcher) -> None:
    """epoll itself takes no time-out above 2**31 ms (24.8 days)."""
    for timeout in LONG_INTERVALS:
        watcher.wake_writer.send(b"\0")
        assert watcher.wait(timeout) == []


def test_a_session_is_watched_while_another_thread_waits(watcher: Watcher, stack: ExitStack) -> None:
    session = FakeSession(stack)
    session.there.send(b"x")
    in_thread(stack, lambda: watcher.watch(session.as_session))
    assert wait_for_input(watcher) == [session]


def test_a_session_that_is_unwatched_is_not_reported(watcher: Watcher, stack: ExitStack) -> None:
    session, other = add(watcher, stack), add(watcher, stack)
    session.there.send(b"x")
    assert wait_for_input(watcher) == [session]
    watcher.unwatch(session.as_session)
    drain(watcher)
    assert watcher.wait(0) == []
    other.there.send(b"x")
    assert wait_for_input(watcher) == [other]


def test_a_session_may_be_watched_again(watcher: Watcher, stack: ExitStack) -> None:
    session = add(watcher, stack)
    for _ in range(3):
        watcher.unwatch(session.as_session)
        watcher.watch(session.as_session)
    session.there.send(b"x")
    assert wait_for_input(watcher) == [session]


def test_watching_and_unwatching_twice_is_once(watcher: Watcher, stack: ExitStack) -> None:
    session = add(watcher, stack)
    watcher.watch(session.as_session)
    watcher.unwatch(session.as_session)
    watcher.unwatch(session.as_session)
    session.there.send(b"x")
    drain(watcher)
    assert watcher.wait(0) == []


def test_a_closed_session_is_not_watched(watcher: Watcher, stack: ExitStack) -> None:
    session = FakeSession(stack)
    session.closed = True
    watcher.watch(session.as_session)
    session.there.send(b"x")
    drain(watcher)
    assert watcher.wait(0) == []


def test_a_descriptor_that_is_used_anew_is_the_new_sessions(watcher: Watcher, stack: ExitStack) -> None:
    """The number of a closed socket is given to the next one, before who waits has looked."""
    old = add(watcher, stack)
    drain(watcher)
    number = old.fileno()
    new = FakeSession(stack)
    old.closed = True
    watcher.unwatch(old.as_session)
    os.dup2(new.fileno(), number)
    old.here.detach()
    new.here.close()
    new.here = stack.enter_context(socket.socket(fileno=number))
    watcher.watch(new.as_session)
    new.there.send(b"x")
    assert wait_for_input(watcher) == [new]


def test_a_session_that_ends_just_before_the_wait_does_no_harm(
    watcher: Watcher, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is unwatched and closed between the queue of changes and the call of select, which raises then."""
    session, other = add(watcher, stack), add(watcher, stack)
    drain(watcher)
    poller = watcher._poller
    if isinstance(poller, _Selector):
        wait = poller._selector.select

        def end_and_wait(timeout: float | None = None) -> object:
            if not session.closed:
                session.closed = True
                watcher.unwatch(session.as_session)
                session.here.close()
            return wait(timeout)

        monkeypatch.setattr(poller._selector, "select", end_and_wait)
    else:
        watcher.unwatch(session.as_session)
        session.here.close()
    drain(watcher)
    other.there.send(b"x")
    assert wait_for_input(watcher) == [other]


def test_close_leaves_the_sessions_open(watcher: Watcher, stack: ExitStack) -> None:
    session = add(watcher, stack)
    watcher.close()
    session.there.send(b"x")
    assert session.here.recv(1) == b"x"
    assert watcher.wake_writer.fileno() == -1


def test_after_close_and_a_second_one_the_others_calls_do_nothing(watcher: Watcher, stack: ExitStack) -> None:
    """Any thread may still be about to put a session back."""
    session = add(watcher, stack)
    watcher.close()
    watcher.close()
    watcher.unwatch(session.as_session)
    watcher.watch(session.as_session)


def test_a_forked_childs_close_leaves_the_parents_watching(stack: ExitStack) -> None:
    """Design: "no unregister: that would remove the parent's epoll entry"."""
    if not hasattr(select, "epoll"):
        pytest.skip("about epoll")
    watcher = Watcher()
    stack.callback(watcher.close)
    session = add(watcher, stack)
    # What a fork leaves in the child: its own descriptors of the same open files.
    child = Watcher()
    child._sessions, child._descriptors = dict(watcher._sessions), dict(watcher._descriptors)
    child._poller.close()
    child._poller._epoll = select.epoll.fromfd(os.dup(watcher._poller._epoll.fileno()))  # type: ignore[union-attr]
    child.close_inherited()
    session.there.send(b"x")
    assert watcher.wait(LONG) == [session.as_session]


def test_threads_that_come_and_go_lose_no_session(watcher: Watcher, stack: ExitStack) -> None:
    """Sessions are taken and put back by four threads while one waits; each that has input is reported."""
    sessions = [add(watcher, stack) for _ in range(8)]

    def come_and_go(mine: list[FakeSession]) -> None:
        rng = random.Random(len(mine))
        for _ in range(50):
            session = rng.choice(mine)
            watcher.unwatch(session.as_session)
            watcher.watch(session.as_session)
        for session in mine:
            session.there.send(b"x")

    threads = [threading.Thread(target=come_and_go, args=(sessions[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    missing = {session.as_session for session in sessions}
    deadline = time.monotonic() + LONG
    while missing and time.monotonic() < deadline:
        missing -= set(watcher.wait(0.1))
    for thread in threads:
        thread.join(LONG)
    assert not missing
