"""The client's side of one session as a state machine: no I/O, no clock, randomness passed in.

Outgoing: methods return *records*, a list of byte strings; each is one write to the TLS layer, and
its size is the point of the padding scheme, so they must not be merged. Incoming: the caller reads
plaintext to where the machine says, so that a payload is copied once, from TLS to its reader:

* :attr:`ClientSession.payload_left` > 0: so many bytes of the open stream come next. Read any
  number of them to wherever they are wanted, then call :meth:`ClientSession.payload_taken`.
* :attr:`ClientSession.skip_left` > 0: so many bytes come next that nobody wants. Read and drop any
  number of them, then call :meth:`ClientSession.skipped`.
* otherwise read at most ``len(wanted)`` bytes into :attr:`ClientSession.wanted`, then call
  :meth:`ClientSession.filled`, which may return an :class:`Event`.

There is at most one open stream. All transitions of it live here; what a flag means for a caller
(an exception, the end of a file) is decided elsewhere.
"""

from __future__ import annotations

import enum
import hashlib
import random
from typing import NamedTuple

from .frames import HEADER, HEADER_SIZE, MAX_DATA, Command, encode_frame
from .padding import PaddingScheme
from .settings import client_settings, parse_settings

#: HeartRequests answered at the most in one go: a server that sends them without end gets no more.
MAX_HEART_RESPONSES = 16

#: Most characters kept of what a server says (an alert, a refusal): errors and logs repeat it.
MAX_TEXT = 500
#: What an alert or a refusal without text is told as.
NO_REASON = "it gave no reason"

_PACK = HEADER.pack
_UNPACK = HEADER.unpack_from
_PSH = int(Command.PSH)

Piece = bytes | bytearray | memoryview


class EventKind(enum.Enum):
    """What a frame from the server meant."""

    OPENED = enum.auto()  #: SYNACK: the target was reached
    REFUSED = enum.auto()  #: SYNACK with the server's words (``text``)
    PEER_CLOSED = enum.auto()  #: FIN of the open stream
    HEART_REQUEST = enum.auto()  #: answer with :meth:`ClientSession.heart_responses`
    HEART_RESPONSE = enum.auto()
    SERVER_SETTINGS = enum.auto()  #: the server's version is known now
    PADDING_SCHEME = enum.auto()  #: ``data`` is a raw scheme for later sessions
    ALERT = enum.auto()  #: ``text``; the session is over


class Event(NamedTuple):
    """One thing that happened. ``text`` is the server's, decoded with replacement, at most 64 KiB."""

    kind: EventKind
    text: str = ""
    data: bytes = b""


class ClientSession:
    """One session, from the authentication to its last frame.

    ``password``: as the user wrote it. ``scheme``: the padding scheme, for the life of the session.
    ``client``: the ``client=`` value of Settings. ``rng``: source of padding sizes.
    """

    __slots__ = (
        "_address",
        "_body_command",
        "_body_stream",
        "_buffer",
        "_client",
        "_digest",
        "_have",
        "_header",
        "_held_fin",
        "_need",
        "_next_stream_id",
        "_packet",
        "_rng",
        "_scheme",
        "_settings_sent",
        "acknowledged",
        "frames_received",
        "heart_responses_due",
        "payload_left",
        "peer_closed",
        "peer_version",
        "refusal",
        "skip_left",
        "stream_id",
        "syn_sent",
        "wanted",
    )

    def __init__(self, password: str, scheme: PaddingScheme, client: str, rng: random.Random) -> None:
        self._digest = hashlib.sha256(password.encode()).digest()
        self._scheme = scheme
        self._client = client
        self._rng = rng
        self._packet = 1
        self._settings_sent = False
        self._next_stream_id = 1
        self._address = b""
        self._held_fin = b""

        #: Id of the stream that is open or held, 0 when there is none.
        self.stream_id = 0
        #: Whether the stream's SYN has been handed out.
        self.syn_sent = False
        #: Whether SYNACK or data of the stream was received.
        self.acknowledged = False
        #: Whether the server has closed the stream.
        self.peer_closed = False
        #: The server's words where it refused the stream.
        self.refusal: str | None = None
        #: 0 until known, then 2 (a version 1 server never says so).
        self.peer_version = 0
        #: Frames received so far, of every kind.
        self.frames_received = 0
        self.heart_responses_due = 0

        self.payload_left = 0
        self.skip_left = 0
        self._header = memoryview(bytearray(HEADER_SIZE))
        self._buffer = self._header
        self._have = 0
        self._need = HEADER_SIZE
        self._body_command = -1
        self._body_stream = 0
        #: Where the next bytes belong, when neither ``payload_left`` nor ``skip_left`` says otherwise.
        self.wanted = self._header

    # -- outgoing ------------------------------------------------------------------------------------

    def authentication(self) -> bytes:
        """Return packet 0; it must be one TLS record: servers read it with a single read."""
        padding = self._scheme.padding0(self._rng)
        return self._digest + padding.to_bytes(2, "big") + bytes(padding)

    @property
    def padding_is_over(self) -> bool:
        """Whether packets go out as they are from now on."""
        return self._packet >= self._scheme.stop

    def open_stream(self, address: bytes) -> int:
        """Begin a stream to ``address`` (a SocksAddr) and return its id; the SYN is held until data is sent."""
        if self.stream_id:
            raise RuntimeError("a session has one open stream at a time")
        # An id is used up by its SYN only: a stream that was never announced leaves no trace.
        self.stream_id = self._next_stream_id
        self.syn_sent = False
        self.acknowledged = False
        self.peer_closed = False
        self.refusal = None
        self._address = address
        return self.stream_id

    def opening_records(self) -> list[Piece]:
        """Return the records of Settings (once), SYN and address, nothing when they have been handed out."""
        if self.syn_sent or not self.stream_id:
            return []
        return self._as_packet(self._take_opening())

    def data_records(self, data: memoryview) -> list[Piece]:
        """Return the records that carry ``data`` (and, before the first, the opening of the stream).

        Any size; over 65,535 bytes it is several PSH frames, as few as possible and of about the same size: a server
        hands each frame on by itself, and a last one of few bytes costs it as much as a large one.
        """
        opening = b""
        records: list[Piece] = []
        if not self.syn_sent:
            opening = self._take_opening()
            if self._packet < self._scheme.stop:
                records = self._as_packet(opening)
                opening = b""
        if self._held_fin:
            opening, self._held_fin = self._held_fin + opening, b""
        stream_id = self.stream_id
        size = len(data)
        if size <= MAX_DATA:
            packet = b"".join((opening, _PACK(_PSH, stream_id, size), data))
        else:
            pieces: list[Piece] = [opening]
            frames = -(-size // MAX_DATA)
            step = -(-size // frames)
            for start in range(0, size, step):
                piece = data[start : start + step]
                pieces += (_PACK(_PSH, stream_id, len(piece)), piece)
            packet = b"".join(pieces)
        if self._packet >= self._scheme.stop:
            records.append(packet)
        else:
            records += self._as_packet(packet)
        return records

    def end_stream(self, hold_fin: bool = False) -> list[Piece]:
        """Forget the stream; return the records of its FIN, nothing where the server needs none.

        ``hold_fin``: the FIN may wait, and leaves with the next packet or by :meth:`held_fin`. Only once the
        padding is over: before that each packet's number counts.
        """
        stream_id = self.stream_id
        is_open_there = self.syn_sent and not self.peer_closed and self.refusal is None
        self.stream_id = 0
        self.syn_sent = False
        self.peer_closed = False
        self.refusal = None
        if self.payload_left:
            self.skip_left, self.payload_left = self.payload_left, 0
        if not is_open_there:
            return []
        fin = encode_frame(Command.FIN, stream_id)
        if hold_fin and self.padding_is_over:
            self._held_fin += fin
            return []
        return self._as_packet(fin)

    @property
    def in_mid_frame(self) -> bool:
        """Whether a frame was begun of which the rest is still to come."""
        return bool(self.payload_left or self.skip_left or self._have or self._body_command >= 0)

    @property
    def has_held_fin(self) -> bool:
        """Whether a FIN waits for the next packet."""
        return bool(self._held_fin)

    def held_fin(self) -> list[Piece]:
        """Return the record of a FIN that was held, nothing where there is none."""
        return self._as_packet(b"") if self._held_fin else []

    def heart_request(self) -> list[Piece]:
        """Return the records of a HeartRequest; Settings go first where they weren't sent yet."""
        return self._as_control(encode_frame(Command.HEART_REQUEST, 0))

    def heart_responses(self) -> list[Piece]:
        """Return the records that answer the server's HeartRequests so far."""
        due, self.heart_responses_due = self.heart_responses_due, 0
        return self._as_control(encode_frame(Command.HEART_RESPONSE, 0) * due) if due else []

    def _as_control(self, frames: bytes) -> list[Piece]:
        if self._next_stream_id > 1:
            return self._as_packet(frames)
        # Before the first SYN nothing counts as a packet, so that the first user's data is padded as
        # packet 2 however long the session was kept warm.
        return list(self._scheme.split(1, self._take_settings() + frames, self._rng))

    def _take_settings(self) -> bytes:
        if self._settings_sent:
            return b""
        self._settings_sent = True
        return encode_frame(Command.SETTINGS, 0, client_settings(self._client, self._scheme.md5))

    def _take_opening(self) -> bytes:
        self.syn_sent = True
        self._next_stream_id = self.stream_id + 1
        return b"".join(
            (
                self._take_settings(),
                _PACK(Command.SYN, self.stream_id, 0),
                _PACK(_PSH, self.stream_id, len(self._address)),
                self._address,
            )
        )

    def _as_packet(self, packet: bytes) -> list[Piece]:
        number = self._packet
        self._packet = number + 1
        if number >= self._scheme.stop:
            if self._held_fin:
                packet, self._held_fin = self._held_fin + packet, b""
            return [packet]
        return list(self._scheme.split(number, packet, self._rng))

    # -- incoming ------------------------------------------------------------------------------------

    def payload_follows(self, plain: memoryview) -> bool:
        """Whether ``plain`` begins with the header of more of the open stream's data, which it uses up then.

        The short way through a download: False says nothing, the header may be of another kind, or cut.
        """
        if (
            len(plain) < HEADER_SIZE
            or self._have
            or self.skip_left
            or self._body_command >= 0
            or not self.acknowledged
            or self.peer_closed
            or self.refusal is not None
        ):
            return False
        command, stream_id, size = _UNPACK(plain)
        if command != _PSH or stream_id != self.stream_id:
            return False
        self.frames_received += 1
        self.payload_left = size
        return True

    def payload_taken(self, count: int) -> None:
        """``count`` bytes of the stream's data were read."""
        self.payload_left -= count

    def skipped(self, count: int) -> None:
        """``count`` bytes that nobody wants were read."""
        self.skip_left -= count

    def filled(self, count: int) -> Event | None:
        """``count`` bytes were read into :attr:`wanted`; return what they completed, if anything."""
        self._have += count
        if self._have < self._need:
            self.wanted = self._buffer[self._have : self._need]
            return None
        if self._body_command < 0:
            return self._header_complete()
        command, body = self._body_command, bytes(self._buffer)
        stream_id = self._body_stream
        self._expect_header()
        return self._frame(command, stream_id, body)

    def _expect_header(self) -> None:
        self._buffer = self.wanted = self._header
        self._have = 0
        self._need = HEADER_SIZE
        self._body_command = -1

    def _header_complete(self) -> Event | None:
        command, stream_id, size = _UNPACK(self._header)
        if command in _COMMANDS:  # what else may come from a server that isn't AnyTLS proves nothing
            self.frames_received += 1
        self._have = 0
        self.wanted = self._header
        if command == _PSH:
            if (
                stream_id == self.stream_id
                and self.syn_sent
                and not self.peer_closed
                and self.refusal is None
            ):
                self.payload_left = size
                self.acknowledged = True
            else:
                self.skip_left = size  # of a stream that was closed here while the server still sent
            return None
        if size and command in _WITH_BODY:
            self._buffer = self.wanted = memoryview(bytearray(size))
            self._need = size
            self._body_command = command
            self._body_stream = stream_id
            return None
        self.skip_left = size
        return self._frame(command, stream_id, b"")

    def _frame(self, command: int, stream_id: int, body: bytes) -> Event | None:
        """Act on a whole frame; unknown commands and frames of other streams mean nothing."""
        if command == Command.SYNACK:
            if stream_id != self.stream_id or not self.syn_sent or self.acknowledged:
                return None
            self.acknowledged = True
            if body:
                self.refusal = _text(body)
                return Event(EventKind.REFUSED, self.refusal)
            return Event(EventKind.OPENED)
        if command == Command.FIN:
            if stream_id != self.stream_id or not self.syn_sent:
                return None
            self.peer_closed = True
            return Event(EventKind.PEER_CLOSED)
        if command == Command.HEART_REQUEST:
            self.heart_responses_due = min(self.heart_responses_due + 1, MAX_HEART_RESPONSES)
            return Event(EventKind.HEART_REQUEST)
        if command == Command.HEART_RESPONSE:
            return Event(EventKind.HEART_RESPONSE)
        if command == Command.SERVER_SETTINGS:
            version = parse_settings(body).get("v", "")
            self.peer_version = (
                int(version) if version.isascii() and version.isdigit() and len(version) < 6 else 1
            )
            return Event(EventKind.SERVER_SETTINGS)
        if command == Command.UPDATE_PADDING_SCHEME:
            return Event(EventKind.PADDING_SCHEME, data=body)
        if command == Command.ALERT:
            return Event(EventKind.ALERT, _text(body))
        return None


_COMMANDS = frozenset(Command)
#: The commands whose data is looked at; the data of any other is skipped without being kept.
_WITH_BODY = frozenset(
    {Command.ALERT, Command.UPDATE_PADDING_SCHEME, Command.SYNACK, Command.SERVER_SETTINGS},
)


def _text(body: bytes) -> str:
    """Decode what the server wrote, safe to print and short enough to read: no control characters, no novels."""
    text = body[: 4 * MAX_TEXT].decode("utf-8", "replace")
    text = "".join(char if char.isprintable() else " " for char in text).strip()
    if not text:
        return NO_REASON
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
