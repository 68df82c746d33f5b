"""Numbers of a pool at one moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from .session import Session

#: What sessions are created for.
CREATED_FOR = ("demand", "ensure_idle")
#: Why sessions end.
CLOSED_BY = (
    "idle_timeout",
    "max_age",
    "heartbeat_timeout",
    "proof_of_life",
    "peer",
    "alert",
    "error",
    "client_closed",
)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A snapshot of one client's pool.

    ``idle``, ``active``, ``total``: sessions now. ``oldest_age``: seconds, None without sessions.
    ``deficit``: sessions missing to ``ensure_idle_session``. ``streams_opened``, ``bytes_sent``,
    ``bytes_received``: since the client was made; bytes are the users', without frames and padding.
    ``created`` and ``closed``: sessions since then, by :data:`CREATED_FOR` and :data:`CLOSED_BY`.
    """

    idle: int
    active: int
    total: int
    oldest_age: float | None
    deficit: int
    streams_opened: int
    bytes_sent: int
    bytes_received: int
    created: Mapping[str, int]
    closed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session of the pool at one moment.

    ``sequence``: its number within its client, from 1. ``state``: ``idle``, or ``busy`` with a stream.
    ``age``: seconds since it was made. ``idle_for``: seconds without a stream, None while busy.
    ``target``: ``host:port`` of the open stream, "" while idle. ``bytes_sent``, ``bytes_received``: the users'
    bytes so far; ``streams_opened``: streams so far. ``round_trip``: seconds, of the last heartbeat, and
    before the first one of the TCP connection. ``server_version``: of the AnyTLS protocol, 0 until known.
    """

    sequence: int
    state: str
    age: float
    idle_for: float | None
    target: str
    bytes_sent: int
    bytes_received: int
    streams_opened: int
    round_trip: float
    server_version: int

    @classmethod
    def of(cls, session: Session, now: float, is_idle: bool) -> Self:
        """Return what ``session`` is doing at ``now``."""
        return cls(
            sequence=session.sequence,
            state="idle" if is_idle else "busy",
            age=now - session.created_at,
            idle_for=now - session.idle_since if is_idle else None,
            target="" if is_idle else session.target,
            bytes_sent=session.bytes_sent,
            bytes_received=session.bytes_received,
            streams_opened=session.streams_opened,
            round_trip=session.round_trip,
            server_version=session.server_version,
        )


class Counters:
    """What is counted over a client's life; the caller holds the pool's lock."""

    def __init__(self) -> None:
        self._created = dict.fromkeys(CREATED_FOR, 0)
        self._closed = dict.fromkeys(CLOSED_BY, 0)
        # Of the sessions that have ended.
        self._streams_opened = 0
        self._bytes_sent = 0
        self._bytes_received = 0

    def session_created(self, created_for: str) -> None:
        """Count a session that was dialled for one of :data:`CREATED_FOR`."""
        self._created[created_for] += 1

    def session_ended(self, session: Session, reason: str) -> None:
        """Count a session that ended for one of :data:`CLOSED_BY`, and what it did."""
        self._closed[reason] += 1
        self._streams_opened += session.streams_opened
        self._bytes_sent += session.bytes_sent
        self._bytes_received += session.bytes_received

    def stats(self, sessions: Collection[Session], idle: int, deficit: int, now: float) -> PoolStats:
        """Return the numbers of this moment, with the ``sessions`` that live, ``idle`` of them without a stream."""
        return PoolStats(
            idle=idle,
            active=len(sessions) - idle,
            total=len(sessions),
            oldest_age=max((now - s.created_at for s in sessions), default=None),
            deficit=deficit,
            streams_opened=self._streams_opened + sum(s.streams_opened for s in sessions),
            bytes_sent=self._bytes_sent + sum(s.bytes_sent for s in sessions),
            bytes_received=self._bytes_received + sum(s.bytes_received for s in sessions),
            created=dict(self._created),
            closed=dict(self._closed),
        )
