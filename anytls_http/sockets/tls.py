"""TLS with the target, inside the tunnel, as a socket."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

from anytls_http.errors import AnyTLSError, AnyTLSTimeout
from anytls_http.net.tls import FEED_SIZE
from anytls_http.net.tls_engine import END, NEED_INPUT, RECORD_SIZE, WHOLE_RECORD, TLSEngine
from anytls_http.net.waiting import AT_ONCE, deadline_after, remaining
from anytls_http.pool.session import MAX_FILLS
from anytls_http.pool.session_reading import MIN_ROOM
from anytls_http.pool.session_writing import WRITE_SIZE

from .base import StreamSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from .plain import AnyTLSSocket

#: Most plaintext that one write of TLS in the tunnel encrypts (bytes): its ciphertext is one write of the session.
#: TLS 1.2 adds 29 bytes to each of its seven records, TLS 1.3 fewer.
TLS_WRITE_SIZE = WRITE_SIZE - 7 * 29
#: Most ciphertext of TLS in the tunnel that is read in one go (bytes): what two steps of the session decrypt.
TLS_READ_SIZE = 2 * (FEED_SIZE + RECORD_SIZE)
#: With room for less than this (bytes) no further step begins: it would be decrypted in two parts, and so would all
#: that follow, one of them with the rest of the step before.
ROOM_FOR_STEP = FEED_SIZE // 2


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

    def _has_ended(self) -> bool:
        return self._inner._has_ended()

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
        engine = self._engine
        if not self._inner._receive(TLS_READ_SIZE, engine.feed, deadline, ROOM_FOR_STEP):
            engine.feed_end()

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

    def _read_into(self, view: memoryview, deadline: float | None, room: int = MIN_ROOM) -> int:
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
            engine = self._engine
            if engine.hungry and not engine.drained:
                self._fill_if_at_hand()
            while True:
                if not engine.drained:  # else OpenSSL would only raise an exception, which is dear
                    count = engine.decrypt_into(view, WHOLE_RECORD)
                    if count > 0:
                        return count if count == len(view) else self._fill_up(view, count, room)
                    if count == END:
                        return END
                if engine.has_output:
                    self._answer(deadline)
                # Records without data (tickets, key updates) must not hold the reader past the deadline.
                if waits and remaining(deadline) == 0 and (deadline != AT_ONCE or waits >= MAX_FILLS):
                    self._inner._session.poke_relay()
                    raise AnyTLSTimeout("timed out while waiting for data")
                try:
                    self._fill(deadline)
                except OSError:
                    if self._read_shut:
                        return 0
                    raise
                waits += 1
        finally:
            self._reader.release()

    def _fill_up(self, view: memoryview, count: int, room: int) -> int:
        """Go on filling ``view`` after its first ``count`` bytes, with what is at hand: its user pays by the piece.

        Returns the new count; an error is for the next call.
        """
        engine = self._engine
        size = len(view)
        while count < size:
            if engine.hungry and size - count >= room and self._fill_if_at_hand():
                least = WHOLE_RECORD
            elif engine.drained:
                break
            else:
                least = 1
            try:
                more = engine.decrypt_into(view[count:], least)
            except ssl.SSLError:
                break
            if more == END:
                break
            if more != NEED_INPUT:
                count += more
        return count

    def _fill_if_at_hand(self) -> bool:
        """Take more ciphertext from the session where some is there already; an error is for the next call."""
        if not self._inner._session.has_input_at_hand:
            return False
        try:
            self._fill(AT_ONCE)
        except (AnyTLSError, OSError):
            return False
        return True

    def _answer(self, deadline: float | None) -> None:
        """Send what reading produced, unless a writer is at it: he takes it along.

        Who can't be answered any more may have said all the same what is to be read.
        """
        if self._writer.acquire(blocking=False):
            try:
                self._flush(deadline)
            except AnyTLSTimeout:
                if deadline != AT_ONCE:
                    raise
                # What is there can be read all the same; the rest goes before the next.
            except (AnyTLSError, OSError):
                pass  # the read meets what there is to tell
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
                if self._engine.has_output:
                    self._answer(AT_ONCE)  # who has not heard the end of the handshake says nothing
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
