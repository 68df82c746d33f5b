"""One stream of a session on the test server: dial its target, answer with a SYNACK, relay both ways."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

from anytls_http.protocol.address import decode_address
from anytls_http.protocol.frames import HEADER, HEADER_SIZE, MAX_DATA, Command

from .channel import WAIT_SLICE, wait_for_socket

if TYPE_CHECKING:
    from .session import ServerSession

#: Most bytes kept for a target that is still being dialled (``faults.reads_while_dialling``).
MAX_PENDING = 1 << 20


class ServerStream:
    """A stream as the server sees it; what it records can be read from any thread."""

    def __init__(self, session: ServerSession, stream_id: int) -> None:
        self._session = session
        #: The stream's number within its session.
        self.id = stream_id
        #: Host and port that the client asked for; None until they have arrived.
        self.target: tuple[str, int] | None = None
        #: Whether the target was reached.
        self.opened = False
        #: Whether the stream is over, in both directions.
        self.closed = False
        #: The text that the stream was refused with; None when it wasn't.
        self.refused: str | None = None
        #: Bytes from the client to the target, and back.
        self.bytes_up = 0
        self.bytes_down = 0
        self._pending = bytearray()
        self._stop = threading.Event()
        # Set when the dial has ended, well or not: until then the session's reader waits with user data.
        self._dialled = threading.Event()
        self._send_lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        state = (
            "refused" if self.refused else "closed" if self.closed else "open" if self.opened else "dialling"
        )
        host, port = self.target or ("?", 0)
        return f"<stream {self.id} to {host}:{port}, {state}, {self.bytes_up} up, {self.bytes_down} down>"

    # -- called by the session's thread --

    def take(self, data: bytes) -> None:
        """Take one PSH. Waits for the dial to end and for the target to take the data, as sing-box does."""
        if self.target is None:
            self._take_address(data)
            return
        if not self._dialled.is_set():
            if self._session.faults.reads_while_dialling:
                with self._send_lock:
                    if not self._dialled.is_set() and len(self._pending) < MAX_PENDING:
                        self._pending += data
                        return
            self._dialled.wait()
        with self._send_lock:
            self._send_to_target(data)

    def close(self) -> None:
        """End the stream and wake its thread; nothing is sent to the client."""
        self.closed = True
        self._stop.set()
        self._dialled.set()
        if (sock := self._socket) is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def join(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the stream's thread to end; True when it has."""
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _take_address(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) < (address_size(self._pending) or MAX_DATA):
            return
        host, port, consumed = decode_address(bytes(self._pending))
        del self._pending[:consumed]
        self.target = (host, port)
        self._thread = threading.Thread(
            target=self._run, name=f"anytls-test-stream-{self._session.seq}-{self.id}", daemon=True
        )
        self._thread.start()

    def _send_to_target(self, data: bytes | bytearray) -> None:
        if self._socket is None or self.closed:
            return
        # A target that closed shows in its own thread, which tells the client.
        with contextlib.suppress(OSError):
            self._socket.sendall(data)
            self.bytes_up += len(data)

    # -- the stream's own thread --

    def _run(self) -> None:
        try:
            error = self._dial()
            if self.closed:
                return
            self._session.stream_dialled(self, error)
            self._dialled.set()
            if error is None:
                self._relay_down()
        except (OSError, ValueError):
            pass  # the session is gone (ValueError: its TLS object is closed), and the stream with it
        finally:
            self.close()
            # Whoever is inside sendall was woken, and leaves before the descriptor is closed.
            with self._send_lock:
                if self._socket is not None:
                    self._socket.close()
            self._session.stream_ended(self)

    def _dial(self) -> str | None:
        """Connect to the target; None when done, else the text for the client."""
        assert self.target is not None
        faults = self._session.faults
        if faults.synack_delay > 0:
            self._stop.wait(faults.synack_delay)
        while faults.withhold_synack and not self._stop.is_set():
            self._stop.wait(WAIT_SLICE)
        if self._stop.is_set():
            return "closed"
        host, port = self.target
        if faults.refuse is not None and (text := faults.refuse(host, port)) is not None:
            return text
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            sock = connect(self._session.route(host, port), faults.dial_timeout, self._stop)
        except (OSError, UnicodeError) as exc:  # the second: a name that can be none
            words = getattr(exc, "strerror", None) or str(exc)
            return f"open connection to {place} using outbound/direct[0]: dial tcp {place}: connect: {words.lower()}"
        with self._send_lock:
            self._socket = sock
            if not self.closed:
                self._send_to_target(self._pending)
            self._pending = bytearray()
        return None

    def _relay_down(self) -> None:
        assert self._socket is not None
        frame = bytearray(HEADER_SIZE + MAX_DATA)
        view = memoryview(frame)
        while True:
            try:
                count = self._socket.recv_into(view[HEADER_SIZE:])
            except OSError:
                count = 0
            if self.closed:
                return
            if not count:
                self._session.send_frame(Command.FIN, self.id)
                return
            HEADER.pack_into(frame, 0, Command.PSH, self.id, count)
            self._session.send_raw(view[: HEADER_SIZE + count])
            self.bytes_down += count


def address_size(data: bytes | bytearray) -> int | None:
    """Return how many bytes the address at the start of ``data`` takes; None when that can't be told yet.

    Raises :class:`ValueError` for an unknown type of address.
    """
    if not data:
        return None
    if data[0] == 1:
        return 1 + 4 + 2
    if data[0] == 4:
        return 1 + 16 + 2
    if data[0] != 3:
        raise ValueError(f"unknown address type {data[0]}")
    return 1 + 1 + data[1] + 2 if len(data) > 1 else None


def connect(address: tuple[str, int], timeout: float, stop: threading.Event) -> socket.socket:
    """Return a blocking socket connected to ``address``; raises :class:`OSError`, also once ``stop`` is set.

    ``timeout``: most seconds per address that the name has.
    """
    error: OSError = OSError(errno.EADDRNOTAVAIL, "no such host")
    for family, kind, protocol, _, sockaddr in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            code = sock.connect_ex(sockaddr)
            deadline = time.monotonic() + timeout
            while code in (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK):
                wait_for_socket(sock, writing=True, seconds=WAIT_SLICE)
                if stop.is_set() or time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "i/o timeout")
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _connected_or_pending(sock)
            if code:
                raise OSError(code, os.strerror(code))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(True)
            return sock
        except OSError as exc:
            sock.close()
            error = exc
        except BaseException:
            sock.close()
            raise
    raise error


def _connected_or_pending(sock: socket.socket) -> int:
    try:
        sock.getpeername()
    except OSError as exc:
        return errno.EINPROGRESS if exc.errno == errno.ENOTCONN else exc.errno or errno.EIO
    return 0
