"""One TLS connection over a non-blocking TCP socket, for one reader and one writer at a time.

The roles are the caller's to hand out (``pool/session.py`` has a lock for each). What this class
guarantees is the order of the ciphertext, the deadline of each call, and that the descriptor is
closed only when nobody is inside: a closed number may be somebody else's socket a moment later.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterable

from anytls_http.errors import AnyTLSTimeout, DialError, SessionClosed

from .acknowledged import wait_acknowledged
from .client_hello import Fragmentation
from .contexts import TLSContexts, handshake_error
from .handshake_errors import session_error
from .scratch import PLAINTEXT, borrow, give_back, scratch
from .tcp_info import Arrivals, unacknowledged, unread
from .tls_engine import TLSEngine
from .waiting import AT_ONCE, ReadWaiter, wait_writable

#: Most ciphertext that the engine gets at once (bytes): OpenSSL's buffer keeps the size that it once had.
FEED_SIZE = 128 * 1024
#: Where so much has come at once (bytes), there is likely more.
MUCH = 8192
#: Most reads that poll first, in a row, before another one tries without.
MOST_POLLS = 63
NOTHING = memoryview(b"")


class TLSConnection:
    """A TLS client connection: ``receive`` ciphertext, ``engine.decrypt_into``, ``write`` records."""

    __slots__ = (
        "__weakref__",
        "_arrivals",
        "_borrowed",
        "_fd",
        "_input",
        "_misses",
        "_polls",
        "_read_so_far",
        "_sock",
        "_unsent",
        "arrived",
        "engine",
        "local_address",
        "peer_address",
    )

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._input = ReadWaiter(self._fd)
        self._arrivals = Arrivals(sock)
        self._read_so_far = 0  # bytes
        self._polls = 2  # so many reads more poll first: the handshake's, for a start
        self._misses = 1
        self._borrowed: memoryview | None = None
        #: Ciphertext that was read, in the borrowed buffer, and not yet given to the engine.
        self.arrived = NOTHING
        self._unsent: memoryview | None = None
        self.engine = TLSEngine(context, server_hostname, session_error)
        self.local_address = _address_or_none(sock.getsockname)
        self.peer_address = _address_or_none(sock.getpeername)

    def fileno(self) -> int:
        """Return the TCP socket's descriptor, -1 when closed."""
        return self._sock.fileno()

    def handshake(self, contexts: TLSContexts, server_name: str, deadline: float | None) -> None:
        """Do the TLS handshake and verify the peer; the caller sends nothing before this has returned.

        The client's last flight may stay unsent, to leave together with the first write.
        Raises :class:`CertificateError`, :class:`DialError`, or :class:`AnyTLSTimeout` at ``deadline``.
        """
        engine = self.engine
        fragmentation = contexts.fragmentation
        try:
            while not engine.handshake():
                output = engine.take_output()
                if fragmentation is None:
                    self._send(output, deadline)
                else:
                    self._send_in_pieces(output, fragmentation, deadline)
                if not self.receive(deadline):
                    engine.feed_end()
            contexts.verify_peer(engine.ssl_object)
        except ssl.SSLError as exc:
            with contextlib.suppress(AnyTLSTimeout, SessionClosed):
                self._send(engine.take_output(), AT_ONCE)  # the alert that tells the server why
            # A certificate is for a name, not for the address that was dialled.
            name = contexts.server_name if isinstance(exc, ssl.SSLCertVerificationError) else server_name
            raise handshake_error(exc, name, engine.ssl_object) from exc
        except SessionClosed as exc:
            raise DialError(f"TLS handshake with {server_name} failed: {exc}") from exc

    def _send_in_pieces(self, data: bytes, fragmentation: Fragmentation, deadline: float | None) -> None:
        """Send, where there is a ClientHello in ``data``, each piece of it in a TCP segment of its own."""
        for number, piece in enumerate(fragmentation.pieces(data)):
            if number:
                wait_acknowledged(self._fd, self._input, fragmentation.fallback_delay, deadline)
            self._send(piece, deadline)

    def receive(self, deadline: float | None) -> int:
        """Wait for ciphertext and give it to the engine; return its size, 0 at the end of the stream.

        Raises :class:`AnyTLSTimeout` at ``deadline``, :class:`SessionClosed` when the connection broke.
        """
        if not self.arrived:
            self.arrived = self._read(deadline)
        return self.feed_more()

    def feed_more(self) -> int:
        """Give the engine more of the ciphertext that was read; return its size, 0 where nothing is left."""
        piece = self.arrived[:FEED_SIZE]
        if piece:
            self.engine.feed(piece)
        self.arrived = self.arrived[FEED_SIZE:]
        if not self.arrived:
            self._give_back()
        return len(piece)

    @property
    def has_input_at_hand(self) -> bool:
        """Whether there is ciphertext that was read and not decrypted yet, as far as is known."""
        return bool(self.arrived) or not self.engine.drained

    def _give_back(self) -> None:
        buffer, self._borrowed = self._borrowed, None
        if buffer is not None:
            give_back(buffer)

    def _read(self, deadline: float | None) -> memoryview:
        """Wait for ciphertext and return it, in the borrowed buffer."""
        first = not self._polls
        try:
            if not first:
                self._polls -= 1
                self._input.wait(deadline)
            while True:
                # Not before the wait: who waits needs none.
                buffer = self._borrowed = borrow()
                try:
                    count = self._sock.recv_into(buffer)
                    break
                except BlockingIOError:
                    self._give_back()
                    if first:
                        first = False
                        self._polls = self._misses  # none at once: one miss among hits says little
                        self._misses = min(2 * self._misses + 1, MOST_POLLS)
                    self._input.wait(deadline)
        except AnyTLSTimeout:
            raise
        except (OSError, ValueError) as exc:
            raise SessionClosed(f"the connection to the server broke: {_words(exc)}") from exc
        self._read_so_far += count
        if first:
            self._misses = 0
        elif count > MUCH:
            self._polls = 0  # there is likely more
        return buffer[:count]

    @property
    def reads_first(self) -> bool:
        """Whether :meth:`receive` reads before it polls, since what it wants tends to be there already.

        So it is in bulk, and with many threads, each of which waits longer for the GIL than for its answer. Then
        each call saved that gives up the GIL counts; else a failed ``SSL_read`` before the poll is no loss, since
        the answer comes meanwhile (``docs/performance.md``).
        """
        return not self._polls

    def has_arrived(self) -> bool:
        """Whether :meth:`receive` would return at once. The caller holds the reader's role."""
        if self.arrived:
            return True
        return not self._arrivals.none_beyond(self._read_so_far) and self._input.ready()

    def write(
        self,
        pieces: Iterable[bytes | bytearray | memoryview],
        deadline: float | None,
        *,
        stall: float | None = None,
        keep_unsent: bool = False,
    ) -> None:
        """Encrypt ``pieces`` (one TLS record each, more where one is over 16 KiB) and send them.

        ``stall``: seconds without any progress after which it gives up, instead of ``deadline``.
        ``keep_unsent``: where the connection takes no more, keep the rest for the next call instead
        of waiting. Raises :class:`AnyTLSTimeout` and :class:`SessionClosed`; after either, part of
        the ciphertext may be lost, so the connection can't be used again, except where
        :attr:`has_unsent` was true before and nothing was encrypted.
        """
        if self._unsent is not None:
            self.flush(deadline)
        self._send(self.engine.encrypt(pieces), deadline, stall, keep_unsent)

    @property
    def has_unsent(self) -> bool:
        """Whether ciphertext waits for the connection to take it."""
        return self._unsent is not None or self.engine.has_output

    def flush(self, deadline: float | None) -> None:
        """Send what was kept, and what reading has produced; what can't be sent by ``deadline`` stays kept."""
        unsent, self._unsent = self._unsent, None
        if unsent is not None:
            self._send(unsent, deadline, keep_unsent=True)
            if self._unsent is not None:
                raise AnyTLSTimeout("timed out while waiting for the connection to take data")
        if self.engine.has_output:
            self._send(self.engine.take_output(), deadline, keep_unsent=True)

    def _send(
        self,
        data: bytes | memoryview,
        deadline: float | None,
        stall: float | None = None,
        keep_unsent: bool = False,
    ) -> None:
        if not data:
            return
        send = self._sock.send
        view: memoryview | None = None
        while True:
            try:
                count = send(data if view is None else view)
            except BlockingIOError:
                count = 0
            except (OSError, ValueError) as exc:
                raise SessionClosed(f"the connection to the server broke: {_words(exc)}") from exc
            if view is None:
                if count == len(data):
                    return
                view = memoryview(data)
            view = view[count:]
            if not view:
                return
            if stall is not None and count:
                deadline = time.monotonic() + stall
            try:
                wait_writable(self._fd, deadline)
            except AnyTLSTimeout:
                if keep_unsent:
                    self._unsent = view
                    return
                raise
            except (OSError, ValueError) as exc:
                raise SessionClosed("the connection was closed") from exc

    def last_words(self) -> DialError | None:
        """Return what a server that has ended the connection has against it by TLS's rules; None: it didn't say.

        With TLS 1.3 that is how a client certificate is refused. A write may fail before that was read.
        What else has come is lost.
        """
        with contextlib.suppress(OSError, ValueError):
            # Not receive(): another thread may be waiting in there.
            self.engine.feed(self.arrived)
            while data := self._sock.recv(FEED_SIZE):
                self.engine.feed(data)
        try:
            while self.engine.decrypt_into(scratch(PLAINTEXT)) > 0:
                pass
        except DialError as exc:
            return exc
        except SessionClosed:
            pass
        return None

    def unread(self) -> int:
        """Return the bytes of ciphertext that have arrived and were not decrypted, as far as the system tells."""
        return len(self.arrived) + (unread(self._fd) or 0)

    def unacknowledged(self) -> int:
        """Return the bytes sent that the server's TCP has not acknowledged yet, as far as the system tells."""
        return unacknowledged(self._fd) or 0

    def shutdown(self) -> None:
        """End the TCP connection and wake whoever polls it; the descriptor stays open until :meth:`close`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def shutdown_reading(self) -> None:
        """Wake whoever waits for data: it sees the end of the stream."""
        self._arrivals.stop()  # to the kernel the connection is as open as before
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def say_goodbye(self) -> None:
        """Send TLS's close_notify if the connection takes it at once. The caller holds the writer's role."""
        if self._unsent is None:
            with contextlib.suppress(AnyTLSTimeout, SessionClosed):
                with contextlib.suppress(ssl.SSLError, ValueError):
                    self.engine.shutdown()
                self._send(self.engine.take_output(), AT_ONCE)

    def close(self) -> None:
        """Close the descriptor; only when nobody is inside."""
        self._sock.close()
        self.arrived = NOTHING
        self._give_back()

    def close_inherited(self) -> None:
        """Close a forked child's copy of the descriptor; the parent's connection goes on."""
        fd = self._sock.detach()
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def _address_or_none(ask: object) -> tuple[object, ...] | None:
    try:
        return ask()  # type: ignore[operator, no-any-return]
    except OSError:
        return None


def _words(exc: BaseException) -> str:
    return getattr(exc, "strerror", None) or str(exc)
