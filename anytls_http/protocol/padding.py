"""The padding scheme: how many bytes the first packets of a session take on the wire.

A *packet* is one write of the session; the scheme may turn it into several *records*, each one write to
the TLS layer. A scheme may come from a hostile server, so parsing it is linear, nothing in it can raise
anything but :class:`ValueError`, and what one packet may grow by is bounded (:data:`MAX_STEPS`,
:data:`MAX_LINE_BYTES`).
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from .frames import HEADER, HEADER_SIZE, MAX_DATA, Command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["DEFAULT_SCHEME", "MAX_LINE_BYTES", "MAX_PADDING0", "MAX_STEPS", "PaddingScheme"]

_logger = logging.getLogger("anytls_http.protocol")

#: Most ranges and check marks of one line that are kept; the rest of such a line is ignored.
MAX_STEPS = 1024
#: Most bytes that the ranges of one line may add up to; the rest of such a line is ignored.
MAX_LINE_BYTES = 1 << 20
#: Most bytes of padding0: with it the authentication (34 bytes more) still fits one TLS record.
#: Servers take the authentication with a single read, so a longer one would be refused.
MAX_PADDING0 = 16_384 - 34

#: A size is ``low`` plus a number drawn from [0, ``span``), or just ``low`` where ``span`` is 1.
_Range = tuple[int, int]
#: ``None`` is the check mark.
_Step = _Range | None

# What Go's strconv takes in base 10: a sign and digits, no spaces or underscores, within 64 bits.
_NUMBER = re.compile(rb"([+-]?)0*([0-9]{1,19})", re.ASCII)
_MAX_INT64 = (1 << 63) - 1


def _go_integer(text: bytes) -> int | None:
    """Return the integer that Go's ``strconv.Atoi`` reads in ``text``, ``None`` where it fails."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    value = int(match[2])
    if value > _MAX_INT64:
        return None
    return -value if match[1] == b"-" else value


class _Ignored:
    """What was left out of a scheme; told in one log line, however much it is."""

    __slots__ = ("cut_lines", "large_ranges")

    def __init__(self) -> None:
        self.large_ranges = 0
        self.cut_lines = 0

    def log(self) -> None:
        if self.large_ranges:
            _logger.warning(
                "padding scheme: %d ranges with sizes over %d bytes are skipped", self.large_ranges, MAX_DATA
            )
        if self.cut_lines:
            _logger.warning(
                "padding scheme: %d lines are cut at %d items or %d bytes of padding",
                self.cut_lines,
                MAX_STEPS,
                MAX_LINE_BYTES,
            )


def _parse_range(text: bytes, ignored: _Ignored) -> _Range | None:
    """Return the range in ``text``, ``None`` for one that is to be skipped."""
    first, dash, second = text.partition(b"-")
    if not dash:
        return None
    one, other = _go_integer(first), _go_integer(second)
    if one is None or other is None or one <= 0 or other <= 0:
        return None
    low, high = min(one, other), max(one, other)
    span = max(high - low, 1)
    if low + span - 1 > MAX_DATA:
        ignored.large_ranges += 1
        return None
    return low, span


def _parse_line(text: bytes, ignored: _Ignored) -> tuple[_Step, ...]:
    """Return the steps of one line, within the bounds of this module."""
    steps: list[_Step] = []
    total = 0
    for item in text.split(b","):
        step = None
        if item != b"c":
            step = _parse_range(item, ignored)
            if step is None:
                continue
            total += step[0] + step[1] - 1 + HEADER_SIZE
        if len(steps) == MAX_STEPS or total > MAX_LINE_BYTES:
            ignored.cut_lines += 1
            break
        steps.append(step)
    return tuple(steps)


def _packet_number(key: bytes) -> int | None:
    """Return the packet that a line is for; like the reference, ``01`` is not packet 1."""
    if not key.isdigit() or len(key) > 19 or (key[0] == ord("0") and len(key) > 1):
        return None
    return int(key)


@dataclass(frozen=True, slots=True)
class PaddingScheme:
    """One padding scheme, immutable. Made by :meth:`parse`."""

    #: The bytes that the scheme was read from.
    raw: bytes = field(repr=False)
    #: Lower-case hex MD5 of :attr:`raw`: what Settings tell the server.
    md5: str
    #: Packets with this number and above are sent as they are.
    stop: int
    _lines: Mapping[int, tuple[_Step, ...]] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, raw: bytes) -> PaddingScheme:
        """Return the scheme in ``raw`` (at most 65,535 bytes, what a frame can carry).

        Raises :class:`ValueError` where it is longer or has no usable ``stop``; the caller then keeps
        the scheme in use. Lines and ranges that can't be understood are skipped, as the reference does.
        """
        if len(raw) > MAX_DATA:
            raise ValueError(f"the padding scheme has {len(raw)} bytes, more than {MAX_DATA}")
        raw = bytes(raw)
        values: dict[bytes, bytes] = {}
        for line in raw.split(b"\n"):
            key, equals, value = line.partition(b"=")
            if equals:
                values[key] = value
        stop = _go_integer(values.get(b"stop", b""))
        if stop is None or stop < 0:
            raise ValueError("the padding scheme has no usable 'stop' line")
        ignored = _Ignored()
        lines = {}
        for key, value in values.items():
            number = _packet_number(key)
            # Line 0 is read whatever `stop` says: it is about the authentication, which is no packet of
            # the session yet.
            if number is not None and (number < stop or number == 0):
                lines[number] = _parse_line(value, ignored)
        ignored.log()
        md5 = hashlib.md5(raw, usedforsecurity=False).hexdigest()
        return cls(raw, md5, stop, MappingProxyType(lines))

    def padding0(self, rng: random.Random) -> int:
        """Return the size in bytes of padding0, by the first range of line ``0``; 0 where there is none.

        Never more than :data:`MAX_PADDING0`.
        """
        for step in self._lines.get(0, ()):
            if step is not None:
                return min(_draw(step, rng), MAX_PADDING0)
        return 0

    def split(
        self, packet: int, payload: bytes | bytearray | memoryview, rng: random.Random
    ) -> list[bytes | bytearray | memoryview]:
        """Return the records that carry ``payload`` as packet number ``packet``, Waste frames included.

        Each item is one TLS write: don't merge them, their sizes are the point. Items may be views of
        ``payload``, which must stay as it is until they are written.
        """
        steps = self._lines.get(packet) if packet < self.stop else None
        if not steps:
            return [payload] if payload else []
        return list(_walk(steps, memoryview(payload), rng))


def _draw(step: _Range, rng: random.Random) -> int:
    low, span = step
    return low + rng.randrange(span) if span > 1 else low


def _walk(
    steps: tuple[_Step, ...], left: memoryview, rng: random.Random
) -> Iterator[bytes | bytearray | memoryview]:
    """Yield the records of one packet: ``left`` is the payload that is still to send."""
    for step in steps:
        if step is None:
            if not left:
                return
            continue
        size = _draw(step, rng)
        if not left:
            yield _waste(size)
        elif len(left) > size:
            yield left[:size]
            left = left[size:]
        else:
            room = size - len(left) - HEADER_SIZE
            yield b"".join((left, _waste(room))) if room > 0 else left
            left = left[:0]
    if left:
        yield left


def _waste(size: int) -> bytes:
    return HEADER.pack(Command.WASTE, 0, size) + bytes(size)


#: The scheme in use until a server sends another.
DEFAULT_SCHEME = PaddingScheme.parse(
    b"""stop=8
0=30-30
1=100-400
2=400-500,c,500-1000,c,500-1000,c,500-1000,c,500-1000
3=9-9,500-1000
4=500-1000
5=500-1000
6=500-1000
7=500-1000"""
)
