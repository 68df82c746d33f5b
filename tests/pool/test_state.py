"""The idle list, the counters and the snapshot that the sessions of one client share."""

from __future__ import annotations

import dataclasses
import random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.errors import AuthenticationError, ClientClosed, SessionClosed
from anytls_http.pool.events import Event
from anytls_http.pool.maintenance import SETTLE_TIME
from anytls_http.pool.stats import CLOSED_BY, CREATED_FOR
from tests.pool.fakes import FakePool, FakeSession

# -- taking and putting back ---------------------------------------------------------------------


def test_the_newest_session_is_reused_first() -> None:
    """Protocol: "Newest idle session (highest sequence number) is reused first"."""
    pool = FakePool()
    pool.add_idle(4)
    taken = [session.sequence for session in iter(pool.take, None)]
    assert taken == [4, 3, 2, 1]


def test_newest_means_its_number_not_when_it_came_back() -> None:
    pool = FakePool()
    sessions = [pool.dial() for _ in range(6)]
    random.Random(5).shuffle(sessions)
    for session in sessions:
        pool.clock.now += 1
        pool.put(session)
    assert pool.idle == [1, 2, 3, 4, 5, 6]
    newest = pool.take()
    assert newest is not None and newest.sequence == 6


def test_there_is_none_to_take_in_an_empty_pool() -> None:
    assert FakePool().take() is None


def test_sequence_numbers_rise_from_1() -> None:
    pool = FakePool()
    assert [pool.state.next_sequence() for _ in range(3)] == [1, 2, 3]


def test_a_session_is_idle_from_when_it_is_put_back() -> None:
    pool = FakePool()
    session = pool.dial()
    pool.clock.now += 100
    pool.put(session)
    assert session.idle_since == pool.clock.now


def test_idle_sessions_are_watched_and_busy_ones_are_not() -> None:
    pool = FakePool()
    session = pool.dial()
    assert pool.watcher.watched == []
    pool.put(session)
    pool.run_for(0.05)
    assert pool.watcher.watched == [session]
    assert pool.take() is session
    assert pool.watcher.watched == []
    pool.put(session)
    pool.run_for(0.05)
    session.close("peer")
    assert pool.watcher.watched == []


def test_sessions_that_are_idle_when_the_thread_comes_are_watched_then() -> None:
    pool = FakePool()
    pool.state.detach(pool.state.watcher)
    (session,) = pool.add_idle()
    assert pool.watcher.watched == []
    pool.state.attach(pool.watcher, pool.wake)  # type: ignore[arg-type]
    assert pool.watcher.watched == [session]


def test_without_a_thread_sessions_are_reused_all_the_same() -> None:
    """Design: "If it can't be started (limits, exit), requests still work"."""
    pool = FakePool(ensure_idle_session=2)
    pool.state.detach(pool.state.watcher)
    (session,) = pool.add_idle()
    assert pool.take() is session
    pool.put(session)
    session.close("peer")
    assert pool.take() is None


def test_a_session_that_was_closed_in_use_is_not_put_back() -> None:
    pool = FakePool()
    session = pool.dial()
    session.close("error")
    pool.put(session)
    assert pool.idle == [] and pool.watcher.watched == []


def test_a_session_that_ends_while_idle_is_not_handed_out() -> None:
    pool = FakePool()
    first, second = pool.add_idle(2)
    second.close("peer")
    assert pool.take() is first
    assert pool.take() is None


def test_nobody_gets_a_session_that_another_has() -> None:
    pool = FakePool()
    pool.add_idle(3)
    taken = {pool.take() for _ in range(3)}
    assert len(taken) == 3 and None not in taken
    assert pool.take() is None


# -- the age rule at the end of a stream ---------------------------------------------------------


def test_a_busy_session_past_its_lifetime_is_closed_when_its_stream_ends() -> None:
    """Protocol: the reference ignores it; here "closed when its stream ends past its lifetime"."""
    pool = FakePool(max_connection_lifetime=60.0)
    session = pool.dial(expires_at=pool.clock.now + 60)
    pool.clock.now += 59.9
    pool.put(session)
    assert pool.take() is session
    pool.clock.now += 0.1
    assert not session.closed, "a busy session is never closed by its age"
    pool.put(session)
    assert session.closed_for == "max_age"
    assert pool.idle == []


def test_a_returning_session_goes_by_the_same_rule_as_an_idle_one() -> None:
    """Design: "leaves at least n idle sessions (all idle ones count, a returning one first)"."""
    pool = FakePool(max_connection_lifetime=60.0, min_idle_session_for_age=2)
    old = [pool.dial(expires_at=pool.clock.now) for _ in range(4)]
    for session in old:
        pool.put(session)
    assert [session.closed_for for session in old] == ["", "", "max_age", "max_age"]
    assert pool.idle == [1, 2]


def test_protected_sessions_may_be_used() -> None:
    """Design: "Protected ones may be used"."""
    pool = FakePool(max_connection_lifetime=60.0, min_idle_session_for_age=1)
    session = pool.dial(expires_at=pool.clock.now)
    pool.put(session)
    assert pool.take() is session and not session.closed


# -- closing the client --------------------------------------------------------------------------


def test_a_closed_client_hands_out_nothing() -> None:
    pool = FakePool()
    (session,) = pool.add_idle()
    assert pool.state.close() == [session.as_session]
    with pytest.raises(ClientClosed):
        pool.take()


def test_close_returns_busy_sessions_too() -> None:
    pool = FakePool()
    busy = pool.dial()
    (idle,) = pool.add_idle()
    assert set(pool.state.close()) == {busy.as_session, idle.as_session}


def test_a_session_that_comes_back_to_a_closed_client_is_closed() -> None:
    pool = FakePool()
    session = pool.dial()
    pool.state.close()
    pool.put(session)
    assert session.closed_for == "client_closed"


def test_a_session_dialled_for_a_closed_client_is_closed() -> None:
    pool = FakePool()
    pool.state.close()
    session = FakeSession(pool.state, sequence=1)
    with pytest.raises(ClientClosed):
        pool.state.add(session.as_session, "demand", 0.1)
    assert session.closed_for == "client_closed"
    assert pool.state.stats().created["demand"] == 0


def test_closing_twice_changes_nothing() -> None:
    pool = FakePool()
    (session,) = pool.add_idle()
    for doomed in pool.state.close():
        doomed.close("client_closed")
    assert pool.state.close() == []
    assert session.closed_for == "client_closed"
    assert pool.state.stats().closed["client_closed"] == 1


# -- waking the maintenance thread ---------------------------------------------------------------


def test_a_drop_below_the_warm_target_wakes_the_maintenance_thread() -> None:
    """Protocol: "session closed by the peer: event, refill by the same rule as any drop"."""
    pool = FakePool(ensure_idle_session=2)
    sessions = pool.add_idle(2, frames_received=1)
    pool.clock.now += 60
    count = pool.wake.count
    sessions[0].close("peer")
    assert pool.wake.count > count


def test_taking_a_session_below_the_warm_target_wakes_the_maintenance_thread() -> None:
    pool = FakePool(ensure_idle_session=1)
    pool.add_idle(2)
    count = pool.wake.count
    pool.take()
    assert pool.wake.count == count, "one is left, one is wanted"
    pool.take()
    assert pool.wake.count > count


def test_where_nothing_is_to_do_the_maintenance_thread_sleeps() -> None:
    pool = FakePool()
    (session,) = pool.add_idle()
    pool.take()
    pool.put(session)
    session.close("peer")
    assert pool.wake.count == 1, "it looks after all that have become idle, a moment later"


def test_waking_a_thread_that_is_not_there_does_nothing() -> None:
    pool = FakePool()
    pool.state.detach(pool.state.watcher)
    pool.state.wake_maintenance()


# -- the snapshot --------------------------------------------------------------------------------


def test_the_snapshot_of_an_unused_pool() -> None:
    stats = FakePool(ensure_idle_session=3).state.stats()
    assert (stats.idle, stats.active, stats.total, stats.oldest_age, stats.deficit) == (0, 0, 0, None, 3)
    assert (stats.streams_opened, stats.bytes_sent, stats.bytes_received) == (0, 0, 0)
    assert stats.created == dict.fromkeys(CREATED_FOR, 0)
    assert stats.closed == dict.fromkeys(CLOSED_BY, 0)


def test_the_snapshot_counts_idle_and_active_sessions_and_the_oldest_age() -> None:
    """Design: "``idle active total oldest_age`` (seconds, None when empty) ``deficit``"."""
    pool = FakePool(ensure_idle_session=4)
    pool.dial()
    pool.clock.now += 5
    pool.add_idle(2)
    pool.clock.now += 2
    stats = pool.state.stats()
    assert (stats.idle, stats.active, stats.total) == (2, 1, 3)
    assert stats.oldest_age == 7.0
    assert stats.deficit == 2


def test_more_idle_sessions_than_wanted_are_no_deficit() -> None:
    pool = FakePool(ensure_idle_session=1)
    pool.add_idle(3)
    assert pool.state.stats().deficit == 0


def test_the_snapshot_tells_what_sessions_were_created_for() -> None:
    """Design: "``created`` (by ``demand``, ``ensure_idle``)"."""
    pool = FakePool()
    pool.dial("demand")
    pool.dial("ensure_idle")
    pool.dial("ensure_idle")
    assert pool.state.stats().created == {"demand": 1, "ensure_idle": 2}


@pytest.mark.parametrize("reason", CLOSED_BY)
def test_the_snapshot_tells_why_sessions_were_closed(reason: str) -> None:
    """Design: "``closed`` (by ``idle_timeout max_age heartbeat_timeout ...``)"."""
    pool = FakePool()
    first, second = pool.add_idle(2)
    first.close(reason)
    first.close(reason)
    stats = pool.state.stats()
    assert stats.closed == {**dict.fromkeys(CLOSED_BY, 0), reason: 1}
    assert stats.total == 1
    second.close(reason)
    assert pool.state.stats().closed[reason] == 2


def test_streams_and_bytes_of_ended_sessions_still_count() -> None:
    pool = FakePool()
    session = pool.dial(streams_opened=2, bytes_sent=10, bytes_received=100)
    pool.dial(streams_opened=1, bytes_sent=5, bytes_received=7)
    before = pool.state.stats()
    session.close("peer")
    after = pool.state.stats()
    for stats in (before, after):
        assert (stats.streams_opened, stats.bytes_sent, stats.bytes_received) == (3, 15, 107)


def test_a_snapshot_does_not_change() -> None:
    pool = FakePool()
    stats = pool.state.stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.idle = 5  # type: ignore[misc]
    pool.dial().close("peer")
    assert stats.created["demand"] == 0 and stats.closed["peer"] == 0


# -- what else it knows --------------------------------------------------------------------------


def test_a_session_that_is_dialled_is_told_to_the_hooks() -> None:
    told: list[Event] = []
    pool = FakePool(hooks={"session_created": [told.append]})
    pool.dial("ensure_idle")
    assert told == [Event("session_created", 1, reason="ensure_idle", seconds=0.01)]


def test_a_frame_on_any_session_says_that_the_password_is_right() -> None:
    pool = FakePool()
    pool.dial().close("peer")
    assert not pool.state.frame_received
    pool.dial(frames_received=1).close("peer")
    assert pool.state.frame_received


def test_the_error_of_a_warm_session_that_the_server_ended_is_kept_for_wait_ready() -> None:
    pool = FakePool(ensure_idle_session=1)
    error = AuthenticationError("wrong password?")
    (session,) = pool.add_idle()
    session.close("peer", error)
    assert pool.state.last_error is error


def test_logs_call_a_client_by_its_tag_or_its_server() -> None:
    state = FakePool().state
    assert state.name == "proxy.example:443"
    state.outbound = dataclasses.replace(state.outbound, tag="anytls-out")
    assert state.name == "anytls-out"


def test_nothing_of_the_password_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool()
    pool.dial().close("peer", SessionClosed("gone"))
    assert "closed session #1 (peer)" in caplog.text
    assert "secret" not in caplog.text


def test_a_forked_child_begins_with_an_empty_pool() -> None:
    """Design: "the child begins with an empty pool, new locks and no thread"."""
    pool = FakePool(ensure_idle_session=2)
    (idle,) = pool.add_idle()
    busy = pool.dial()
    inherited: list[FakeSession] = []
    for session in (idle, busy):
        session.close_inherited = lambda s=session: inherited.append(s)  # type: ignore[attr-defined]
    watcher_closed: list[bool] = []
    pool.watcher.close_inherited = lambda: watcher_closed.append(True)  # type: ignore[attr-defined]
    wakes = pool.wake.count
    pool.state.lock.acquire()  # held by a thread that the child doesn't have
    pool.state.refill.dialing = 5
    pool.state.after_fork_in_child()
    assert set(inherited) == {idle, busy} and watcher_closed == [True]
    stats = pool.state.stats()
    assert (stats.total, stats.idle) == (0, 0)
    assert pool.state.refill.dialing == 0 and pool.state.watcher is None
    pool.state.wake_maintenance()
    assert pool.wake.count == wakes, "no wake-up reaches the parent's thread"


# -- any order of things -------------------------------------------------------------------------

ACTIONS = st.lists(st.sampled_from(["dial", "take", "put", "close idle", "close busy", "wait"]), max_size=60)


@given(ACTIONS, st.integers(0, 3), st.integers(0, 2**32))
def test_the_idle_list_is_always_in_order_and_every_session_counted_once(
    actions: list[str], protected: int, seed: int
) -> None:
    rng = random.Random(seed)
    pool = FakePool(max_connection_lifetime=5.0, min_idle_session_for_age=protected)
    busy: list[FakeSession] = []
    for action in actions:
        idle = cast("list[FakeSession]", list(pool.state.idle))
        if action == "dial":
            busy.append(pool.dial(expires_at=pool.clock.now + 5))
        elif action == "take":
            taken = pool.take()
            assert (taken is None) == (not idle)
            if taken is not None:
                assert taken.sequence == max(session.sequence for session in idle)
                busy.append(taken)
        elif action == "put" and busy:
            pool.put(busy.pop(rng.randrange(len(busy))))
        elif action == "close idle" and idle:
            rng.choice(idle).close("peer")
        elif action == "close busy" and busy:
            busy.pop(rng.randrange(len(busy))).close("error")
        elif action == "wait":
            pool.clock.now += 2
        assert pool.idle == sorted(set(pool.idle))
        assert {session.sequence for session in pool.watcher.watched} <= set(pool.idle)
        if action == "wait":
            pool.run_for(5 * SETTLE_TIME)
            assert {session.sequence for session in pool.watcher.watched} == set(pool.idle)
        stats = pool.state.stats()
        assert (stats.idle, stats.active) == (len(pool.idle), len(busy))
        assert sum(stats.created.values()) - sum(stats.closed.values()) == stats.total
