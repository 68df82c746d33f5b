"""What the kernel knows of a TCP connection: bytes unread, unacknowledged, and received so far."""

from __future__ import annotations

import socket
import sys

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Arrivals", "unacknowledged", "unread"]

#: Where Linux's ``struct tcp_info`` has the state, and ``tcpi_bytes_received``.
_STATE, _RECEIVED = slice(0, 1), slice(128, 136)
_ESTABLISHED = b"\x01"


def unread(fd: int) -> int | None:
    """Return the bytes that have arrived on a socket and were not read yet; None where the system won't tell."""
    return None if fcntl is None else _ask(fd, termios.FIONREAD)


def unacknowledged(fd: int) -> int | None:
    """Return the bytes sent on a TCP socket that are not acknowledged yet; None where the system won't tell."""
    # SIOCOUTQ is TIOCOUTQ's number on Linux. Elsewhere TIOCOUTQ, where there is one, is for terminals.
    return _ask(fd, termios.TIOCOUTQ) if sys.platform == "linux" else None


def _ask(fd: int, question: int) -> int | None:
    try:
        return int.from_bytes(fcntl.ioctl(fd, question, bytes(4)), sys.byteorder)
    except (OSError, ValueError):
        return None


class Arrivals:
    """Whether anything has come in on a TCP socket beyond what its user has read, by Linux's count of it.

    ``poll`` tells it too, but gives up the GIL, which is dear to get back where many threads want it.
    """

    __slots__ = ("_before", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        """Count from now on: ``sock``'s user has yet to read."""
        self._sock = sock
        self._before: int | None = None
        # A socket of Multipath TCP tells of one of its ways only.
        if sys.platform == "linux" and sock.proto in (0, socket.IPPROTO_TCP):
            received, waiting = self._received(), unread(sock.fileno())
            if received is not None and waiting is not None and received == self._received():
                self._before = received - waiting

    def none_beyond(self, count: int) -> bool:
        """Whether it is certain that only the ``count`` bytes read so far have come, and no end and no error."""
        before = self._before
        return before is not None and self._received() == before + count

    def stop(self) -> None:
        """Be certain of nothing from now on."""
        self._before = None

    def _received(self) -> int | None:
        """Return the bytes received so far; None where the connection isn't open, or nobody counts."""
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.stop)
        except (OSError, ValueError):
            return None
        if info[_STATE] != _ESTABLISHED or len(info) < _RECEIVED.stop:
            return None
        return int.from_bytes(info[_RECEIVED], sys.byteorder)
