"""Sockets in the tunnel: :class:`AnyTLSSocket`, and :class:`AnyTLSTLSSocket` for TLS to the target inside it.

Both do what code written for ``socket.socket`` calls. Neither has a descriptor: the session's TCP
descriptor tells nothing about the stream, and the standard library would take it and write TLS
around the tunnel.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import socket
import ssl
import threading
import warnings
from typing import TYPE_CHECKING, Any, cast

from .errors import AnyTLSError, AnyTLSTimeout
from .net.scratch import INNER_CIPHERTEXT, PLAINTEXT, scratch
from .net.tls_engine import END, NEED_INPUT, TLSEngine
from .net.waiting import AT_ONCE, deadline_after, remaining
from .pool.session import MAX_FILLS

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from typing_extensions import Buffer

    from .pool.pool import Pool
    from .pool.session import Session

__all__ = ["AnyTLSSocket", "AnyTLSTLSSocket"]

#: Buffer of :meth:`StreamSocket.makefile` (bytes): each read below costs more than on a plain socket.
FILE_BUFFER = 32 * 1024
#: Most plaintext that one write of TLS in the tunnel encrypts (bytes).
TLS_WRITE_SIZE = 64 * 1024


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

    def _read_into(self, view: memoryview, deadline: float | None) -> int:
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
        """Return up to ``max_bytes`` (and at most 64 KiB), b"" at the end; wait for the first only."""
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
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = None if value is None else float(value)

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
        if not set(mode) <= {"r", "w", "b"}:
            raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
        self._check()
        writing = "w" in mode
        reading = "r" in mode or not writing
        raw = socket.SocketIO(cast(Any, self), cast(Any, ("r" if reading else "") + ("w" if writing else "")))
        self._io_refs += 1
        if buffering == 0:
            if "b" not in mode:
                raise ValueError("unbuffered streams must be binary")
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
        from .relay import shared_relay

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


class AnyTLSSocket(StreamSocket):
    """A stream through the tunnel, as a connected socket. Made by :meth:`AnyTLSClient.create_connection`.

    One thread may read while another writes. Nothing is sent to the server before the first ``send``,
    ``recv`` or ``is_readable``; a target that can't be reached is told by the first read.
    """

    def __init__(
        self, pool: Pool, session: Session, address: tuple[str, int], encoded: bytes, timeout: float | None
    ) -> None:
        super().__init__(timeout)
        self._pool = pool
        self._session = session
        self._address = address
        self._stream_id = session.open_stream(encoded, f"{address[0]}:{address[1]}")
        self._ended = False
        self._end_may_wait = True
        self._end_lock = threading.Lock()
        #: Whether user data was written: from then on a failure may not be taken for a failed connect.
        self._user_data_sent = False

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of the session's TCP connection."""
        address = self._session.local_address
        return socket.AF_INET6 if address and len(address) == 4 else socket.AF_INET

    def getpeername(self) -> tuple[str, int]:
        """Return the target, as ``(host, port)``."""
        self._check()
        return self._address

    def getsockname(self) -> tuple[object, ...]:
        """Return the local TCP address of the session that carries the stream."""
        self._check()
        return self._session.local_address or ("", 0)

    @property
    def _opened(self) -> bool:
        """Whether the server said that it reached the target (or sent its data)."""
        return self._session.acknowledged

    def _read_into(self, view: memoryview, deadline: float | None) -> int:
        if self._read_shut or self._ended:
            return self._nothing_to_read()
        try:
            return self._session.receive(self._stream_id, view, deadline)
        except AnyTLSError:
            if self._read_shut:
                return 0
            raise

    def _nothing_to_read(self) -> int:
        if self._read_shut:
            return 0
        raise OSError(errno.EBADF, "the socket is closed")

    def _write_some(
        self, view: memoryview, deadline: float | None, stall: float | None, keep_unsent: bool
    ) -> int:
        if self._write_shut or self._ended:
            raise BrokenPipeError(errno.EPIPE, "the stream was shut down for writing")
        self._user_data_sent = True
        return self._session.send(self._stream_id, view, deadline, stall=stall, keep_unsent=keep_unsent)

    def _look(self) -> bool:
        return self._ended or self._session.look(self._stream_id)

    def _hand_over(self) -> Self:
        owner = super()._hand_over()
        self._ended = True
        return owner

    def _attach_relay(self, on_input: Callable[[], None]) -> int:
        self._end_may_wait = False  # one thread serves all
        return self._session.attach_relay(on_input)

    def _detach_relay(self) -> None:
        self._session.detach_relay()

    @property
    def _has_unsent(self) -> bool:
        return self._session.has_unsent

    @property
    def _is_blocked(self) -> bool:
        return self._session.has_unsent

    def _flush_unsent(self) -> bool:
        return self._session.flush_unsent()

    def _forget(self) -> None:
        self._ended = True

    def _prove_alive(self, deadline: float | None) -> bool:
        """Whether the session may be trusted with a new request; a silent one must prove its life first.

        False: it is dead and was dropped. Raises :class:`AnyTLSTimeout` at ``deadline``.
        """
        return not self._ended and self._pool.prove_alive(self._session, deadline)

    def _wait_open(self, deadline: float | None, version_1_after: float) -> None:
        self._session.wait_open(self._stream_id, deadline, version_1_after)

    def _stop_reading(self) -> None:
        self._session.stop_reading()

    def _end(self) -> None:
        with self._end_lock:
            if self._ended:
                return
            self._ended = True
        _end_stream(self._pool, self._session, self._end_may_wait)

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None) -> AnyTLSTLSSocket:
        """Do a TLS handshake with the target through the tunnel, within the socket's time-out.

        Returns the socket to use from then on; this one belongs to it. Raises :class:`ssl.SSLError` as
        ``SSLContext.wrap_socket`` does, and as :meth:`recv`.
        """
        self._check()
        return self._start_tls(ssl_context, server_hostname, self._deadline())

    def _start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None, deadline: float | None
    ) -> AnyTLSTLSSocket:
        tls = AnyTLSTLSSocket(self, ssl_context, server_hostname)
        tls._handshake(deadline)
        return tls

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            # A finalizer may run inside any lock: the maintenance thread ends the stream.
            self._ended = True
            state = self._pool.state
            state.abandoned.append(functools.partial(_end_stream, self._pool, self._session, may_wait=False))
            state.wake_maintenance()
            # The last thing to do: where warnings are errors, it raises.
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._opened else "opening"
        host, port = self._address
        return f"<AnyTLSSocket to {host}:{port}, {state}, session #{self._session.sequence}>"


def _end_stream(pool: Pool, session: Session, may_wait: bool = True) -> None:
    if session.end_stream(may_wait):
        pool.release(session)


class AnyTLSTLSSocket(StreamSocket):
    """TLS with the target, inside the tunnel. Made by :meth:`AnyTLSSocket.start_tls`; owns that socket."""

    def __init__(self, inner: AnyTLSSocket, ssl_context: ssl.SSLContext, server_hostname: str | None) -> None:
        super().__init__(inner.gettimeout())
        self._inner = inner
        self.context = ssl_context
        self.server_hostname = server_hostname
        self._engine = TLSEngine(ssl_context, server_hostname)
        self._reader = threading.Lock()
        self._writer = threading.Lock()
        self._held = b""  # plaintext that is_readable came upon
        self._unsent = b""  # ciphertext that a call without waiting could not send
        self._user_data_sent = False

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of the session's TCP connection."""
        return self._inner.family

    @property
    def _ssl_object(self) -> ssl.SSLObject:
        return self._engine.ssl_object

    @property
    def _opened(self) -> bool:
        return self._inner._opened

    def _prove_alive(self, deadline: float | None) -> bool:
        return self._inner._prove_alive(deadline)

    def _attach_relay(self, on_input: Callable[[], None]) -> int:
        return self._inner._attach_relay(on_input)

    def _detach_relay(self) -> None:
        self._inner._detach_relay()

    @property
    def _has_unsent(self) -> bool:
        return bool(self._unsent) or self._engine.has_output or self._inner._has_unsent

    @property
    def _is_blocked(self) -> bool:
        return self._inner._is_blocked

    def _flush_unsent(self) -> bool:
        if not self._inner._flush_unsent() or not self._writer.acquire(blocking=False):
            return False
        try:
            self._flush(AT_ONCE)
        finally:
            self._writer.release()
        return True

    def _forget(self) -> None:
        self._inner._forget()

    def _handshake(self, deadline: float | None) -> None:
        engine = self._engine
        while True:
            try:
                done = engine.handshake()
            except ssl.SSLError:
                self._try_to_flush()  # the alert that tells the target why
                raise
            if done:
                break
            self._flush(deadline)
            self._fill(deadline)
        # The last flight of the handshake waits for the first data: one packet less.
        if self._timeout == 0:
            self._flush(deadline)

    def _fill(self, deadline: float | None) -> None:
        buffer = scratch(INNER_CIPHERTEXT)
        count = self._inner._read_into(buffer, deadline)
        if count:
            self._engine.feed(buffer[:count])
        else:
            self._engine.feed_end()

    def _flush(self, deadline: float | None) -> None:
        """Send the ciphertext that is there. The caller holds the writer's role, or nobody else has the socket yet."""
        data = self._unsent + self._engine.take_output()
        if data:
            self._send_ciphertext(data, deadline, None)

    def _try_to_flush(self) -> None:
        try:
            self._flush(AT_ONCE)
        except (AnyTLSError, OSError):
            pass

    def _send_ciphertext(self, data: bytes, deadline: float | None, stall: float | None) -> None:
        view = memoryview(data)
        self._unsent = b""
        try:
            while view:
                if stall is not None:
                    deadline = deadline_after(stall)
                view = view[self._inner._write_some(view, deadline, stall, deadline == AT_ONCE) :]
        except AnyTLSTimeout:
            self._unsent = bytes(view)  # TLS with the target would break without it
            raise

    def _read_into(self, view: memoryview, deadline: float | None) -> int:
        if self._read_shut:
            return 0
        if not self._reader.acquire(blocking=False):
            if self._inner._session.closed:
                return self._inner._read_into(
                    view, deadline
                )  # raises; after a fork the reader is in the parent
            if not self._reader.acquire(timeout=remaining(deadline)):
                raise AnyTLSTimeout("timed out while another thread was reading")
        try:
            if self._held:
                count = min(len(view), len(self._held))
                view[:count] = self._held[:count]
                self._held = self._held[count:]
                return count
            waits = 0
            while True:
                count = self._engine.decrypt_into(view)
                if count != NEED_INPUT:
                    return count
                if self._engine.has_output:
                    self._answer(deadline)
                # Records without data (tickets, key updates) must not hold the reader past the deadline.
                if waits and remaining(deadline) == 0 and (deadline != AT_ONCE or waits >= MAX_FILLS):
                    self._inner._session.poke_relay()
                    raise AnyTLSTimeout("timed out while waiting for data")
                self._fill(deadline)
                waits += 1
        finally:
            self._reader.release()

    def _answer(self, deadline: float | None) -> None:
        """Send what reading produced, unless a writer is at it: he takes it along."""
        if self._writer.acquire(blocking=False):
            try:
                self._flush(deadline)
            finally:
                self._writer.release()

    def _write_some(
        self, view: memoryview, deadline: float | None, stall: float | None, keep_unsent: bool
    ) -> int:
        if self._write_shut:
            raise BrokenPipeError(errno.EPIPE, "the stream was shut down for writing")
        if not self._writer.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was sending")
        try:
            self._user_data_sent = True
            if self._unsent:
                self._flush(deadline)
            piece = view[:TLS_WRITE_SIZE]
            try:
                self._send_ciphertext(self._engine.encrypt((piece,)), deadline, stall)
            except AnyTLSTimeout:
                if deadline != AT_ONCE:
                    raise
                # It is encrypted, so it counts as sent: the rest goes before the next.
            return len(piece)
        finally:
            self._writer.release()

    def _look(self) -> bool:
        if self._held:
            return True
        if not self._reader.acquire(blocking=False):
            return self._inner._session.closed  # else another thread waits in it: nothing is there
        try:
            while True:
                if not self._engine.drained:
                    held = bytearray(1024)
                    count = self._engine.decrypt_into(memoryview(held))
                    if count == END:
                        return True
                    if count != NEED_INPUT:
                        self._held = bytes(held[:count])
                        return True
                if not self._inner.is_readable():
                    return False  # a late session ticket is no sign of a stale connection
                self._fill(AT_ONCE)
        except AnyTLSTimeout:
            return False
        except OSError:
            return True  # the error is for the next read
        finally:
            self._reader.release()

    def _stop_reading(self) -> None:
        self._inner.shutdown(socket.SHUT_RD)

    def _end(self) -> None:
        self._inner.close()

    def unwrap(self) -> AnyTLSSocket:
        """End TLS with the target, waiting for its word, and return the plain stream beneath."""
        self._check()
        deadline = self._deadline()
        while not self._engine.shutdown():
            self._flush(deadline)
            self._fill(deadline)
        self._flush(deadline)
        self._closed = True
        return self._inner

    def getpeername(self) -> tuple[str, int]:
        """Return the target, as ``(host, port)``."""
        return self._inner.getpeername()

    def getsockname(self) -> tuple[object, ...]:
        """Return the local TCP address of the session that carries the stream."""
        return self._inner.getsockname()

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the target's certificate, as ``ssl.SSLSocket.getpeercert``."""
        return self._engine.ssl_object.getpeercert(binary_form)

    def version(self) -> str | None:
        """Return the TLS version, such as ``"TLSv1.3"``."""
        return self._engine.ssl_object.version()

    def cipher(self) -> tuple[str, str, int] | None:
        """Return the cipher's name, its protocol version and its secret bits."""
        return self._engine.ssl_object.cipher()

    def selected_alpn_protocol(self) -> str | None:
        """Return what ALPN chose, such as ``"h2"``."""
        return self._engine.ssl_object.selected_alpn_protocol()

    def __repr__(self) -> str:
        return f"<AnyTLSTLSSocket {self.version()} over {self._inner!r}>"
