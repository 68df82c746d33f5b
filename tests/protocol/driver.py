"""What the tests of the client session share: a reader for its pull parser, and a reader of its output."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from anytls_http.protocol.address import encode_address
from anytls_http.protocol.frames import HEADER, HEADER_SIZE, MAX_DATA, Command, encode_frame
from anytls_http.protocol.padding import DEFAULT_SCHEME, PaddingScheme
from anytls_http.protocol.session import ClientSession, Event, EventKind, Piece

PASSWORD = "pässword"
CLIENT = "anytls_http/test"
ADDRESS = encode_address("example.org", 443)

#: Sizes that nothing is drawn for: each record is told by its length.
FIXED = PaddingScheme.parse(b"stop=4\n0=30-30\n1=600-600\n2=700-700\n3=800-800")
#: No padding at all, not even of the authentication.
BARE = PaddingScheme.parse(b"stop=0")

Written = Sequence[Piece]


class Frame(NamedTuple):
    """One frame as it went out."""

    command: int
    stream_id: int
    data: bytes


def make_session(scheme: PaddingScheme = DEFAULT_SCHEME, seed: int = 1) -> ClientSession:
    return ClientSession(PASSWORD, scheme, CLIENT, random.Random(seed))


def with_open_stream(scheme: PaddingScheme = BARE) -> ClientSession:
    """A session whose first stream has announced itself."""
    session = make_session(scheme)
    session.open_stream(ADDRESS)
    session.opening_records()
    return session


def sizes(records: Written) -> list[int]:
    return [len(record) for record in records]


def frames(records: Written, *, waste: bool = False) -> list[Frame]:
    """The frames in what was written; padding is left out unless wanted."""
    data = b"".join(records)
    found = []
    while data:
        command, stream_id, size = HEADER.unpack_from(data)
        assert len(data) >= HEADER_SIZE + size, "the last frame is cut"
        if waste or command != Command.WASTE:
            found.append(Frame(command, stream_id, data[HEADER_SIZE : HEADER_SIZE + size]))
        data = data[HEADER_SIZE + size :]
    return found


def settings_frame(scheme: PaddingScheme) -> Frame:
    md5 = hashlib.md5(scheme.raw).hexdigest()
    return Frame(Command.SETTINGS, 0, f"v=2\nclient={CLIENT}\npadding-md5={md5}".encode())


class Driver:
    """Feeds bytes to a session as its reader does, and keeps what came of them.

    ``log``: events and the stream's data in their order, the data between two events joined, so that it
    doesn't depend on where the bytes were cut.
    """

    def __init__(self, session: ClientSession) -> None:
        self.session = session
        self.log: list[Event | bytes] = []
        self.most_wanted = 0

    @property
    def payload(self) -> bytes:
        return b"".join(item for item in self.log if isinstance(item, bytes))

    @property
    def events(self) -> list[Event]:
        return [item for item in self.log if isinstance(item, Event)]

    @property
    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]

    def feed(self, data: bytes, short: bool = False) -> Driver:
        """Let the session take all of ``data``; each round takes a byte at the least, so this ends.

        ``short``: headers of more data are used up the short way.
        """
        session = self.session
        view = memoryview(data)
        while view:
            self.check()
            if short and not session.payload_left and session.payload_follows(view):
                count = HEADER_SIZE
            elif session.payload_left:
                count = min(session.payload_left, len(view))
                self._keep(bytes(view[:count]))
                session.payload_taken(count)
            elif session.skip_left:
                count = min(session.skip_left, len(view))
                session.skipped(count)
            else:
                count = min(len(session.wanted), len(view))
                session.wanted[:count] = view[:count]
                event = session.filled(count)
                if event is not None:
                    self.log.append(event)
            view = view[count:]
        self.check()
        return self

    def feed_frame(self, command: int, stream_id: int = 0, data: bytes = b"") -> Driver:
        return self.feed(encode_frame(command, stream_id, data))

    def feed_all(self, chunks: Iterable[bytes], short: bool = False) -> Driver:
        for chunk in chunks:
            self.feed(chunk, short)
        return self

    def check(self) -> None:
        """What holds at any moment, whatever the server sends."""
        session = self.session
        self.most_wanted = max(self.most_wanted, len(session.wanted))
        assert 0 < len(session.wanted) <= MAX_DATA
        assert 0 <= session.payload_left <= MAX_DATA
        assert 0 <= session.skip_left <= MAX_DATA
        assert not (session.payload_left and session.skip_left)
        assert session.stream_id or not session.payload_left, "data of a stream that nobody has"

    def _keep(self, data: bytes) -> None:
        if self.log and isinstance(self.log[-1], bytes):
            self.log[-1] += data
        else:
            self.log.append(data)
