"""A session whose user was interrupted is not lost."""

from __future__ import annotations

from anytls_http.pool.lease import Lease
from tests.pool.fakes import FakePool


def test_a_session_whose_lease_has_died_is_closed() -> None:
    pool = FakePool()
    (session,) = pool.add_idle()
    assert pool.take() is session
    session.taken_by = None  # as the end of the frame that held it
    assert pool.wake.pending
    assert not session.closed, "a finalizer may run inside any lock"
    pool.run()
    assert session.closed_for == "error"
    assert pool.state.stats().total == 0


def test_a_session_that_was_given_back_stays() -> None:
    pool = FakePool()
    (session,) = pool.add_idle()
    pool.take()
    pool.put(session)
    session.taken_by = None
    pool.run()
    assert not session.closed
    assert pool.idle == [session.sequence]


def test_a_session_that_was_taken_anew_stays() -> None:
    pool = FakePool()
    (session,) = pool.add_idle()
    pool.take()
    first = session.taken_by
    pool.put(session)
    pool.take()
    del first
    pool.run()
    assert not session.closed


def test_an_interrupt_before_the_session_was_taken_off_the_idle_ones() -> None:
    pool = FakePool()
    (session,) = pool.add_idle()
    pool.watcher.unwatch(session)
    Lease(pool.state, session.as_session)  # and its end at once
    pool.run_for(0.05)
    assert not session.closed
    assert pool.idle == [session.sequence]
    assert pool.watcher.watched == [session], "the interrupt may have come before that"


def test_a_role_that_is_left_held_does_not_keep_the_descriptor() -> None:
    pool = FakePool()
    (session,) = pool.add_idle()
    session.is_released = False
    pool.take()
    session.taken_by = None
    pool.run()
    assert session.closed
    assert not session.is_released, "somebody may still be on his way out"
    pool.run_until(pool.clock.now + 5.0)
    assert session.is_released


def test_the_end_of_the_client_releases_at_once() -> None:
    pool = FakePool()
    sessions = pool.add_idle(2)
    for session in sessions:
        session.is_released = False
    for _ in sessions:
        taken = pool.take()
        assert taken is not None
        taken.taken_by = None
        pool.run()
    pool.maintenance.release_lost()
    assert all(session.is_released for session in sessions)
