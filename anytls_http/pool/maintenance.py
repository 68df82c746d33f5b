"""The one background thread of a client: it does what no caller is waiting for.

It watches the idle sessions, sends heartbeats and judges them, runs the check cycle (idle time, age)
and keeps ``ensure_idle_session`` sessions warm. It never blocks on one session, and survives any error
of one. It holds the pool by weakref only: when nobody uses the pool any more, it closes the sessions
and ends.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable

from anytls_http.errors import AnyTLSError, ClientClosed, SessionClosed

from . import rules
from .dialer import dial
from .lease import Lease
from .session import Session
from .state import PoolState
from .watcher import Watcher

logger = logging.getLogger("anytls_http.pool")

#: How long a session is idle before it is watched, and its last stream's FIN sent (seconds). Many are taken again
#: before. Then the FIN leaves with the next SYN, and two system calls are saved, each of which gives up the GIL.
SETTLE_TIME = 0.01

#: Refill dials at a time; more wait for a free place.
MAX_DIALS = 8

#: Heartbeats that are due so soon after another one are sent together with it (seconds).
BEAT_SLACK = 0.1

#: How long somebody may still be inside a session that has ended (seconds): the end wakes whoever waits there.
ROLE_PATIENCE = 5.0

_numbers = itertools.count(1)


#: When, a number that keeps the order, on which session, what.
Entry = tuple[float, int, Session, Callable[[Session, float], None]]


class Maintenance:
    """What is due when; :meth:`run_due` does it. :func:`start` puts it on a thread.

    Without a thread it can be driven by a test with a clock of its own.
    """

    def __init__(self, state: PoolState, start_dial: Callable[[PoolState], None] | None = None) -> None:
        self._state = state
        self._start_dial = start_dial or start_refill_dial
        self._next_check = state.clock() + state.options.idle_session_check_interval
        self._next_settling = 0.0
        self._counter = itertools.count()
        self._heap: list[Entry] = []

    def next_due(self) -> float:
        """Return when :meth:`run_due` has something to do, if nothing else happens."""
        due = self._next_check
        while self._heap and self._is_settled(self._heap[0]):
            heapq.heappop(self._heap)  # waking up for it would cost more than all the rest of a heartbeat
        if self._heap:
            due = min(due, self._heap[0][0])
        if self._next_settling:
            due = min(due, self._next_settling)
        state = self._state
        with state.lock:
            missing = state.refill.target - len(state.idle) - state.refill.dialing
            if missing > 0 and state.refill.not_before > state.clock():
                due = min(due, state.refill.not_before)
        return due

    def run_due(self, ready: list[Session]) -> None:
        """Do what is due now; ``ready`` are the idle sessions on which something has arrived."""
        state = self._state
        for session in ready:
            self._guarded(self._take_in, session)
        while state.abandoned:
            state.abandoned.popleft()()
        now = state.clock()
        while state.drains:
            self._guarded(self._begin_drain, state.drains.popleft())
        while state.lost:
            self._at(now + ROLE_PATIENCE, state.lost.popleft(), self._release)
        while state.newcomers:
            session = state.newcomers.popleft()
            if state.options.heartbeat is not None:
                # Spread by jitter: sessions made together must not beat together.
                self._at(now + state.options.heartbeat * state.rng.uniform(0.5, 1.0), session, self._beat)
        self._settle(now)
        # One wake-up serves the heartbeats that are about to be due; a verdict never comes early.
        while self._heap and (self._heap[0][0] <= now or self._is_beat_soon(self._heap[0], now)):
            entry = heapq.heappop(self._heap)
            _, _, session, act = entry
            if not self._is_settled(entry):
                self._guarded(lambda s, act=act: act(s, now), session)  # type: ignore[misc]
        if now >= self._next_check:
            self._next_check = now + state.options.idle_session_check_interval
            self.check(now)
        self.refill(now)

    def _guarded(self, act: Callable[[Session], None], session: Session) -> None:
        try:
            act(session)
        except AnyTLSError as exc:
            session.close("error", exc)
        except Exception:
            logger.exception("maintenance of session #%d failed", session.sequence)
            session.close("error", SessionClosed("maintenance of the session failed"))

    # -- what arrives on idle sessions -----------------------------------------------------------------

    def _begin_drain(self, session: Session) -> None:
        watcher = self._state.watcher
        if watcher is not None:
            watcher.watch(session)
        self._at(self._state.clock() + rules.DRAIN_TIME, session, self._end_drain)
        self._drain(session)

    def _drain(self, session: Session) -> None:
        session.look()
        if session.closed:
            return
        if not session.is_draining:
            self._state.drained(session)
        elif session.unasked_bytes > rules.DRAIN_SIZE:
            self._give_up(session)

    def _end_drain(self, session: Session, now: float) -> None:
        if session in self._state.draining and session.is_draining:
            self._give_up(session)

    def _give_up(self, session: Session) -> None:
        logger.debug(
            "[%s] session #%d: too much is still coming of its last stream",
            self._state.name,
            session.sequence,
        )
        session.close("client_closed")

    def _take_in(self, session: Session) -> None:
        if session in self._state.draining:
            self._drain(session)
            return
        with self._state.lock:
            idle = session in self._state.idle
        if idle:
            session.look()
            if rules.is_flood(self._state.clock(), session):
                logger.warning(
                    "[%s] session #%d: the server sends without end", self._state.name, session.sequence
                )
                session.close(
                    "error", SessionClosed("the server sends without end what nobody has asked for")
                )
            return
        # It was taken between the report and now: from here on its user reads.
        watcher = self._state.watcher
        if watcher is not None:
            watcher.unwatch(session)
            with self._state.lock:
                idle = session in self._state.idle
            if idle:  # and was put back between the two looks
                watcher.watch(session)

    def _settle(self, now: float) -> None:
        """Watch what has been idle for a moment, and send the FIN that waited for a next stream."""
        state = self._state
        if now < self._next_settling:
            return
        sessions = list(state.newly_idle)
        if self._next_settling:
            for session in sessions:
                if session.lease is not None or session.closed or now - session.idle_since >= SETTLE_TIME:
                    state.newly_idle.pop(session, None)
                    self._guarded(self._settle_one, session)
        if not sessions:
            # Under traffic it goes on ticking: waking this thread for each session would cost more than it saves.
            state.settling = False
            if not state.newly_idle:
                self._next_settling = 0.0
                return
            state.settling = True  # one came in between, and knocked or not
        self._next_settling = now + SETTLE_TIME

    def _settle_one(self, session: Session) -> None:
        if session.lease is not None or session.closed:
            return  # taken again: it comes back here
        watcher = self._state.watcher
        if watcher is not None:
            watcher.watch(session)
        session.send_held_fin()

    def _is_settled(self, entry: Entry) -> bool:
        """Whether nothing is left to do: the session has ended, or the heartbeat in question was answered."""
        _, _, session, act = entry
        if act == self._release:
            return session.is_released
        return session.closed or (act == self._judge and session.heart_sent_at is None)

    def _release(self, session: Session, now: float) -> None:
        """An interrupt has left a role held, and with it the descriptor open."""
        session.release()

    def release_lost(self) -> None:
        """Release at once what waits for that: it is the end of the client."""
        waiting = [session for _, _, session, act in self._heap if act == self._release]
        for session in (*waiting, *self._state.lost):
            session.release()

    def _is_beat_soon(self, entry: Entry, now: float) -> bool:
        heartbeat = self._state.options.heartbeat
        if heartbeat is None or entry[3] != self._beat:
            return False
        return entry[0] <= now + min(BEAT_SLACK, heartbeat / 100)

    # -- heartbeats ------------------------------------------------------------------------------------

    def _at(self, due: float, session: Session, act: Callable[[Session, float], None]) -> None:
        heapq.heappush(self._heap, (due, next(self._counter), session, act))

    def _beat(self, session: Session, now: float) -> None:
        heartbeat = self._state.options.heartbeat
        assert heartbeat is not None
        self._at(now + heartbeat, session, self._beat)
        if session.heart_sent_at is not None:
            # A proof of life that its caller's deadline cut short is judged here too.
            if not session.may_be_mute():
                self._judge(session, now)
            return
        if session.has_stream:
            session.look()  # what lies unread shows in whether a heartbeat may be sent
        if not session.closed and session.send_heartbeat():
            sent = session.heart_sent_at
            if sent is not None:  # another thread may have read the answer already
                self._at(sent + rules.HEARTBEAT_TIMEOUT, session, self._judge)

    def _judge(self, session: Session, now: float) -> None:
        """No frame within 3 s of a HeartRequest means dead, unless the server may rightly be mute."""
        sent = session.heart_sent_at
        if sent is None or now < sent + rules.HEARTBEAT_TIMEOUT:
            return  # this one was answered; the next has a verdict of its own
        session.look()
        if session.heart_sent_at is None or session.closed:
            return
        if self._state.server_version < 2:
            session.heart_sent_at = None  # a version 1 server answers no heartbeat
            return
        if session.may_be_mute():
            self._at(now + rules.HEARTBEAT_TIMEOUT, session, self._judge)
            return
        logger.info("[%s] session #%d: no answer to a heartbeat", self._state.name, session.sequence)
        session.close("heartbeat_timeout", SessionClosed("the session is dead: no answer to a heartbeat"))

    # -- the check cycle -------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """One check: close what is past its lifetime or idle for too long, and begin a new cycle of creation."""
        state = self._state
        with state.lock:
            state.refill.created_this_cycle = 0
            doomed = [(s, "max_age") for s in rules.past_lifetime(now, state.idle, state.options)]
            old = {session for session, _ in doomed}
            left = [s for s in state.idle if s not in old]
            doomed += [(s, "idle_timeout") for s in rules.idle_too_long(now, left, state.options)]
            for session, _ in doomed:
                state.idle.remove(session)  # nobody may take it any more
        for session, reason in doomed:
            session.close(reason)

    # -- warm sessions ---------------------------------------------------------------------------------

    def refill(self, now: float) -> None:
        """Start the dials that are missing to the warm target."""
        state = self._state
        with state.lock:
            if state.closed:
                return
            count = state.refill.size(len(state.idle), now)
            state.refill.dialing += count
            state.refill.created_this_cycle += count
        for _ in range(count):
            if state.closed:
                return  # a target may be a million
            self._start_dial(state)


def start_refill_dial(state: PoolState) -> None:
    """Dial one warm session on a short-lived thread; :data:`MAX_DIALS` of them share a client's refill."""
    with state.lock:
        state.refill.dials_wanted += 1
        if state.refill.dial_threads >= MAX_DIALS:
            return
        state.refill.dial_threads += 1
    try:
        # Daemon threads: an executor would hold up the interpreter's exit.
        threading.Thread(
            target=_dial_wanted, args=(state,), name=f"anytls-dial-{next(_numbers)}", daemon=True
        ).start()
    except RuntimeError as exc:
        logger.warning("[%s] no thread for warm sessions: %s", state.name, exc)
        with state.lock:
            state.refill.dial_threads -= 1
            state.refill.dialing -= state.refill.dials_wanted
            state.refill.dials_wanted = 0
            state.refill.note_failure(state.clock())


def _dial_wanted(state: PoolState) -> None:
    while True:
        with state.lock:
            if not state.refill.dials_wanted or state.closed:
                state.refill.dialing -= state.refill.dials_wanted
                state.refill.dials_wanted = 0
                state.refill.dial_threads -= 1
                return
            state.refill.dials_wanted -= 1
        lease: Lease | None = None
        error: AnyTLSError | None = None
        try:
            lease = dial(state, "ensure_idle", None)
        except AnyTLSError as exc:
            error = exc
        except Exception as exc:  # the count of dials in flight must come down, whatever happened
            logger.exception("[%s] dialling a warm session failed", state.name)
            error = SessionClosed(f"dialling failed: {type(exc).__name__}")
        if lease is not None:
            state.put_idle(lease.session)
            lease = None
        with state.lock:
            state.refill.dialing -= 1
            if error is not None and not state.closed:
                state.refill.note_failure(state.clock())
                state.changed.notify_all()
        if error is not None and not isinstance(error, ClientClosed):
            logger.warning("[%s] could not create a warm session: %s", state.name, error)
        state.wake_maintenance()


def start(state: PoolState, pool: object) -> threading.Thread:
    """Start the thread for ``pool``; raises :class:`RuntimeError` where the system gives no thread."""
    watcher = Watcher()
    thread = threading.Thread(
        target=_run,
        args=(state, weakref.ref(pool), watcher),
        name=f"anytls-maintenance-{next(_numbers)}",
        daemon=True,
    )
    # Before it runs: were an interrupt to come in between, nobody could wake it.
    state.attach(watcher, watcher.wake_writer)
    try:
        thread.start()
    except RuntimeError:
        state.detach(watcher)
        watcher.close()
        raise
    return thread


def _run(state: PoolState, pool: weakref.ref[object], watcher: Watcher) -> None:
    maintenance = Maintenance(state)
    try:
        ready: list[Session] = []
        # Another watcher: an interrupt came before this thread was known, and so there is another one.
        while pool() is not None and not state.closed and state.watcher is watcher:
            maintenance.run_due(ready)
            ready = []
            timeout = max(0.0, maintenance.next_due() - time.monotonic())
            ready = watcher.wait(timeout)
    except Exception:
        logger.exception("[%s] the maintenance thread failed", state.name)
    finally:
        state.detach(watcher)
        maintenance.release_lost()
        if pool() is None:  # dropped without close()
            for session in state.close():
                session.close("client_closed", ClientClosed("the client is gone"))
        watcher.close()
