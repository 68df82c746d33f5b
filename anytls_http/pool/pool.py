"""The pool: hands out sessions, the newest idle one first, dials where there is none, takes them back."""

from __future__ import annotations

import logging
import socket
import threading
import time
import weakref
from collections.abc import Callable

from anytls_http.config import AnyTLSOutbound
from anytls_http.errors import AnyTLSError, AnyTLSTimeout, ClientClosed
from anytls_http.net.forks import forget_in_children
from anytls_http.net.steps import step
from anytls_http.net.waiting import remaining

from . import maintenance
from .dialer import dial
from .events import EventHooks
from .lease import Lease
from .session import Session
from .state import Connect, PoolState
from .stats import PoolStats, SessionInfo

logger = logging.getLogger("anytls_http.pool")

#: Sessions that are asked for a sign of life beside the one that somebody waits for.
MAX_ASKED = 64
#: Seconds that ``close`` waits for the background threads; they are daemons and end on their own.
CLOSE_PATIENCE = 1.0


class Pool:
    """The sessions of one client. Nothing is dialled, and no thread started, before the first use."""

    def __init__(
        self,
        outbound: AnyTLSOutbound,
        event_hooks: EventHooks | None = None,
        connect: Connect | None = None,
    ) -> None:
        # Held here and not by the state: what connects has sessions of its own, which end with the pool.
        self._connect = connect
        self.state = PoolState(outbound, event_hooks, connect=connect and _weakly(connect))
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._started = False
        # Runs in any thread, even in the maintenance thread itself: it may only knock at its door.
        self._finalizer = weakref.finalize(self, PoolState.wake_maintenance, self.state)
        self._finalizer.atexit = False
        forget_in_children(self)

    def start(self) -> None:
        """Begin to keep sessions warm; the first use does it too."""
        if self._started:
            return
        with self._start_lock:
            if self._started:
                return
            if self.state.closed:
                raise ClientClosed("the client is closed")
            try:
                self._thread = maintenance.start(self.state, self)
            except (RuntimeError, OSError) as exc:
                # Limits, or the interpreter is shutting down: requests work all the same.
                logger.warning(
                    "[%s] no background thread: %s; the pool is not maintained", self.state.name, exc
                )
            self._started = True

    def acquire(self, deadline: float | None) -> Lease:
        """Return the lease of a session without open stream, for the caller alone; dial one where none is fit.

        A session that was silent for long proves that it lives before data is trusted to it. Raises
        as ``dialer.dial``.
        """
        if not self._started:
            self.start()
        state = self.state
        while True:
            lease = state.take_newest_idle()
            if lease is None and state.draining:
                state.await_drained(deadline)
                lease = state.take_newest_idle()
            if lease is None:
                return dial(state, "demand", deadline)
            session = lease.session
            try:
                # What the server has sent meanwhile, its end above all, is here already.
                if session.look() and self.prove_alive(session, deadline):
                    return lease
            except AnyTLSError:  # a time-out: the session isn't lost
                state.put_idle(session)
                raise
            except BaseException:  # an interrupt
                session.close_interrupted()
                raise

    def prove_alive(self, session: Session, deadline: float | None) -> bool:
        """Whether a session in use may be trusted with more data; a silent one must prove its life.

        False: it is dead, and was dropped with those that have been silent for as long.
        """
        if self.state.server_version < 2 or not session.is_silent():
            return not session.closed
        self._ask_others(session)
        with step("proof_of_life", session=session.sequence) as found:
            alive = found["alive"] = session.prove_alive(deadline)
        if alive:
            return True
        self._distrust(session)
        return False

    def _distrust(self, dead: Session) -> None:
        """``dead`` gave no sign of life: drop with it the idle ones that have received nothing since it last did."""
        state = self.state
        with state.lock:
            state.dead_since = max(state.dead_since, dead.last_received)
            doomed = [s for s in state.idle if s.last_received <= dead.last_received]
            for session in doomed:
                state.idle.remove(session)
        for session in doomed:
            session.close("proof_of_life")

    def _ask_others(self, asked: Session) -> None:
        """Where one is silent, others are: ask them for a sign of life too, all at once.

        Who looks at them next need not wait for each of them in turn; where they live, not at all.
        """
        with self.state.lock:
            silent = [s for s in self.state.sessions if s.heart_sent_at is None and s.is_silent()]
        for session in silent[:MAX_ASKED]:
            if session is not asked:
                if session.has_stream:
                    session.look()  # where data lies unread, nothing may be asked
                session.send_heartbeat()

    def release(self, session: Session) -> None:
        """Take back a session whose stream has ended."""
        self.state.put_idle(session)

    def wait_ready(self, count: int, timeout: float | None) -> None:
        """Wait until ``count`` sessions are idle; where ``ensure_idle_session`` is less, dial that many.

        ``timeout``: seconds, None for no limit. Raises :class:`AnyTLSTimeout` with the last dial's error.
        """
        state = self.state
        deadline = None if timeout is None else time.monotonic() + timeout
        with state.lock:
            state.refill.awaited.append(count)
            state.refill.not_before = 0.0  # somebody waits: no time to lose, whatever has failed before
        try:
            self.start()
            state.wake_maintenance()
            with state.lock:
                while len(state.idle) < count:
                    if state.closed:
                        raise ClientClosed("the client is closed")
                    left = remaining(deadline)
                    if left == 0 or not state.changed.wait(left if left > 0 else None):
                        error = f"; the last error was: {state.last_error}" if state.last_error else ""
                        raise AnyTLSTimeout(
                            f"{len(state.idle)} of {count} sessions were ready after {timeout:g} s{error}"
                        )
        finally:
            with state.lock:
                state.refill.awaited.remove(count)

    def stats(self) -> PoolStats:
        """Return the numbers of this moment."""
        return self.state.stats()

    def sessions(self) -> list[SessionInfo]:
        """Return what each session is doing at this moment, the oldest first."""
        return self.state.session_infos()

    def close(self) -> None:
        """Close all sessions, those in use too, and wake whoever is blocked in them; any number of times."""
        self._finalizer.detach()
        for session in self.state.close():
            session.close("client_closed", ClientClosed("the client was closed"))
        self.state.wake_maintenance()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_PATIENCE)

    def forget_in_child(self) -> None:
        """In a forked child: an empty pool, new locks, no thread; the parent's connections go on untouched."""
        self.state.after_fork_in_child()
        self._start_lock = threading.Lock()
        self._thread = None
        self._started = False


def _weakly(connect: Connect) -> Connect:
    """Return a function that calls the bound method ``connect`` for as long as its object is there."""
    reference = weakref.WeakMethod(connect)

    def call(host: str, port: int, deadline: float | None, cancelled: Callable[[], bool]) -> socket.socket:
        method = reference()
        if method is None:
            raise ClientClosed("the client is gone")
        return method(host, port, deadline, cancelled)

    return call
