"""The stream itself as a socket."""

from __future__ import annotations

import errno
import functools
import socket
import ssl
import threading
import warnings
from typing import TYPE_CHECKING

from anytls_http.errors import AnyTLSError
from anytls_http.net.scratch import PLAINTEXT, SIZES
from anytls_http.pool.session_reading import MIN_ROOM

from .base import StreamSocket
from .tls import AnyTLSTLSSocket

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from anytls_http.pool.lease import Lease
    from anytls_http.pool.pool import Pool


class AnyTLSSocket(StreamSocket):
    """A stream through the tunnel, as a connected socket. Made by :meth:`AnyTLSClient.create_connection`.

    One thread may read while another writes. Nothing is sent to the server before the first ``send``,
    ``recv`` or ``is_readable``; a target that can't be reached is told by the first read.
    """

    def __init__(
        self, pool: Pool, lease: Lease, address: tuple[str, int], encoded: bytes, timeout: float | None
    ) -> None:
        super().__init__(timeout)
        self._pool = pool
        self._lease: Lease | None = lease
        self._session = session = lease.session
        self._address = address
        self._stream_id = session.open_stream(encoded, f"{address[0]}:{address[1]}")
        self._ended = False
        self._end_may_wait = True
        self._end_lock = threading.Lock()
        #: Called when the stream has ended: what it alone has used goes with it.
        self._on_end: Callable[[], None] | None = None
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

    def _read_into(self, view: memoryview, deadline: float | None, room: int = MIN_ROOM) -> int:
        return self._receive(len(view), view, deadline, room)

    def _read(self, max_bytes: int, deadline: float | None) -> bytes:
        pieces: list[bytes] = []

        def take(piece: memoryview) -> None:
            pieces.append(bytes(piece))  # a buffer in between would mean two copies

        self._receive(min(max_bytes, SIZES[PLAINTEXT]), take, deadline)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _receive(
        self,
        size: int,
        to: memoryview | Callable[[memoryview], object],
        deadline: float | None,
        room: int = MIN_ROOM,
    ) -> int:
        """Hand up to ``size`` bytes on; ``to``, ``room``: as ``Session.receive``."""
        if self._read_shut or self._ended:
            return self._nothing_to_read()
        try:
            return self._session.receive(self._stream_id, size, to, deadline, room)
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
        self._lease = None
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

    def _has_ended(self) -> bool:
        return self._ended or self._session.has_ended(self._stream_id)

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
            lease, self._lease = self._lease, None  # an interrupt from here on ends the lease with this call
            self._ended = True
        if lease is not None:
            if self._pool.state.is_inside():
                self._abandon(lease)
            else:
                _end_stream(self._pool, lease, self._end_may_wait)
        if self._on_end is not None:
            self._on_end()

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
            if self._lease is not None:
                self._abandon(self._lease)
            # The last thing to do: where warnings are errors, it raises.
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def _abandon(self, lease: Lease) -> None:
        """Leave the stream's end to the maintenance thread; safe from a finalizer."""
        state = self._pool.state
        state.abandoned.append(functools.partial(_end_stream, self._pool, lease, may_wait=False))
        state.wake_maintenance()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._opened else "opening"
        host, port = self._address
        return f"<AnyTLSSocket to {host}:{port}, {state}, session #{self._session.sequence}>"


def _end_stream(pool: Pool, lease: Lease, may_wait: bool = True) -> None:
    if lease.session.end_stream(may_wait):
        pool.release(lease.session)
