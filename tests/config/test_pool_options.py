"""The pool's fields: the table "Options of the seed, exactly" of the design."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anytls_http.config import AnyTLSOutbound, PoolOptions
from anytls_http.errors import ConfigError

Make = Callable[..., AnyTLSOutbound]
Logged = Callable[[], list[str]]

DURATIONS = [
    "idle_session_check_interval",
    "idle_session_timeout",
    "max_connection_lifetime",
    "connection_lifetime_jitter",
    "heartbeat",
]
NUMBERS = [
    "min_idle_session",
    "ensure_idle_session",
    "ensure_idle_session_create_rate",
    "min_idle_session_for_age",
]


def test_defaults() -> None:
    assert PoolOptions() == PoolOptions(
        idle_session_check_interval=30.0,
        idle_session_timeout=30.0,
        min_idle_session=0,
        ensure_idle_session=0,
        ensure_idle_session_create_rate=0,
        max_connection_lifetime=None,
        connection_lifetime_jitter=0.0,
        min_idle_session_for_age=0,
        heartbeat=None,
    )


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("nothing", ["", "0", "0s", "0h0m", None])
def test_empty_and_zero_durations_are_the_default(make: Make, name: str, nothing: str | None) -> None:
    assert make(**{name: nothing}).pool == PoolOptions()


@pytest.mark.parametrize("name", DURATIONS)
def test_durations_are_seconds(make: Make, name: str) -> None:
    changes = {name: "1m30s"}
    if name == "connection_lifetime_jitter":
        changes["max_connection_lifetime"] = "1h"
    assert getattr(make(**changes).pool, name) == 90.0


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("wrong", ["-5s", "30", 30, 0, 1.5, True, [], {}, "1h-5m", "soon"])
def test_wrong_durations_are_refused(make: Make, name: str, wrong: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: got "):
        make(**{name: wrong})


@pytest.mark.parametrize("name", ["idle_session_check_interval", "heartbeat"])
def test_intervals_have_a_shortest(make: Make, name: str) -> None:
    assert getattr(make(**{name: "1ms"}).pool, name) == 0.001
    with pytest.raises(ConfigError, match=f'^{name}: got "1us", takes at least "1ms"'):
        make(**{name: "1us"})


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_integers_from_zero(make: Make, name: str) -> None:
    assert getattr(make(**{name: 7}).pool, name) == 7
    wrong_ones: list[object] = [-1, "5", True, 1.5, [], 2**31, float("inf"), float("nan")]
    for wrong in wrong_ones:
        with pytest.raises(ConfigError, match=f"^{name}: got .*takes an integer from 0"):
            make(**{name: wrong})


@pytest.mark.parametrize("jitter", ["1h", "61m"])
def test_jitter_must_be_smaller_than_the_lifetime(make: Make, jitter: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(max_connection_lifetime="1h", connection_lifetime_jitter=jitter)
    assert str(caught.value) == (
        f'connection_lifetime_jitter: got "{jitter}", takes less than max_connection_lifetime ("1h")'
    )


def test_jitter_without_a_lifetime_is_a_warning(make: Make, warnings_logged: Logged) -> None:
    assert make(connection_lifetime_jitter="5m").pool.connection_lifetime_jitter == 300.0
    assert warnings_logged() == ["connection_lifetime_jitter has no effect without max_connection_lifetime"]


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        # The seed's case: more are maintained than protected, so the surplus is rotated.
        ({"ensure_idle_session": 5, "min_idle_session_for_age": 2}, False),
        ({"ensure_idle_session": 5, "min_idle_session_for_age": 5}, True),
        ({"ensure_idle_session": 5, "min_idle_session_for_age": 9}, True),
        # Nothing refills: what is protected stays for ever.
        ({"min_idle_session_for_age": 1}, True),
        # 0 means the same number as min_idle_session.
        ({"min_idle_session": 5}, True),
        ({"min_idle_session": 5, "ensure_idle_session": 5}, True),
        ({"min_idle_session": 5, "ensure_idle_session": 6}, False),
        ({"min_idle_session": 5, "ensure_idle_session": 5, "min_idle_session_for_age": 1}, False),
        ({"ensure_idle_session": 1}, False),
        ({}, False),
    ],
)
def test_protection_that_stops_all_rotation_is_a_warning(
    make: Make, warnings_logged: Logged, options: dict[str, Any], warned: bool
) -> None:
    make(**options)
    assert warnings_logged() == []  # without a lifetime there is nothing to rotate
    make(max_connection_lifetime="1h", **options)
    assert ["never rotated" in message for message in warnings_logged()] == [True] * warned
