from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.config.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("1h30m", 5400.0),
        ("100ms", 0.1),
        ("1.5h", 5400.0),
        ("1d", 86400.0),
        ("1d12h", 129600.0),
        ("5us", 5e-6),
        ("5µs", 5e-6),
        ("5μs", 5e-6),
        ("1ns", 1e-9),
        ("0", 0.0),
        ("0s", 0.0),
        ("-0s", 0.0),
        ("+5s", 5.0),
        (".5s", 0.5),
        ("5.s", 5.0),
        ("-5s", -5.0),
        ("1h1m1s1ms1us1ns", 3661.001001001),
    ],
)
def test_go_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "10", "abc", "1h-5m", "1h 5m", " 5s", "5s ", "5s\n", "5S", "1w", "1y", "1mo", "1mm", ".s", "1.2.3s"]
    + ["１s", "1e3s", "1_0s", "s", "-", "00", "0x1s", "9999999999h", "9" * 500 + "s", "1s" * 60],
)
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(0, 9_223_372_036 * 10**9))
def test_formatting_loses_nothing(nanoseconds: int) -> None:
    seconds = parse_duration(f"{nanoseconds}ns")
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(30.0, "30s"), (0.3, "0.3s"), (1e-9, "0.000000001s"), (100, "100s")]
)
def test_formatting_is_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
