"""The pool's rules as pure functions of (now, sessions, options), one for each sentence of the seed.

Nothing here closes or dials: the functions say which sessions to close and how many to create, and
the pool acts on it outside its lock. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Protocol, TypeVar

from anytls_http.config import PoolOptions

#: A session lives at least so long, whatever the jitter drew (seconds).
SHORTEST_LIFETIME = 1.0
#: Wait after a first failed dial, doubled with each further one (seconds).
FIRST_BACKOFF = 0.5
#: Without heartbeat, a session is silent after so long without a frame (seconds).
SILENT_AFTER = 5.0
#: How long a HeartResponse may take (seconds).
HEARTBEAT_TIMEOUT = 3.0
#: The shortest patience of a proof of life (seconds).
SHORTEST_PROOF = 1.0


#: An ended stream may go on coming for so long (seconds), and so much of it (bytes): then its session is dropped.
DRAIN_TIME = 2.0
DRAIN_SIZE = 256 * 1024
#: What an idle session may receive (bytes), and more with each second: heartbeats and padding are far less.
UNASKED_SIZE, UNASKED_RATE = 1 << 20, 1024
#: Where the round trip is less than the first, closing a stream itself waits for that as long as the second (seconds).
NEAR, DRAIN_WAIT = 0.005, 0.01


class Aged(Protocol):
    """What the rules look at."""

    sequence: int  #: rises with each session of the client
    idle_since: float
    expires_at: float | None


S = TypeVar("S", bound=Aged)


def idle_too_long(now: float, idle: Collection[S], options: PoolOptions) -> list[S]:
    """Return the sessions that the idle check closes.

    Seed: "In the check, close sessions that have been idle for longer than this"; "at least the first
    ``n`` idle sessions are kept open", where the first are the newest, which are also used first.
    ``ensure_idle_session`` protects as many: else the check would close warm sessions that the
    refill dials again in the same moment, for ever.
    """
    protected = max(options.min_idle_session, options.ensure_idle_session)
    newest_first = sorted(idle, key=lambda session: -session.sequence)
    return [s for s in newest_first[protected:] if now - s.idle_since > options.idle_session_timeout]


def past_lifetime(now: float, idle: Collection[S], options: PoolOptions) -> list[S]:
    """Return the sessions that the age check closes, oldest first.

    Seed: "Sessions exceeding this lifetime are closed, with oldest sessions closed first";
    ``min_idle_session_for_age`` idle ones stay, 0 meaning "use same as ``min_idle_session``".
    """
    expired = sorted((s for s in idle if is_expired(now, s)), key=lambda session: session.sequence)
    return expired[: max(0, len(idle) - protected_from_age(options))]


def returning_is_closed(now: float, session: Aged, idle_count: int, options: PoolOptions) -> bool:
    """Whether a busy session past its lifetime is closed as its stream ends.

    ``idle_count``: idle sessions beside it. It counts as one of them, and is the first to go.
    """
    return is_expired(now, session) and idle_count + 1 > protected_from_age(options)


def is_expired(now: float, session: Aged) -> bool:
    """Whether the session is past its lifetime."""
    return session.expires_at is not None and now >= session.expires_at


def protected_from_age(options: PoolOptions) -> int:
    """Return how many idle sessions the age rule leaves."""
    return options.min_idle_session_for_age or options.min_idle_session


def lifetime(options: PoolOptions, rng: random.Random) -> float | None:
    """Draw a session's lifetime in seconds: "``base ± jitter``", uniform; None without a limit."""
    base = options.max_connection_lifetime
    if base is None:
        return None
    jitter = options.connection_lifetime_jitter
    return max(SHORTEST_LIFETIME, rng.uniform(base - jitter, base + jitter))


def sessions_to_create(idle: int, dialing: int, created_this_cycle: int, target: int, rate: int) -> int:
    """Return how many sessions the refill dials now.

    Seed: "When the pool drops below this threshold, new sessions are automatically created"; "Maximum
    number of sessions created per cleanup cycle", 0 for no limit. Dials in flight count as idle.
    """
    missing = max(0, target - idle - dialing)
    return min(missing, max(0, rate - created_this_cycle)) if rate else missing


def backoff(failures: int, interval: float, rng: random.Random) -> float:
    """Return the seconds to wait after so many failed dials in a row, with jitter, at most ``interval``."""
    if failures <= 0:
        return 0.0
    ceiling = min(interval, FIRST_BACKOFF * 2 ** min(failures - 1, 30))
    return rng.uniform(ceiling / 2, ceiling)


def silence_limit(options: PoolOptions) -> float:
    """Return after how many seconds without a frame a session is *silent* and must prove its life."""
    return SILENT_AFTER if options.heartbeat is None else options.heartbeat + HEARTBEAT_TIMEOUT


def proof_patience(round_trip: float) -> float:
    """Return how long a proof of life waits for a frame, given the measured round trip (seconds)."""
    return max(SHORTEST_PROOF, 4 * round_trip)


class Idle(Aged, Protocol):
    """What is looked at for what comes on an idle session."""

    unasked_bytes: int


def is_flood(now: float, session: Idle) -> bool:
    """Whether an idle session receives so much that it is closed: it would keep the maintenance thread busy."""
    return session.unasked_bytes > UNASKED_SIZE + UNASKED_RATE * max(0.0, now - session.idle_since)


def drain_patience(round_trip: float) -> float:
    """Return how long a request waits for a session whose last stream is about to end (seconds), before it dials.

    A dial takes two round trips and more.
    """
    return 0.02 + 1.5 * round_trip
