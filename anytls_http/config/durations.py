"""Go's duration strings, as sing-box takes them: ``30s``, ``1h30m``, ``100ms``, ``1.5h``, ``1d``.

Why not ``durationpy`` (0.11), which was measured first: it takes ``1h-5m`` for 65 minutes, and
``1h 5m``, ``1w``, ``1y``, ``1mm`` and full-width digits, all of which sing-box refuses; and it rounds to
microseconds. A pattern strict enough to guard it already does all the work that it would do.
"""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = ["format_duration", "parse_duration"]

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,  # U+03BC, the Greek letter: Go takes both
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,  # sing-box's addition to Go's units
}
_PART = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h|d)"
_DURATION = re.compile(rf"[+-]?(?:0|(?:{_PART})+)")
_PARTS = re.compile(r"([0-9.]+)([a-zµμ]+)")
#: What a Go duration (an int64 of nanoseconds) can hold, in whole seconds: about 292 years.
_LONGEST = 2**63 // 1_000_000_000 * 1_000_000_000
#: Far more than any real duration has; it keeps the arithmetic below from being made to work hard.
_LONGEST_TEXT = 100


def parse_duration(text: str) -> float:
    """Return the seconds that a Go duration string means; negative where it has a minus sign.

    Raises ``ValueError`` for everything that sing-box refuses: no unit, an unknown unit, spaces, and
    more than Go's int64 of nanoseconds can hold.
    """
    if len(text) > _LONGEST_TEXT or not _DURATION.fullmatch(text):
        raise ValueError("not a duration")
    total = Decimal(0)
    for number, unit in _PARTS.findall(text):
        total += Decimal(number) * _NANOSECONDS[unit]
    nanoseconds = int(total)
    if nanoseconds > _LONGEST:
        raise ValueError("longer than a duration can be")
    seconds = nanoseconds / 1_000_000_000
    return -seconds if text[0] == "-" and seconds else seconds


def format_duration(seconds: float) -> str:
    """Return the Go duration string that :func:`parse_duration` turns back into just these seconds."""
    # Not %g: an exponent (1e-09s) is no Go duration. Decimal(repr()) has the shortest digits that mean
    # this very float, so nothing is lost on the way back.
    digits = format(Decimal(repr(float(seconds))), "f")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}s"
