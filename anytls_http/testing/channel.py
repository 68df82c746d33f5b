"""The server's end of one TLS connection: records in, records out, for one reader and any number of writers.

One OpenSSL object must not be used by two threads at once, so it sits between two ``MemoryBIO``s and
every call on it is short and under a lock; waiting for the socket happens outside.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
import threading
import weakref

#: Seconds after which a waiting thread looks again whether the channel was closed.
WAIT_SLICE = 0.05
#: Bytes of ciphertext read in one system call.
READ_SIZE = 128 * 1024
#: More than any TLS record holds.
MAX_RECORD = 16384 + 256
#: SO_LINGER: on, zero seconds; so that closing sends a reset.
LINGER_ZERO = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

_server_names: weakref.WeakKeyDictionary[ssl.SSLObject, str | None] = weakref.WeakKeyDictionary()


def remember_server_name(ssl_object: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
    """An ``sni_callback`` for the server's context: the ssl module tells the name nowhere else."""
    _server_names[ssl_object] = name


def wait_for_socket(sock: socket.socket, *, writing: bool, seconds: float | None) -> None:
    """Return when ``sock`` can be read (or written), is at its end or broken, or ``seconds`` have passed."""
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(sock, select.POLLOUT if writing else select.POLLIN)
        poller.poll(None if seconds is None else seconds * 1000)
    else:
        sockets = [sock]
        select.select([] if writing else sockets, sockets if writing else [], sockets, seconds)


class TLSChannel:
    """TLS over a connected socket, which it owns."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ssl_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._closing = False
        self._reset = False
        self._ended = False
        #: Cleared while the channel is frozen: neither reads nor writes go on.
        self.running = threading.Event()
        self.running.set()
        self.peer_address = sock.getpeername()

    @property
    def tls_version(self) -> str | None:
        """The TLS version that was agreed on; None before the handshake."""
        return self._ssl.version()

    @property
    def server_name(self) -> str | None:
        """The name that the client asked for (SNI); None when it sent none."""
        return _server_names.get(self._ssl)

    @property
    def alpn_protocol(self) -> str | None:
        """The application protocol that was agreed on in the handshake."""
        return self._ssl.selected_alpn_protocol()

    def handshake(self) -> None:
        """Do the handshake. Raises :class:`ssl.SSLError`, or :class:`ConnectionError` when the peer left."""
        while True:
            with self._ssl_lock:
                try:
                    self._ssl.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    done = False
            self._flush()
            if done:
                return
            if not self._receive():
                raise ConnectionAbortedError("the peer closed during the handshake")

    def read_record(self) -> bytes:
        """Return the plaintext of the next TLS record; empty at the end, however it came about."""
        while True:
            with self._ssl_lock:
                try:
                    data = self._ssl.read(MAX_RECORD)
                except ssl.SSLWantReadError:
                    data = None
                except ssl.SSLError:
                    data = b""
                answers = self._outgoing.pending
            if answers:
                with contextlib.suppress(OSError):
                    self._flush()
            if data is not None:
                return data
            if not self._receive():
                return b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``; waits until the socket has taken it. Raises :class:`OSError` when it can't."""
        with self._write_lock:
            self._check_open()
            with self._ssl_lock:
                self._ssl.write(data)
                ciphertext = self._outgoing.read()
            self._send(ciphertext)

    def shutdown(self, reset: bool = False) -> None:
        """End the connection and wake every thread in here; the reader then calls :meth:`close`.

        ``reset``: the peer gets a TCP reset instead of an orderly end.
        """
        self._reset = self._reset or reset
        if not reset and not self._closing and self.running.is_set():
            self._say_goodbye()
        self._closing = True
        self.running.set()
        with contextlib.suppress(OSError):
            # Ending only the reading side puts nothing on the wire, so that close() can send the reset.
            self._sock.shutdown(socket.SHUT_RD if self._reset else socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor. Writers have seen :meth:`shutdown`, and leave before this goes on."""
        self._closing = True
        with self._write_lock:
            if self._reset:
                with contextlib.suppress(OSError):
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            self._sock.close()

    def _check_open(self) -> None:
        if self._closing:
            raise ConnectionAbortedError("the session is closed")

    def _receive(self) -> bool:
        """Wait for ciphertext; False at the end, which OpenSSL is told of."""
        while not self._ended:
            self.running.wait()
            if self._closing:
                self._ended = True
                break
            try:
                data = self._sock.recv(READ_SIZE)
            except BlockingIOError:
                wait_for_socket(self._sock, writing=False, seconds=None)
                continue
            except OSError:
                data = b""
            # Frozen while it waited: what came stays unseen until the thaw.
            self.running.wait()
            with self._ssl_lock:
                if data:
                    self._incoming.write(data)
                    return True
                self._incoming.write_eof()
            self._ended = True
        return False

    def _flush(self) -> None:
        with self._write_lock:
            with self._ssl_lock:
                ciphertext = self._outgoing.read()
            self._send(ciphertext)

    def _send(self, ciphertext: bytes) -> None:
        view = memoryview(ciphertext)
        while view:
            self.running.wait()
            self._check_open()
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                wait_for_socket(self._sock, writing=True, seconds=WAIT_SLICE)

    def _say_goodbye(self) -> None:
        """Send TLS's close_notify where that is possible at once."""
        if not self._write_lock.acquire(timeout=WAIT_SLICE):
            return
        try:
            with self._ssl_lock:
                with contextlib.suppress(ssl.SSLError, ValueError):
                    self._ssl.unwrap()
                ciphertext = self._outgoing.read()
            with contextlib.suppress(OSError):
                self._sock.send(ciphertext)
        finally:
            self._write_lock.release()
