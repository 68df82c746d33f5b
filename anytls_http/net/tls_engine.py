"""TLS without a socket: an ``ssl.SSLObject`` between two ``MemoryBIO``s, safe for two threads.

One OpenSSL object must never be used by two threads at once (a reader and a writer on one
``SSLSocket`` ended in a segfault), so every call on it here is short and under the engine's lock;
whoever has to wait, waits outside. The order of the ciphertext is the order in which
:meth:`TLSEngine.encrypt` and :meth:`TLSEngine.decrypt_into` produced it; the owner of the engine
takes it with :meth:`TLSEngine.take_output` under a lock of its own and sends it in that order.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

#: What :meth:`TLSEngine.decrypt_into` returns when more ciphertext is needed.
NEED_INPUT = -1
#: What it returns when the peer has ended the connection.
END = 0
#: Most plaintext bytes of one TLS record.
RECORD_SIZE = 16384
#: Bytes of ciphertext that hold a whole record for certain: its header, and as much more as TLS 1.3 allows.
WHOLE_RECORD = 5 + RECORD_SIZE + 256
#: Records that one call decrypts at the most, so that empty ones can't hold it.
MANY_RECORDS = range(256)
#: Asks OpenSSL for as much as the buffer holds (bytes).
WHATEVER_FITS = 1 << 30


class TLSEngine:
    """One TLS client connection as ciphertext in, plaintext out, and the reverse."""

    __slots__ = (
        "_failure",
        "_incoming",
        "_lock",
        "_outgoing",
        "_read",
        "_write",
        "drained",
        "hungry",
        "partial",
        "ssl_object",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        server_hostname: str | None,
        failure: Callable[[ssl.SSLError], Exception] | None = None,
    ) -> None:
        """``failure`` makes the exception to raise where the peer breaks the rules of TLS; else OpenSSL's own is."""
        self._failure = failure
        #: Whether nothing more can be decrypted before :meth:`feed`; False where that isn't known.
        self.drained = False
        #: Whether more ciphertext, where it is at hand, should come before the next :meth:`decrypt_into`.
        self.hungry = False
        #: Once it is drained: whether a record was left of which a part has come, so that the rest is on its way.
        self.partial = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._lock = threading.Lock()
        #: The TLS object, for facts such as its version; not to be read or written by others.
        self.ssl_object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        # SSLObject's methods are Python's, and only call those of the object inside: 3 % of a download.
        fast: Any = getattr(self.ssl_object, "_sslobj", self.ssl_object)
        self._read: Callable[[int, memoryview], int] = fast.read  # into a buffer it returns the count
        self._write: Callable[[bytes | bytearray | memoryview], int] = fast.write

    def handshake(self) -> bool:
        """Take one step of the handshake; True when it is done. Raises :class:`ssl.SSLError`."""
        with self._lock:
            try:
                self.ssl_object.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return True

    def feed(self, ciphertext: bytes | bytearray | memoryview) -> None:
        """Take over what the peer has sent."""
        with self._lock:
            self._incoming.write(ciphertext)
            self.drained = self.hungry = False
            self.partial = True

    def feed_end(self) -> None:
        """The transport below is at its end: what is buffered can still be read, then comes END."""
        with self._lock:
            self._incoming.write_eof()
            self.drained = self.hungry = False

    def decrypt_into(self, view: memoryview, least: int = 1) -> int:
        """Fill ``view`` with plaintext that is there; never wait.

        ``least``: with fewer bytes of ciphertext left no further record is asked for, and ``hungry`` is set;
        not where there were fewer to begin with.
        Returns the number of bytes (several records where the view has room), NEED_INPUT or END.
        Raises ``failure``'s exception when the peer broke the rules of TLS.
        """
        rest = view
        read = self._read
        incoming = self._incoming
        with self._lock:
            if incoming.pending < least:
                least = 1
            try:
                for _ in MANY_RECORDS:
                    count = read(WHATEVER_FITS, rest)
                    rest = rest[count:]
                    # Asking for a record that isn't there would cost an exception: dear in CPython.
                    if incoming.pending < least or not rest:
                        break
                left = incoming.pending
                self.partial = left > 0
                if left < least:
                    # A part of the last record may be left where there is no room left.
                    self.drained = not left and count > 0 and bool(rest)
                    self.hungry = self.drained or left > 0
            except ssl.SSLWantReadError:
                self.drained = self.hungry = True
                return len(view) - len(rest) or NEED_INPUT
            except ssl.SSLEOFError:
                # The end without a close_notify. Frames have lengths, and so has HTTP: what was cut shows there.
                pass
            except ssl.SSLError as exc:
                if len(rest) == len(view):
                    self._raise(exc)
                # else OpenSSL gives the same error to the next call
        return len(view) - len(rest)

    def encrypt(self, pieces: Iterable[bytes | bytearray | memoryview]) -> bytes:
        """Encrypt ``pieces``, each into TLS records of its own, and return all ciphertext not yet taken."""
        with self._lock:
            write = self._write
            try:
                for piece in pieces:
                    if piece:
                        write(piece)
            except ssl.SSLError as exc:
                self._raise(exc)
            return self._outgoing.read()

    def _raise(self, exc: ssl.SSLError) -> NoReturn:
        if self._failure is None:
            raise exc
        raise self._failure(exc) from exc

    def shutdown(self) -> bool:
        """Take one step of TLS's goodbye; True when the peer has said it too. Raises :class:`ssl.SSLError`."""
        with self._lock:
            try:
                self.ssl_object.unwrap()
            except ssl.SSLWantReadError:
                return False
            return True

    @property
    def has_output(self) -> bool:
        """Whether reading has produced ciphertext (a KeyUpdate's answer) that must be sent."""
        return bool(self._outgoing.pending)

    def take_output(self) -> bytes:
        """Return the ciphertext not yet taken."""
        with self._lock:
            return self._outgoing.read()
