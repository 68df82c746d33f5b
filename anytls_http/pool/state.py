"""What the sessions of one client share: the idle list, the counters, and what is known of the server.

The maintenance thread holds this object strongly and the pool weakly, so that a pool which nobody
uses any more ends, and its sessions are closed rather than left to the garbage collector.

Rule for all of it: decide under :attr:`PoolState.lock`, act outside. Nothing dials, writes, closes or
calls a hook while the lock is held.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import math
import random
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anytls_http.config import AnyTLSOutbound
from anytls_http.errors import AnyTLSError, ClientClosed
from anytls_http.net.contexts import TLSContexts
from anytls_http.protocol.padding import DEFAULT_SCHEME, PaddingScheme

from . import rules
from .events import Event, EventDispatcher, EventHooks
from .lease import Lease
from .refill import Refill
from .stats import Counters, PoolStats, SessionInfo

if TYPE_CHECKING:
    from anytls_http.net.tls import TLSConnection

    from .session import Session
    from .watcher import Watcher

logger = logging.getLogger("anytls_http.pool")

#: Connects to (host, port) by a deadline, unless the last argument says that nobody wants it any more.
Connect = Callable[[str, int, float | None, Callable[[], bool]], socket.socket]

#: A warm session that the server ends within so many seconds, unused, counts as a failed dial.
SHORT_LIFE = 10.0


class PoolState:
    """Everything that is shared; see the module's text for the locking."""

    def __init__(
        self,
        outbound: AnyTLSOutbound,
        event_hooks: EventHooks | None = None,
        *,
        connect: Connect | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.outbound = outbound
        self.connect = connect  #: None: by TCP, with the outbound's dial fields
        self.options = outbound.pool
        self.clock = clock
        self.rng = rng or random.Random()
        self.events = EventDispatcher(event_hooks)
        self.contexts = TLSContexts(outbound.tls, outbound.server)

        # Of the server; plain attributes, each written whole by whoever reads a frame.
        self.scheme: PaddingScheme = DEFAULT_SCHEME
        self.server_version = 0  #: 2 once any session heard so
        self.frame_received = False  #: any frame, on any session: the password is right
        self.suspect_since = -math.inf  #: an upload at that time got no answer until its time-out
        self.dead_since = -math.inf  #: a session that was last heard then has failed to prove its life

        self.lock: Any = threading.RLock()  # nobody enters it twice, but it knows its thread; see is_inside
        self.changed = threading.Condition(self.lock)
        self.closed = False
        self.idle: list[Session] = []  #: ordered by sequence, the newest last
        self.sessions: set[Session] = set()
        self.draining: set[Session] = set()  #: ended in mid-transfer, until all of it has come
        self._handshaking: weakref.WeakSet[TLSConnection] = weakref.WeakSet()  # an interrupt ends them unseen
        self.refill = Refill(self.options, self.rng)
        self.last_error: AnyTLSError | None = None

        self._sequence = 0
        self._counters = Counters()

        # Filled by any thread, emptied by the maintenance thread.
        self.abandoned: deque[Callable[[], None]] = deque()
        self.newcomers: deque[Session] = deque()
        self.newly_idle: dict[Session, None] = {}  #: a set that keeps its order
        self.drains: deque[Session] = deque()
        self.lost: deque[Session] = deque()
        self.settling = False  #: the maintenance thread looks after the newly idle, soon and again
        self.watcher: Watcher | None = None
        self._wake: socket.socket | None = None

    # -- the maintenance thread's door -----------------------------------------------------------------

    def attach(self, watcher: Watcher, wake: socket.socket) -> None:
        """The maintenance thread is there: from now on it watches the idle sessions."""
        with self.lock:
            before, self._wake = self._wake, wake
            self.watcher = watcher
            idle = list(self.idle)
        if before is not None:  # an interrupt came before its thread was known; it sees that its time is over
            _knock(before)
        for session in idle:
            watcher.watch(session)

    def detach(self, watcher: Watcher) -> None:
        """The maintenance thread that waits on ``watcher`` has ended."""
        with self.lock:
            if self.watcher is watcher:
                self.watcher = None
                self._wake = None

    def wake_maintenance(self) -> None:
        """Make the maintenance thread look again; safe from a finalizer (no lock, never blocks)."""
        wake = self._wake
        if wake is not None:
            _knock(wake)

    def is_inside(self) -> bool:
        """Whether this thread has the pool's lock: then a finalizer is running, which must leave the pool alone.

        Garbage collection may come at any allocation, and close the response (and with it the stream) that a
        generator in a cycle has left.
        """
        return self.lock._is_owned()  # type: ignore[no-any-return]

    # -- dials in flight -------------------------------------------------------------------------------

    def dialled(self, tls: TLSConnection) -> None:
        """A TLS handshake begins on ``tls``; raises :class:`ClientClosed` where it is too late for that."""
        with self.lock:
            if self.closed:
                raise ClientClosed("the client is closed")
            self._handshaking.add(tls)

    def dial_over(self, tls: TLSConnection) -> None:
        """The handshake has ended, well or not."""
        with self.lock:
            self._handshaking.discard(tls)

    def close(self) -> list[Session]:
        """Mark the client closed, wake who waits in a handshake, and return the sessions that are to be closed."""
        with self.lock:
            self.closed = True
            handshaking = list(self._handshaking)
            sessions = list(self.sessions)
            self.changed.notify_all()
            # Under the lock: the dialling thread can't close the descriptor meanwhile.
            for tls in handshaking:
                tls.shutdown()
        return sessions

    # -- sessions --------------------------------------------------------------------------------------

    def next_sequence(self) -> int:
        """Return the number of a new session."""
        with self.lock:
            self._sequence += 1
            return self._sequence

    def add(self, session: Session, created_for: str, seconds: float) -> None:
        """Take in a session that was just dialled. Raises :class:`ClientClosed`, with the session closed."""
        with self.lock:
            closed = self.closed
            if not closed:
                self.sessions.add(session)
                self._counters.session_created(created_for)
                self.newcomers.append(session)
        if closed:
            session.close("client_closed", ClientClosed("the client is closed"))
            raise ClientClosed("the client is closed")
        logger.debug("[%s] created session #%d in %.0f ms", self.name, session.sequence, seconds * 1000)
        if self.events.wants("session_created"):
            self.events.emit(Event("session_created", session.sequence, reason=created_for, seconds=seconds))
        if self.options.heartbeat is not None:
            self.wake_maintenance()

    def take_newest_idle(self) -> Lease | None:
        """Take the idle session with the highest sequence number, None when there is none."""
        lease: Lease | None = None
        with self.lock:
            if self.closed:
                raise ClientClosed("the client is closed")
            if self.idle:
                lease = Lease(self, self.idle[-1])  # first: an interrupt may come before the next line
                self.idle.pop()
            watcher = self.watcher
            refill = self.refill.size(len(self.idle), self.clock()) > 0
        if lease is not None and watcher is not None:
            watcher.unwatch(lease.session)
        if refill:
            self.wake_maintenance()
        return lease

    def put_idle(self, session: Session) -> None:
        """Put a session without open stream back; by the age rule it may be closed instead."""
        now = self.clock()
        with self.lock:
            watcher = self.watcher
            expired = rules.returning_is_closed(now, session, len(self.idle), self.options)
            if not (self.closed or expired or session.closed):
                session.idle_since = now
                bisect.insort(self.idle, session, key=_sequence)
                session.lease = None
                self.changed.notify_all()
        if self.closed:
            session.close("client_closed")
        elif expired:
            session.close("max_age")
        else:
            self._look_after(session, watcher)

    def _look_after(self, session: Session, watcher: Watcher | None) -> None:
        """Have an idle session watched, and its last stream's FIN sent, if no next stream takes it soon."""
        if watcher is None:
            session.send_held_fin()
        elif not session.closed:
            self.newly_idle[session] = None
            if not self.settling:
                self.settling = True
                self.wake_maintenance()

    def reclaim(self, session: Session, lease: weakref.ref[Lease]) -> None:
        """Close a session whose ``lease`` has died, unless it was given back or taken anew since."""
        with self.lock:
            if session.lease is not lease:
                return
            session.lease = None
            is_idle = session in self.idle
            is_draining = session in self.draining
            watcher = self.watcher
        if is_idle:
            self._look_after(session, watcher)  # the interrupt came before that
        elif is_draining:
            self.drain(session)
        else:
            session.close_interrupted()
            if not session.is_released:
                self.lost.append(session)

    def drain(self, session: Session) -> None:
        """Let the maintenance thread read what an ended stream has left, and put the session back after it."""
        with self.lock:
            self.draining.add(session)
            session.lease = None
        self.drains.append(session)
        self.wake_maintenance()

    def drained(self, session: Session) -> None:
        """All that an ended stream had left has come."""
        with self.lock:
            if session not in self.draining:
                return  # told twice: somebody may have taken it by now
            self.draining.discard(session)
        self.put_idle(session)

    def await_drained(self, deadline: float | None) -> None:
        """Wait a moment for a session to become idle again: less than a dial would take."""
        with self.lock:
            if self.draining and not self.idle:
                patience = rules.drain_patience(min(session.round_trip for session in self.draining))
                self.changed.wait_for(lambda: self.idle or self.closed, _at_most(patience, deadline))

    def session_ended(self, session: Session, reason: str) -> None:
        """Forget a session that was closed; it says so once."""
        now = self.clock()
        with self.lock:
            self.sessions.discard(session)
            self.draining.discard(session)
            with contextlib.suppress(ValueError):
                self.idle.remove(session)
            self._counters.session_ended(session, reason)
            watcher = self.watcher
            life = now - session.created_at
            if session.frames_received:
                self.frame_received = True
            if life >= SHORT_LIFE or session.streams_opened:
                self.refill.failures = 0  # it was of use
            elif reason in ("peer", "alert", "error"):
                # A server that accepts and closes at once must not cause a dial loop.
                self.refill.note_failure(now)
                self.last_error = session.error
            refill = not self.closed and self.refill.size(len(self.idle), now) > 0
        if watcher is not None:
            watcher.unwatch(session)
        words = f": {session.error}" if session.error is not None else ""
        logger.debug(
            "[%s] closed session #%d (%s) after %.1f s%s", self.name, session.sequence, reason, life, words
        )
        if refill:
            self.wake_maintenance()

    def shortest_trip(self, own: float) -> float:
        """Return the shortest round trip of the sessions that there are (seconds), ``own`` where there is none.

        The way is the same for all; one that was dialled together with many others has measured the wait for them.
        """
        with self.lock:
            return min((session.shortest_trip for session in self.sessions), default=own)

    def note_success(self, session: Session) -> None:
        """A stream was opened on ``session``: where it was dialled since the last failure, refill at once."""
        with self.lock:
            if session.created_at <= self.refill.failed_at:
                return
            self.refill.note_success()
        self.wake_maintenance()

    def after_fork_in_child(self) -> None:
        """Begin anew: the locks may have been held by a thread that the child doesn't have."""
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        for session in list(self.sessions):
            session.close_inherited()
        for tls in list(self._handshaking):
            tls.close_inherited()
        if self.watcher is not None:
            self.watcher.close_inherited()
        self.watcher = self._wake = None
        self.idle.clear()
        self.sessions.clear()
        self._handshaking.clear()
        self.abandoned.clear()
        self.newcomers.clear()
        self.newly_idle.clear()
        self.drains.clear()
        self.lost.clear()
        self.draining.clear()
        self.settling = False
        self.refill.begin_anew()

    # -- facts -----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """How logs call this client: the outbound's tag, or its server."""
        return self.outbound.tag or f"{self.outbound.server}:{self.outbound.server_port}"

    def stats(self) -> PoolStats:
        """Return the numbers of this moment."""
        now = self.clock()
        with self.lock:
            idle = len(self.idle)
            deficit = 0 if self.closed else max(0, self.options.ensure_idle_session - idle)
            return self._counters.stats(self.sessions, idle, deficit, now)

    def session_infos(self) -> list[SessionInfo]:
        """Return what each session is doing at this moment, the oldest first."""
        now = self.clock()
        with self.lock:
            idle = set(self.idle)
            return [SessionInfo.of(s, now, s in idle) for s in sorted(self.sessions, key=_sequence)]


def _knock(wake: socket.socket) -> None:
    with contextlib.suppress(OSError):  # full: it is going to wake; closed: it has ended
        wake.send(b"\0")


def _at_most(seconds: float, deadline: float | None) -> float:
    return seconds if deadline is None else max(0.0, min(seconds, deadline - time.monotonic()))


def _sequence(session: Session) -> int:
    return session.sequence
