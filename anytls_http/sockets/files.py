"""Files over a stream: what ``makefile`` returns, which is how http.client and smtplib read."""

from __future__ import annotations

import io
import socket
from typing import TYPE_CHECKING, Any, cast

from anytls_http.errors import AnyTLSTimeout
from anytls_http.net.waiting import deadline_after
from anytls_http.pool.session_reading import MIN_ROOM

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .base import StreamSocket

#: Buffer of a file (bytes): each read below costs more than on a plain socket.
FILE_BUFFER = 64 * 1024


class _Reader(socket.SocketIO):
    """A raw file over a stream; other code finds the stream where it finds the socket of a ``SocketIO``."""

    #: As for ``Session.receive``; who would ask for the rest at once sets it to 0.
    room = MIN_ROOM
    _sock: StreamSocket | None
    _timeout_occurred: bool

    def readinto(self, buffer: Buffer) -> int | None:
        """As ``SocketIO.readinto``; where nothing stands against it, in a third of the calls."""
        stream = self._sock
        view = memoryview(buffer).cast("B")
        if not view or view.readonly or stream is None or self._timeout_occurred or stream._timeout == 0:
            return super().readinto(cast(Any, buffer))
        try:
            return stream._read_into(view, deadline_after(stream._timeout), self.room)
        except AnyTLSTimeout:
            self._timeout_occurred = True
            raise


def open_file(
    stream: StreamSocket,
    mode: str,
    buffering: int | None,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> Any:
    """Return a file over ``stream``; arguments and exceptions as of ``socket.socket.makefile``."""
    if not set(mode) <= {"r", "w", "b"}:
        raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
    writing = "w" in mode
    reading = "r" in mode or not writing
    if buffering == 0 and "b" not in mode:
        raise ValueError("unbuffered streams must be binary")
    kind = _Reader if reading else socket.SocketIO
    raw = kind(cast(Any, stream), cast(Any, ("r" if reading else "") + ("w" if writing else "")))
    stream._io_refs += 1
    if buffering == 0:
        return raw
    size = FILE_BUFFER if buffering is None or buffering < 0 else buffering
    buffered: io.BufferedIOBase
    if reading and writing:
        buffered = io.BufferedRWPair(raw, raw, size)
    elif reading:
        buffered = io.BufferedReader(raw, size)
    else:
        buffered = io.BufferedWriter(raw, size)
    if "b" in mode:
        return buffered
    text = io.TextIOWrapper(buffered, encoding, errors, newline)  # type: ignore[type-var]
    text.mode = mode  # type: ignore[misc]
    return text
