"""Cutting up a TLS ClientHello inside the server's name, so that no piece on the wire has the whole name.

No I/O here: :meth:`Fragmentation.pieces` takes what OpenSSL wants to send and returns what to send instead,
one item per TCP segment. Layouts of bytes: RFC 8446, sections 4.1.2 and 5.1; RFC 6066, section 3.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

__all__ = ["Fragmentation", "server_name_span", "split_points"]

_RECORD_HEADER = 5
_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
#: The handshake message's header (type and 24 bits of length), the version, and the random number.
_BEFORE_SESSION_ID = 4 + 2 + 32
_SERVER_NAME_EXTENSION = 0
#: The extension's type and length, the list's length, the entry's type, and the name's length.
_BEFORE_NAME = 2 + 2 + 2 + 1 + 2
#: Cuts at most. Each may cost a round trip, and nobody watches for more than the last few labels.
_MOST_CUTS = 6

_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Fragmentation:
    """How a ClientHello is to be sent: in several TCP segments, in several TLS records, or both."""

    segments: bool
    records: bool
    #: Seconds to wait between segments where the system can't tell whether the last one has arrived.
    fallback_delay: float

    def pieces(self, flight: bytes, rng: random.Random = _random) -> list[bytes]:
        """Return what to send instead of ``flight``, one item per TCP segment.

        It is one item where there is no server name in it. A second ClientHello, for a server that has asked
        for another key share, is cut up like the first.
        """
        span = server_name_span(flight)
        if span is None:
            return [flight]
        cuts = split_points(flight[slice(*span)], rng)
        pieces = _cut(flight, [span[0] + cut for cut in cuts], reframe=self.records)
        return pieces if self.segments else [b"".join(pieces)]


def server_name_span(flight: bytes) -> tuple[int, int] | None:
    """Return where in ``flight`` (whole TLS records) the ClientHello's server name is, None where there is none."""
    record = _client_hello_record(flight)
    if record is None:
        return None
    start, end = record
    position = start + _RECORD_HEADER + _BEFORE_SESSION_ID
    for size_of_length in (1, 2, 1):  # session id, cipher suites, compression methods
        position += size_of_length + _number(flight, position, size_of_length)
    position += 2  # the length of all extensions
    while position + 4 <= end:
        if _number(flight, position, 2) == _SERVER_NAME_EXTENSION:
            name = position + _BEFORE_NAME
            name_end = name + _number(flight, name - 2, 2)
            return (name, name_end) if name < name_end <= end else None
        position += 4 + _number(flight, position + 2, 2)
    return None


def split_points(name: bytes, rng: random.Random) -> list[int]:
    """Return where to cut a name: inside each label but the last, which many names share.

    At least one cut, where the name has two bytes or more.
    """
    labels = name.split(b".")
    cuts = []
    start = 0
    for label in labels[:-1]:
        if len(label) > 1:
            cuts.append(start + rng.randrange(1, len(label)))
        start += len(label) + 1
    if not cuts and len(name) > 1:
        cuts.append(rng.randrange(1, len(name)))
    return cuts[-_MOST_CUTS:]


def _client_hello_record(flight: bytes) -> tuple[int, int] | None:
    """Return where the record with the ClientHello is, header included. A retry has another record before it."""
    start = 0
    while start + _RECORD_HEADER < len(flight):
        end = start + _RECORD_HEADER + _number(flight, start + 3, 2)
        if flight[start] == _HANDSHAKE_RECORD and flight[start + _RECORD_HEADER] == _CLIENT_HELLO:
            return start, end
        start = end
    return None


def _cut(flight: bytes, cuts: list[int], *, reframe: bool) -> list[bytes]:
    """Cut ``flight`` at these places; ``reframe``: each part of the record becomes a record of its own."""
    if not reframe:
        return [flight[start:end] for start, end in itertools.pairwise([0, *cuts, len(flight)])]
    start, end = _client_hello_record(flight) or (0, 0)
    kind_and_version = flight[start : start + 3]
    body = itertools.pairwise([start + _RECORD_HEADER, *cuts, end])
    records = [
        kind_and_version + (last - first).to_bytes(2, "big") + flight[first:last] for first, last in body
    ]
    records[0] = flight[:start] + records[0]
    records[-1] += flight[end:]
    return records


def _number(data: bytes, position: int, size: int) -> int:
    return int.from_bytes(data[position : position + size], "big")
