"""Frames, the unit of a session: ``command u8 | stream id u32 | length u16 | data``, big-endian."""

from __future__ import annotations

import enum
import struct

#: Layout of a frame header.
HEADER = struct.Struct(">BIH")
#: Bytes of a frame header.
HEADER_SIZE = HEADER.size
#: Most bytes of data that one frame can carry.
MAX_DATA = 0xFFFF


class Command(enum.IntEnum):
    """The commands of protocol version 2 (``docs/protocol.md`` says who sends which)."""

    WASTE = 0  #: padding, read and dropped
    SYN = 1  #: client: open the stream
    PSH = 2  #: stream data
    FIN = 3  #: the stream is closed in both directions
    SETTINGS = 4  #: client: first frame of a session
    ALERT = 5  #: server: a text; the session is over
    UPDATE_PADDING_SCHEME = 6  #: server: scheme for the sessions opened from now on
    SYNACK = 7  #: server, version 2: the target was reached, or (with a text) why not
    HEART_REQUEST = 8  #: version 2: answer with HEART_RESPONSE
    HEART_RESPONSE = 9  #: version 2
    SERVER_SETTINGS = 10  #: server, version 2: the version that it speaks


def encode_frame(command: int, stream_id: int, data: bytes = b"") -> bytes:
    """Return one frame. ``data`` holds at most 65,535 bytes; more raises :class:`struct.error`."""
    return HEADER.pack(command, stream_id, len(data)) + data
