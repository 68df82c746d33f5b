"""Numbers of a pool at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
