"""A clock that stands still, and sessions without a connection, for the rules and what acts on them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from anytls_http.config import AnyTLSOutbound, PoolOptions, TLSOptions
from anytls_http.errors import AnyTLSError
from anytls_http.pool.events import EventHooks
from anytls_http.pool.maintenance import Maintenance
from anytls_http.pool.session import Session
from anytls_http.pool.state import PoolState
from anytls_http.pool.watcher import Watcher


class FakeClock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class FakeSession:
    """What the state and the maintenance use of a session, and what was done to it."""

    state: PoolState
    sequence: int = 0
    idle_since: float = 0.0
    created_at: float = 0.0
    expires_at: float | None = None
    frames_received: int = 0
    streams_opened: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    heart_sent_at: float | None = None
    unasked_bytes: int = 0
    has_stream: bool = False
    closed: bool = False
    error: AnyTLSError | None = None
    closed_for: str = ""
    #: When HeartRequests were sent.
    beats: list[float] = field(default_factory=list)
    #: Whether the connection takes a HeartRequest.
    takes_heartbeats: bool = True
    #: Whether the server answers at once.
    answers: bool = True
    #: Whether it may rightly give no answer.
    mute: bool = False
    looks: int = 0
    has_held_fin: bool = False
    on_look: Callable[[FakeSession], None] | None = None
    lease: Any = None
    #: The lease, held for as long as the session is in use.
    taken_by: Any = None
    is_released: bool = True

    def __post_init__(self) -> None:
        self.created_at = self.idle_since = self.state.clock()

    def look(self) -> bool:
        self.looks += 1
        if self.on_look is not None:
            self.on_look(self)
        return not self.closed

    def send_heartbeat(self) -> bool:
        if self.closed or not self.takes_heartbeats:
            return False
        now = self.state.clock()
        self.beats.append(now)
        if self.heart_sent_at is None and not self.answers:
            self.heart_sent_at = now
        return True

    def send_held_fin(self) -> None:
        self.has_held_fin = False

    def close_interrupted(self) -> None:
        self.close("error")

    def release(self) -> None:
        self.is_released = True

    def may_be_mute(self) -> bool:
        return self.mute

    def close(self, reason: str, error: AnyTLSError | None = None) -> None:
        assert not self.state.is_inside(), "decide under the lock, act outside it"
        if self.closed:
            return
        self.closed = True
        self.closed_for = reason
        self.error = error or self.error
        self.state.session_ended(self.as_session, reason)

    @property
    def as_session(self) -> Session:
        return cast(Session, self)


class FakeWatcher:
    """Notes which sessions are watched."""

    def __init__(self) -> None:
        self.watched: list[FakeSession] = []

    def watch(self, session: FakeSession) -> None:
        if session not in self.watched:
            self.watched.append(session)

    def unwatch(self, session: FakeSession) -> None:
        if session in self.watched:
            self.watched.remove(session)


class FakeWake:
    """The socket that wakes the maintenance thread."""

    def __init__(self) -> None:
        self.count = 0
        self.pending = False

    def send(self, data: bytes) -> int:
        self.count += 1
        self.pending = True
        return len(data)


class FakePool:
    """A state and a maintenance on one fake clock; dials are begun, and ended by the test."""

    def __init__(self, *, seed: int = 1, hooks: EventHooks | None = None, **options: Any) -> None:
        self.clock = FakeClock()
        self.state = make_state(self.clock, seed=seed, hooks=hooks, **options)
        self.watcher = FakeWatcher()
        self.wake = FakeWake()
        self.state.attach(cast(Watcher, self.watcher), cast(Any, self.wake))
        #: When dials were begun.
        self.dials: list[float] = []
        self.maintenance = Maintenance(self.state, self._start_dial)

    def _start_dial(self, state: PoolState) -> None:
        assert state is self.state
        assert not state.is_inside(), "decide under the lock, act outside it"
        self.dials.append(self.clock.now)

    @property
    def idle(self) -> list[int]:
        """The numbers of the idle sessions, in their order."""
        return [session.sequence for session in self.state.idle]

    # -- sessions ------------------------------------------------------------------------------------

    def dial(self, created_for: str = "demand", **attributes: Any) -> FakeSession:
        """A session as a dial for a user makes it, in use."""
        session = FakeSession(self.state, **attributes)
        session.sequence = self.state.next_sequence()
        self.state.add(session.as_session, created_for, 0.01)
        return session

    def add_idle(self, count: int = 1, **attributes: Any) -> list[FakeSession]:
        """Sessions whose stream has just ended."""
        sessions = [self.dial(**attributes) for _ in range(count)]
        for session in sessions:
            self.put(session)
        return sessions

    def put(self, session: FakeSession) -> None:
        self.state.put_idle(session.as_session)

    def take(self) -> FakeSession | None:
        lease = self.state.take_newest_idle()
        if lease is None:
            return None
        session = cast(FakeSession, lease.session)
        session.taken_by = lease  # as its user would hold it
        return session

    def dial_succeeds(self, **attributes: Any) -> FakeSession:
        """The end of a refill dial, as the dialling thread leaves it."""
        session = self.dial("ensure_idle", **attributes)
        self.put(session)
        with self.state.lock:
            self.state.refill.dialing -= 1
        return session

    def dial_fails(self) -> None:
        with self.state.lock:
            self.state.refill.dialing -= 1
            self.state.refill.note_failure(self.clock())

    # -- time ----------------------------------------------------------------------------------------

    def run(self, ready: list[FakeSession] | None = None) -> int:
        """Run what is due now; return how many dials that began."""
        before = len(self.dials)
        self.wake.pending = False
        self.maintenance.run_due(cast("list[Session]", ready or []))
        return len(self.dials) - before

    def run_until(self, until: float) -> int:
        """Let time pass as the maintenance thread sees it: it looks when it is woken or something is due."""
        begun = 0
        for _ in range(100_000):
            due = self.clock.now if self.wake.pending else self.maintenance.next_due()
            if due > until:
                self.clock.now = until
                return begun
            self.clock.now = max(self.clock.now, due)
            begun += self.run()
        raise AssertionError("something is always due: the thread would spin")

    def run_for(self, seconds: float) -> int:
        return self.run_until(self.clock.now + seconds)


def make_state(
    clock: FakeClock, *, seed: int = 1, hooks: EventHooks | None = None, **options: Any
) -> PoolState:
    outbound = AnyTLSOutbound(
        server="proxy.example",
        server_port=443,
        password="secret",
        # Saves the 15 ms that the roots take; nothing is dialled here.
        tls=TLSOptions(insecure=True),
        pool=PoolOptions(**options),
    )
    return PoolState(outbound, hooks, clock=clock, rng=random.Random(seed))
