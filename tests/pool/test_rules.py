"""The pool's rules against the sentences of the seed (``seed/anytls-outbound.md``), each quoted."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.config import AnyTLSOutbound, PoolOptions
from anytls_http.pool import rules

NOW = 10_000.0


@dataclass(eq=False)
class Idle:
    """A session as the rules see it."""

    sequence: int
    idle_since: float = NOW
    expires_at: float | None = None


def sessions(*idle_for: float) -> list[Idle]:
    """Sessions 1, 2, ... that have been idle for so many seconds."""
    return [Idle(number, NOW - seconds) for number, seconds in enumerate(idle_for, 1)]


def expired(count: int) -> list[Idle]:
    return [Idle(number, expires_at=NOW - 1) for number in range(1, count + 1)]


def numbers(found: list[Idle]) -> list[int]:
    return [session.sequence for session in found]


def idle_too_long(idle: list[Idle], **options: Any) -> list[int]:
    return sorted(numbers(rules.idle_too_long(NOW, idle, PoolOptions(**options))))


def past_lifetime(idle: list[Idle], **options: Any) -> list[int]:
    return numbers(rules.past_lifetime(NOW, idle, PoolOptions(max_connection_lifetime=60.0, **options)))


# -- idle_session_check_interval -----------------------------------------------------------------


def from_dict(**fields: Any) -> PoolOptions:
    tls = {"enabled": True}
    return AnyTLSOutbound.from_dict(
        {"server": "a", "server_port": 1, "password": "b", "tls": tls, **fields}
    ).pool


def test_idle_session_check_interval_default_30s() -> None:
    """Seed: "Interval checking for idle sessions. Default: 30s."."""
    assert from_dict().idle_session_check_interval == 30.0


# -- idle_session_timeout ------------------------------------------------------------------------


def test_in_the_check_close_sessions_that_have_been_idle_for_longer_than_this() -> None:
    """Seed: "In the check, close sessions that have been idle for longer than this"."""
    assert idle_too_long(sessions(60.1, 60.0, 59.9, 0.0, 1e6), idle_session_timeout=60.0) == [1, 5]


def test_idle_session_timeout_default_30s() -> None:
    """Seed: "Default: 30s."."""
    assert from_dict().idle_session_timeout == 30.0
    assert idle_too_long(sessions(30.1, 30.0, 29.9)) == [1]


# -- min_idle_session ----------------------------------------------------------------------------


def test_in_the_check_at_least_the_first_n_idle_sessions_are_kept_open() -> None:
    """Seed: "In the check, at least the first ``n`` idle sessions are kept open": the newest by sequence number."""
    assert idle_too_long(sessions(90, 90, 90, 90, 90), min_idle_session=2) == [1, 2, 3]


def test_min_idle_session_protects_by_number_not_by_idle_time() -> None:
    """Design: "the newest n (by sequence number) are exempt"."""
    assert idle_too_long(sessions(31, 31, 5, 99), min_idle_session=1) == [1, 2]
    # Session 3 is fresh, so it takes one of the two protected places.
    assert idle_too_long(sessions(31, 31, 5, 99), min_idle_session=2) == [1, 2]


@pytest.mark.parametrize("protected", [5, 6, 1000])
def test_min_idle_session_above_their_number_keeps_all(protected: int) -> None:
    assert idle_too_long(sessions(90, 90, 90, 90, 90), min_idle_session=protected) == []


def test_min_idle_session_default_value_0() -> None:
    """Seed: "Default value: ``n``=0"."""
    assert from_dict().min_idle_session == 0
    assert idle_too_long(sessions(90, 90)) == [1, 2]


# -- ensure_idle_session -------------------------------------------------------------------------


def create(idle: int, dialing: int = 0, done: int = 0, *, target: int, rate: int = 0) -> int:
    return rules.sessions_to_create(idle, dialing, done, target, rate)


def test_when_the_pool_drops_below_this_threshold_new_sessions_are_automatically_created() -> None:
    """Seed: "Proactively maintain a target number of idle sessions"; "When the pool drops below this threshold ..."."""
    assert [create(idle, target=3) for idle in range(6)] == [3, 2, 1, 0, 0, 0]


def test_example_10_maintains_at_least_10_warm_connections() -> None:
    """Seed: "Example: ``10`` maintains at least 10 warm connections ready for use."."""
    assert create(0, target=10) == 10
    assert create(9, target=10) == 1
    assert create(10, target=10) == 0


def test_ensure_idle_session_default_0_disabled() -> None:
    """Seed: "Default: ``0`` (disabled)"."""
    assert from_dict().ensure_idle_session == 0
    assert create(0, target=0) == 0


def test_dials_in_flight_count() -> None:
    """Protocol: reference, "not counted: 2 wanted, slow dials, 4 made"; here: counted."""
    assert create(0, dialing=2, target=2) == 0
    assert create(1, dialing=1, target=3) == 1


def test_different_from_min_idle_session_passive_protection_during_cleanup() -> None:
    """Seed: "Different from ``min_idle_session`` (passive protection during cleanup)": that one creates nothing.

    The idle check keeps as many as the greater of the two, else it would close warm sessions that the
    refill dials again in the same moment.
    """
    assert idle_too_long(sessions(90, 90, 90, 90), ensure_idle_session=3) == [1]
    assert idle_too_long(sessions(90, 90, 90, 90), ensure_idle_session=1, min_idle_session=3) == [1]
    assert idle_too_long(sessions(90, 90, 90, 90), ensure_idle_session=3, min_idle_session=1) == [1]


# -- ensure_idle_session_create_rate -------------------------------------------------------------


def test_maximum_number_of_sessions_created_per_cleanup_cycle() -> None:
    """Seed: "Maximum number of sessions created per cleanup cycle."."""
    assert create(0, target=10, rate=3) == 3
    assert create(0, done=1, target=10, rate=3) == 2
    assert create(0, done=3, target=10, rate=3) == 0
    assert create(0, done=9, target=10, rate=3) == 0


def test_the_rate_creates_no_more_than_are_missing() -> None:
    assert create(9, target=10, rate=3) == 1
    assert create(7, dialing=2, target=10, rate=3) == 1
    assert create(10, target=10, rate=3) == 0


def test_create_rate_0_unlimited_create_all_needed_sessions_immediately() -> None:
    """Seed: "``0``: Unlimited (default, create all needed sessions immediately)"."""
    assert from_dict().ensure_idle_session_create_rate == 0
    assert create(0, target=1000, rate=0) == 1000
    assert create(0, done=500, target=1000, rate=0) == 1000


COUNTS = st.integers(0, 50)


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_sessions_to_create_stays_within_target_and_rate(
    idle: int, dialing: int, done: int, target: int, rate: int
) -> None:
    count = create(idle, dialing, done, target=target, rate=rate)
    assert count >= 0
    assert count == 0 or idle + dialing + count <= target
    if rate:
        assert count == 0 or done + count <= rate
    else:
        assert idle + dialing + count >= target


# -- max_connection_lifetime ---------------------------------------------------------------------


def test_sessions_exceeding_this_lifetime_are_closed_with_oldest_sessions_closed_first() -> None:
    """Seed: "Sessions exceeding this lifetime are closed, with oldest sessions closed first."."""
    idle = expired(5)
    random.Random(3).shuffle(idle)
    assert past_lifetime(idle) == [1, 2, 3, 4, 5]


def test_max_connection_lifetime_leaves_younger_sessions() -> None:
    """Seed: "Maximum age for a session before it's automatically closed."."""
    idle = [Idle(1, expires_at=NOW + 0.1), Idle(2, expires_at=NOW - 0.1), Idle(3, expires_at=NOW), Idle(4)]
    assert past_lifetime(idle) == [2, 3]


def test_max_connection_lifetime_does_not_look_at_idle_time() -> None:
    assert past_lifetime([Idle(1, NOW, NOW - 1), Idle(2, NOW - 1e6, NOW + 1)]) == [1]


def test_example_1h_sessions_live_up_to_1_hour() -> None:
    """Seed: "Example: ``1h`` (sessions live up to 1 hour)"."""
    options = from_dict(max_connection_lifetime="1h")
    assert rules.lifetime(options, random.Random(1)) == 3600.0


@pytest.mark.parametrize("value", [None, "", "0", "0s"])
def test_max_connection_lifetime_default_unlimited_no_age_based_expiration(value: str | None) -> None:
    """Seed: "Default: unlimited (no age-based expiration)"; and ``""`` in its sample."""
    options = from_dict(max_connection_lifetime=value)
    assert rules.lifetime(options, random.Random(1)) is None
    assert not rules.is_expired(1e12, Idle(1))
    assert rules.past_lifetime(1e12, sessions(1, 2), options) == []


def test_a_busy_session_past_its_lifetime_is_closed_as_its_stream_ends() -> None:
    """Design: "a busy one when its stream ends, by the same rule"."""
    options = PoolOptions(max_connection_lifetime=60.0)
    assert rules.returning_is_closed(NOW, Idle(1, expires_at=NOW), 0, options)
    assert not rules.returning_is_closed(NOW, Idle(1, expires_at=NOW + 1), 0, options)
    assert not rules.returning_is_closed(NOW, Idle(1), 0, options)


@pytest.mark.parametrize(("beside", "closed"), [(0, False), (1, False), (2, True), (3, True)])
def test_a_returning_session_is_the_first_to_go_where_enough_are_idle(beside: int, closed: bool) -> None:
    """Design: "leaves at least n idle sessions (all idle ones count, a returning one first)"."""
    options = PoolOptions(max_connection_lifetime=60.0, min_idle_session_for_age=2)
    assert rules.returning_is_closed(NOW, Idle(1, expires_at=NOW - 1), beside, options) is closed


# -- connection_lifetime_jitter ------------------------------------------------------------------

HOUR = 3600.0
QUARTER = 900.0


def lifetimes(count: int, base: float, jitter: float, seed: int = 1) -> list[float]:
    options = PoolOptions(max_connection_lifetime=base, connection_lifetime_jitter=jitter)
    rng = random.Random(seed)
    return [rules.lifetime(options, rng) or 0.0 for _ in range(count)]


def test_each_session_gets_a_random_lifetime_base_plus_minus_jitter() -> None:
    """Seed: "Each session gets a random lifetime: ``base ± jitter``"."""
    found = lifetimes(200, HOUR, QUARTER)
    assert len(set(found)) > 190


def test_example_1h_with_15m_sessions_will_live_between_45_and_75_minutes() -> None:
    """Seed: "Sessions will live between 45-75 minutes"."""
    found = lifetimes(5000, HOUR, QUARTER)
    assert 45 * 60 <= min(found) < 46 * 60
    assert 74 * 60 < max(found) <= 75 * 60


def test_example_expirations_spread_smoothly_over_30_minute_window() -> None:
    """Seed: "Expirations spread smoothly over 30-minute window": each minute of it gets about its share."""
    per_minute = [0] * 30
    for life in lifetimes(30_000, HOUR, QUARTER):
        per_minute[min(29, int((life - 2700) // 60))] += 1
    assert min(per_minute) > 850 and max(per_minute) < 1150


def test_connection_lifetime_jitter_default_0_no_randomization() -> None:
    """Seed: "Default: ``0`` (no randomization)"."""
    assert from_dict().connection_lifetime_jitter == 0.0
    assert set(lifetimes(50, HOUR, 0.0)) == {HOUR}


@given(st.floats(0.001, 1e7), st.floats(0, 1, exclude_max=True), st.integers(0, 2**32))
def test_a_lifetime_is_within_base_and_jitter_and_at_least_a_second(
    base: float, share: float, seed: int
) -> None:
    jitter = base * share
    for life in lifetimes(20, base, jitter, seed):
        assert life >= 1.0
        assert life <= max(1.0, (base + jitter) * (1 + 1e-9))
        assert life == 1.0 or life >= (base - jitter) * (1 - 1e-9)


# -- min_idle_session_for_age --------------------------------------------------------------------


def test_minimum_number_of_idle_sessions_to_protect_from_age_based_closure() -> None:
    """Seed: "Minimum number of idle sessions to protect from age-based closure"; the newest stay."""
    assert past_lifetime(expired(5), min_idle_session_for_age=2) == [1, 2, 3]
    assert past_lifetime(expired(5), min_idle_session_for_age=5) == []
    assert past_lifetime(expired(5), min_idle_session_for_age=50) == []


def test_all_idle_sessions_count_for_the_protection_from_age() -> None:
    """Design: "the age rule leaves at least n idle sessions (all idle ones count ...)": fresh ones too."""
    idle = [*expired(3), Idle(4), Idle(5)]
    assert past_lifetime(idle, min_idle_session_for_age=2) == [1, 2, 3]
    assert past_lifetime(idle, min_idle_session_for_age=3) == [1, 2]
    assert past_lifetime(idle, min_idle_session_for_age=4) == [1]


def test_min_idle_session_for_age_separate_from_idle_timeout_protection() -> None:
    """Seed: "separate from idle timeout protection"; "allows independent control"."""
    idle = [dataclasses.replace(session, idle_since=NOW - 90) for session in expired(5)]
    both = {"min_idle_session": 4, "min_idle_session_for_age": 1}
    assert idle_too_long(idle, **both) == [1]
    assert past_lifetime(idle, **both) == [1, 2, 3, 4]


def test_aggressive_age_rotation_and_generous_idle_protection() -> None:
    """Seed, use cases: "Aggressive age rotation + generous idle protection"."""
    idle = [dataclasses.replace(session, idle_since=NOW - 90) for session in expired(4)]
    assert idle_too_long(idle, min_idle_session=10, min_idle_session_for_age=1) == []
    assert past_lifetime(idle, min_idle_session=10, min_idle_session_for_age=1) == [1, 2, 3]


def test_conservative_age_rotation_and_aggressive_idle_cleanup() -> None:
    """Seed, use cases: "Conservative age rotation + aggressive idle cleanup"."""
    idle = [dataclasses.replace(session, idle_since=NOW - 90) for session in expired(4)]
    assert idle_too_long(idle, min_idle_session=0, min_idle_session_for_age=3) == [1, 2, 3, 4]
    assert past_lifetime(idle, min_idle_session=0, min_idle_session_for_age=3) == [1]


def test_balanced_protection_for_both_scenarios() -> None:
    """Seed, use cases: "Balanced protection for both scenarios"."""
    idle = [dataclasses.replace(session, idle_since=NOW - 90) for session in expired(4)]
    assert idle_too_long(idle, min_idle_session=2, min_idle_session_for_age=2) == [1, 2]
    assert past_lifetime(idle, min_idle_session=2, min_idle_session_for_age=2) == [1, 2]


def test_min_idle_session_for_age_default_0_use_same_as_min_idle_session() -> None:
    """Seed: "Default: ``0`` (use same as ``min_idle_session``)"."""
    assert from_dict().min_idle_session_for_age == 0
    assert past_lifetime(expired(5), min_idle_session=3) == [1, 2]
    assert rules.protected_from_age(PoolOptions(min_idle_session=3)) == 3
    assert rules.protected_from_age(PoolOptions(min_idle_session=3, min_idle_session_for_age=1)) == 1
    options = PoolOptions(max_connection_lifetime=60.0, min_idle_session=1)
    assert not rules.returning_is_closed(NOW, Idle(1, expires_at=NOW - 1), 0, options)


def test_ensure_idle_session_does_not_protect_from_age() -> None:
    """Seed: "works together with ``ensure_idle_session`` for automatic connection rotation".

    The old ones go, and the refill brings new ones.
    """
    assert past_lifetime(expired(3), ensure_idle_session=3) == [1, 2, 3]


# -- properties of both closing rules ------------------------------------------------------------

POOLS = st.lists(
    st.builds(
        lambda idle_for, left: (idle_for, left),
        st.floats(0, 200),
        st.one_of(st.none(), st.floats(-100, 100)),
    ),
    max_size=15,
)


@given(POOLS, st.randoms(use_true_random=False), COUNTS, COUNTS, COUNTS)
def test_the_closing_rules_respect_their_protection_for_any_pool(
    pool: list[tuple[float, float | None]], rng: random.Random, passive: int, ensured: int, for_age: int
) -> None:
    options = PoolOptions(
        max_connection_lifetime=60.0,
        min_idle_session=passive,
        ensure_idle_session=ensured,
        min_idle_session_for_age=for_age,
    )
    idle = [
        Idle(number, NOW - idle_for, None if left is None else NOW + left)
        for number, (idle_for, left) in enumerate(pool, 1)
    ]
    rng.shuffle(idle)

    by_idle = rules.idle_too_long(NOW, idle, options)
    newest = sorted((s.sequence for s in idle), reverse=True)[: max(passive, ensured)]
    assert not set(numbers(by_idle)) & set(newest)
    assert {s for s in idle if s.sequence not in newest and NOW - s.idle_since > 30} == set(by_idle)

    by_age = rules.past_lifetime(NOW, idle, options)
    old = {s.sequence for s in idle if s.expires_at is not None and s.expires_at <= NOW}
    assert numbers(by_age) == sorted(numbers(by_age))
    assert set(numbers(by_age)) <= old
    assert not by_age or len(idle) - len(by_age) >= (for_age or passive)
    # Of the old ones, none stays that is older than one that goes; and no more stay than must.
    kept = old - set(numbers(by_age))
    assert not kept or not by_age or min(kept) > max(numbers(by_age))
    assert not kept or len(idle) - len(by_age) == min(len(idle), for_age or passive)


# -- heartbeat and silence -----------------------------------------------------------------------


def test_heartbeat_default_disabled() -> None:
    """Seed: "Default: disabled (no heartbeat)"."""
    assert from_dict().heartbeat is None


def test_heartbeat_example_11s() -> None:
    """Seed: "Example: ``11s`` (send heartbeat every 11 seconds)"."""
    assert from_dict(heartbeat="11s").heartbeat == 11.0


def test_a_session_is_silent_after_heartbeat_and_3_seconds_or_5_without_heartbeat() -> None:
    """Design: "nothing was received on it for heartbeat + 3 s, or 5 s without heartbeat"."""
    assert rules.silence_limit(PoolOptions(heartbeat=11.0)) == 14.0
    assert rules.silence_limit(PoolOptions()) == 5.0


@pytest.mark.parametrize(
    ("round_trip", "patience"), [(0.0, 1.0), (0.2, 1.0), (0.25, 1.0), (0.5, 2.0), (3, 12)]
)
def test_a_proof_of_life_may_take_a_second_or_four_round_trips(round_trip: float, patience: float) -> None:
    """Design: "awaits any frame for max(1 s, 4 x the measured round trip)"."""
    assert rules.proof_patience(round_trip) == patience


# -- back-off ------------------------------------------------------------------------------------


def test_without_failures_nothing_is_put_off() -> None:
    assert rules.backoff(0, 30.0, random.Random(1)) == 0.0


def test_the_back_off_doubles_up_to_the_check_interval() -> None:
    """Design: "After failures back off, with jitter, up to the check interval"."""
    rng = random.Random(1)
    highest = [max(rules.backoff(n, 30.0, rng) for _ in range(500)) for n in range(1, 11)]
    expected = [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert all(0.97 * top < seen <= top for seen, top in zip(highest, expected, strict=True))


def test_the_back_off_has_jitter() -> None:
    rng = random.Random(1)
    assert len({rules.backoff(5, 30.0, rng) for _ in range(50)}) == 50


@given(st.integers(1, 10**9), st.floats(0.001, 1e7), st.integers(0, 2**32))
def test_the_back_off_is_bounded_by_the_interval(failures: int, interval: float, seed: int) -> None:
    pause = rules.backoff(failures, interval, random.Random(seed))
    assert 0 < pause <= interval
    assert pause >= min(interval, 0.5) / 2
