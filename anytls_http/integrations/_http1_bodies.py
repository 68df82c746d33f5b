"""The bodies of plain HTTP/1.1 responses: of a known length, and chunked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from anytls_http.net.scratch import PLAINTEXT, SIZES

if TYPE_CHECKING:
    from ._http1 import HTTP1Connection

#: Most bytes that are asked of the stream at once: the most that it gives.
READ_SIZE = SIZES[PLAINTEXT]
#: The line before a chunk that has no extensions.
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
#: Bytes of the longest such line.
MAX_CHUNK_LINE = 18
CRLF = b"\r\n"


class Body:
    """What the two have in common.

    ``first``: the bytes that were read together with the head; ``timeout``: of a read, in seconds; ``keeps``: the
    connection may be used again once the body was read to its end.
    """

    __slots__ = ("_begun", "_closed", "_connection", "_first", "_is_complete", "_keeps", "_timeout")

    def __init__(self, connection: HTTP1Connection, first: bytes, timeout: float | None, keeps: bool) -> None:
        self._connection = connection
        self._first = first
        self._timeout = timeout
        self._keeps = keeps
        self._is_complete = False
        self._begun = False
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        if self._begun:
            return  # what comes now is not of this body
        self._begun = True
        try:
            yield from self._pieces()
        except BaseException:
            self.close()
            raise

    def _pieces(self) -> Iterator[bytes]:
        raise NotImplementedError

    def _end(self, rest: int) -> None:
        """All of it was read. ``rest``: bytes beyond it, which are nobody's: what follows them couldn't be trusted."""
        self._is_complete = True
        if rest:
            self._keeps = False

    def close(self) -> None:
        """Give the connection back, or end it where the body wasn't read to its end."""
        if not self._closed:
            self._closed = True
            self._connection.end_response(self._keeps and self._is_complete)


class MeasuredBody(Body):
    """A body of ``length`` bytes."""

    __slots__ = ("_length",)

    def __init__(
        self, connection: HTTP1Connection, first: bytes, timeout: float | None, keeps: bool, length: int
    ) -> None:
        super().__init__(connection, first[:length], timeout, keeps)
        self._length = length
        if len(first) >= length:
            self._end(len(first) - length)

    def _pieces(self) -> Iterator[bytes]:
        data, self._first = self._first, b""
        connection = self._connection
        read = connection.stream.read
        left = self._length
        while left:
            if not data:
                data = read(min(left, READ_SIZE), self._timeout)
                if not data:
                    raise connection.broken(
                        "peer closed connection without sending complete message body "
                        f"(received {self._length - left} bytes, expected {self._length})"
                    )
            left -= len(data)
            if not left:
                self._end(0)
            yield data
            data = b""


class ChunkedBody(Body):
    """A chunked body, of plain chunks as far as it goes: httpcore reads the rest.

    ``request``: the one that is answered.
    """

    __slots__ = ("_request", "_rest")

    def __init__(
        self, connection: HTTP1Connection, first: bytes, timeout: float | None, keeps: bool, request: Any
    ) -> None:
        super().__init__(connection, first, timeout, keeps)
        self._request = request
        self._rest: Any = None  # httpcore's body

    def _pieces(self) -> Iterator[bytes]:
        data = self._first
        connection = self._connection
        read = connection.stream.read
        at = 0
        left = 0  # bytes of the chunk that is being read
        is_within = False  # it, or the end of its line
        while True:
            pieces = []
            is_plain = True
            fault = ""
            while True:
                if left:
                    piece = data[at : at + left]
                    if piece:
                        pieces.append(piece)
                    at += len(piece)
                    left -= len(piece)
                    if left:
                        break
                if is_within:
                    end = data[at : at + 2]
                    if not CRLF.startswith(end):
                        fault = f"malformed chunk footer: {end!r} (expected {CRLF!r})"
                        break
                    if len(end) < 2:
                        break
                    at += 2
                    is_within = False
                line = CHUNK.match(data, at)
                if line is None:
                    is_plain = len(data) - at < MAX_CHUNK_LINE and b"\n" not in data[at:]
                    break
                left = int(line[1], 16)
                if not left:
                    end = data[line.end() : line.end() + 2]
                    is_plain = CRLF.startswith(end)  # else trailers follow
                    if end == CRLF:
                        self._end(len(data) - line.end() - 2)
                    break
                is_within = True
                at = line.end()
            # The bytes that are there, in one piece: its user pays by the piece.
            if pieces:
                yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self._is_complete:
                return
            if fault:
                raise connection.broken(fault)
            if not is_plain:
                yield from self._by_httpcore(data[at:])
                return
            more = read(READ_SIZE, self._timeout)
            if not more:
                raise connection.broken(
                    "peer closed connection without sending complete message body (incomplete chunked read)"
                )
            data = data[at:] + more
            at = 0

    def _by_httpcore(self, data: bytes) -> Iterator[bytes]:
        """Have httpcore read the rest, which begins with ``data``, the line before a chunk."""
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._rest = self._connection.leave_to_httpcore(self._request, head + data, self._keeps).stream
        yield from self._rest

    def close(self) -> None:
        """Give the connection back, or end it where the body wasn't read to its end."""
        if self._rest is None:
            super().close()
        else:
            self._rest.close()
