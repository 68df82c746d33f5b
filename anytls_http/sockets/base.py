"""What both kinds of socket share: the calls of ``socket.socket`` on top of read and write."""

from __future__ import annotations

import errno
import io
import os
import socket
from typing import TYPE_CHECKING, Any

from anytls_http.errors import AnyTLSTimeout
from anytls_http.net.scratch import PLAINTEXT, scratch
from anytls_http.net.waiting import AT_ONCE, deadline_after, valid_timeout
from anytls_http.pool.session_reading import MIN_ROOM

from .files import open_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from typing_extensions import Buffer


class StreamSocket:
    """What both kinds of socket share: time-outs, ``makefile``, and the calls on top of read and write.

    A subclass says how bytes move: ``_read_into``, ``_write_some``, ``_look``, ``_end``.
    """

    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._closed = False
        self._io_refs = 0
        self._read_shut = False
        self._write_shut = False
        self._relayed = False  #: as_socket() was called: the stream is the relay's

    # How bytes move. ``deadline`` is a time of time.monotonic(), None for never, AT_ONCE for no wait.

    def _read_into(self, view: memoryview, deadline: float | None, room: int = MIN_ROOM) -> int:
        raise NotImplementedError

    def _write_some(
        self, view: memoryview, deadline: float | None, stall: float | None, keep_unsent: bool
    ) -> int:
        raise NotImplementedError

    def _look(self) -> bool:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    # -- for the integrations: time-outs by call -------------------------------------------------------

    def _read(self, max_bytes: int, deadline: float | None) -> bytes:
        """Return up to ``max_bytes`` (and at most 128 KiB), b"" at the end; wait for the first only."""
        view = scratch(PLAINTEXT)
        if max_bytes < len(view):
            view = view[:max_bytes]
        return bytes(view[: self._read_into(view, deadline)])

    def _write(self, data: Buffer, stall: float | None) -> None:
        """Send all of ``data``; give up after ``stall`` seconds without progress (None: never)."""
        view = memoryview(data).cast("B")
        while view:
            view = view[self._write_some(view, deadline_after(stall), stall, False) :]

    # -- as socket.socket ------------------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return up to ``bufsize`` bytes, b"" at the stream's end.

        Raises :class:`AnyTLSTimeout` after the socket's time-out, ``BlockingIOError`` when it doesn't
        block, :class:`StreamRefused` when the server couldn't reach the target,
        :class:`AuthenticationError` or :class:`SessionClosed` when the session has ended.
        """
        self._check(flags)
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if not bufsize:
            return b""
        try:
            return self._read(bufsize, self._deadline())
        except AnyTLSTimeout:
            self._would_block()
            raise

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """As :meth:`recv`, into ``buffer`` (its first ``nbytes`` where given); return the number of bytes."""
        self._check(flags)
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError(f"recv_into needs a buffer that can be written to, not {type(buffer).__name__}")
        if nbytes < 0:
            raise ValueError("negative buffersize in recv_into")
        if nbytes:
            view = view[:nbytes]
        if not view:
            return 0
        try:
            return self._read_into(view, self._deadline())
        except AnyTLSTimeout:
            self._would_block()
            raise

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Send some of ``data``, at least one byte, and return how much. Raises as :meth:`recv`."""
        self._check(flags)
        view = memoryview(data).cast("B")
        if not view:
            return 0
        try:
            return self._write_some(view, self._deadline(), None, self._timeout == 0)
        except AnyTLSTimeout:
            self._would_block()
            raise

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        """Send all of ``data`` within the socket's time-out. After an error it is unknown how much was sent."""
        self._check(flags)
        view = memoryview(data).cast("B")
        deadline = self._deadline()
        keep_unsent = self._timeout == 0
        try:
            while view:
                view = view[self._write_some(view, deadline, None, keep_unsent) :]
        except AnyTLSTimeout:
            self._would_block()
            raise

    def _deadline(self) -> float | None:
        timeout = self._timeout
        return AT_ONCE if timeout == 0 else deadline_after(timeout)

    def _would_block(self) -> None:
        if self._timeout == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None

    def _check(self, flags: int = 0) -> None:
        if (
            self._closed and self._io_refs <= 0
        ):  # files of makefile() go on after close(), as http.client needs
            if self._relayed:
                raise OSError(errno.EBADF, "the stream belongs to the socket that as_socket() returned")
            raise OSError(errno.EBADF, "the socket is closed")
        if flags:
            raise ValueError("flags are not supported by a stream in the tunnel")

    def settimeout(self, value: float | None) -> None:
        """Set the time-out of later calls in seconds: None waits for ever, 0 never waits."""
        self._timeout = valid_timeout(value)

    def gettimeout(self) -> float | None:
        """Return the time-out in seconds."""
        return self._timeout

    @property
    def timeout(self) -> float | None:
        """The time-out in seconds."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` or ``settimeout(0)``."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """Whether calls may wait."""
        return self._timeout != 0

    def setsockopt(self, level: int, option: int, value: Any = None, length: Any = None) -> None:
        """Take TCP_NODELAY and SO_KEEPALIVE, which the session has anyway; refuse others with ENOPROTOOPT."""
        if (level, option) in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        ):
            return
        raise OSError(
            errno.ENOPROTOOPT, "a stream in the tunnel has no socket options; see the outbound's dial fields"
        )

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Return a file over the socket, as ``socket.socket.makefile``; the stream ends when all are closed."""
        self._check()
        return open_file(self, mode, buffering, encoding, errors, newline)

    def _decref_socketios(self) -> None:
        # SocketIO calls this when it is closed: http.client closes the socket long before the response.
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._closed:
            self._end_if_unused()

    def fileno(self) -> int:
        """Return -1 when closed, else raise ``io.UnsupportedOperation``: the stream has no descriptor of its own."""
        if self._closed:
            return -1
        raise io.UnsupportedOperation(
            "a stream in the tunnel has no file descriptor: the session's would lead around the tunnel "
            "(as_socket() returns a socket that has one)"
        )

    def as_socket(self) -> socket.socket:
        """Return a real socket that carries the stream, for what needs a descriptor (select, asyncio, ssl, paramiko).

        It is one end of a socket pair; one thread per process relays between all such pairs and their
        streams. From now on the stream is the relay's: calls on this object raise ``OSError``, except
        ``close``, which does nothing. Closing the returned socket ends the stream. When the target ends
        the stream, or the tunnel breaks, the socket is at its end (a break is told in the log, logger
        ``anytls_http.relay``: a socket pair can't be reset). ``shutdown(SHUT_WR)`` on it tells the server
        nothing, and leaves reading open. It has this socket's time-out, and no TCP options.
        """
        from anytls_http.relay import shared_relay

        self._check()
        if self._io_refs:
            raise ValueError("as_socket() takes the whole stream: close the files of makefile() first")
        ours, theirs = socket.socketpair()
        theirs.settimeout(self._timeout)
        owner = self._hand_over()
        try:
            shared_relay().join(ours, owner)
        except BaseException:
            ours.close()
            theirs.close()
            owner.close()
            raise
        return theirs

    # What the relay needs of a stream (relay.pair.Stream).

    def _attach_relay(self, on_input: Callable[[], None]) -> int:
        """Watch the session's descriptor; see ``Session.attach_relay``."""
        raise NotImplementedError

    def _detach_relay(self) -> None:
        raise NotImplementedError

    @property
    def _has_unsent(self) -> bool:
        """Whether ciphertext waits to be sent."""
        raise NotImplementedError

    @property
    def _is_blocked(self) -> bool:
        """Whether it is the connection that takes no more."""
        raise NotImplementedError

    def _flush_unsent(self) -> bool:
        """Send what waits; False while another thread is sending; AnyTLSTimeout when no more is taken."""
        raise NotImplementedError

    def _forget(self) -> None:
        """In a forked child: the stream is the parent's."""
        raise NotImplementedError

    def _hand_over(self) -> Self:
        """Return a new owner of the stream; this object is as closed from then on."""
        owner = type(self).__new__(type(self))
        owner.__dict__.update(self.__dict__)
        self._relayed = self._closed = True
        return owner

    def is_readable(self) -> bool:
        """Whether a read would return at once: data, the end, or an error. Never waits."""
        return self._closed or self._read_shut or self._look()

    def shutdown(self, how: int) -> None:
        """End one direction here (SHUT_RD, SHUT_WR), or the stream with a FIN (SHUT_RDWR).

        The protocol has no half-close: SHUT_WR makes later sends fail and tells the server nothing.
        """
        self._check()
        if how == socket.SHUT_RDWR:
            self._read_shut = self._write_shut = True
            self._end()
        elif how == socket.SHUT_WR:
            self._write_shut = True
        elif how == socket.SHUT_RD:
            self._read_shut = True
            self._stop_reading()
        else:
            raise OSError(errno.EINVAL, "shutdown takes SHUT_RD, SHUT_WR or SHUT_RDWR")

    def _stop_reading(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End the stream (when no file of :meth:`makefile` is open) and give its session back; any number of times."""
        self._closed = True
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._io_refs <= 0:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
