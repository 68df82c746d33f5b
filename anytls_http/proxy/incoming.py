"""A connection of a local client, while it isn't the relay's: reads with one deadline, and what was read ahead."""

from __future__ import annotations

import contextlib
import hmac
import socket
import time
from dataclasses import dataclass
from typing import Any

from anytls_http.relay.pair import RESET

#: Bytes asked of the socket at once.
READ_SIZE = 64 * 1024
#: Seconds and bytes that a client's last words are read for, so that closing doesn't reset what it was told.
LINGER = 1.0
LINGER_BYTES = 1 << 20


class ClientLeft(Exception):
    """The client closed, or was too slow: there is nobody to answer."""


class BadGreeting(Exception):
    """The client said something that no protocol here knows; it was answered where that has a meaning."""


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What clients have to know. Never shown."""

    username: str
    password: str

    def match(self, username: bytes, password: bytes) -> bool:
        """Whether both are right, in a time that doesn't tell which is wrong."""
        same_name = hmac.compare_digest(username, self.username.encode())
        return hmac.compare_digest(password, self.password.encode()) and same_name


class Incoming:
    """One client. ``deadline`` (``time.monotonic()``) bounds every read and write of its greeting."""

    def __init__(self, sock: socket.socket, peer: tuple[Any, ...]) -> None:
        self.sock = sock
        self.peer = peer
        self.deadline = 0.0
        #: Read from the socket and not used yet.
        self.ahead = bytearray()
        #: State of an HTTP connection between two requests (``web.Conversation``).
        self.conversation: Any = None

    def limit(self, seconds: float) -> None:
        """From now on every read and write must be done within ``seconds``."""
        self.deadline = time.monotonic() + seconds

    def receive(self) -> bytes:
        """Return what comes next, b"" at the end. Raises :class:`ClientLeft` at the deadline, or when it broke."""
        if self.ahead:
            data = bytes(self.ahead)
            self.ahead.clear()
            return data
        try:
            self.sock.settimeout(max(0.001, self.deadline - time.monotonic()))
            return self.sock.recv(READ_SIZE)
        except OSError as exc:
            raise ClientLeft(str(exc)) from exc

    def peek(self) -> int:
        """Return the first byte, without using it up."""
        if not self.ahead:
            self.ahead += self._some()
        return self.ahead[0]

    def exactly(self, size: int) -> bytes:
        """Return the next ``size`` bytes. Raises :class:`ClientLeft` where they don't come."""
        while len(self.ahead) < size:
            self.ahead += self._some()
        data = bytes(self.ahead[:size])
        del self.ahead[:size]
        return data

    def until_zero(self, most: int) -> bytes:
        """Return the bytes up to the next NUL, which is dropped. Raises :class:`BadGreeting` after ``most``."""
        while (end := self.ahead.find(0)) < 0:
            if len(self.ahead) > most:
                break
            self.ahead += self._some()
        if end < 0 or end > most:
            raise BadGreeting("a text without end")
        data = bytes(self.ahead[:end])
        del self.ahead[: end + 1]
        return data

    def _some(self) -> bytes:
        try:
            self.sock.settimeout(max(0.001, self.deadline - time.monotonic()))
            data = self.sock.recv(4096)
        except OSError as exc:
            raise ClientLeft(str(exc)) from exc
        if not data:
            raise ClientLeft("the client closed")
        return data

    def send(self, data: bytes) -> None:
        """Send all of ``data`` by the deadline. Raises :class:`ClientLeft`."""
        try:
            self.sock.settimeout(max(0.001, self.deadline - time.monotonic()))
            self.sock.sendall(data)
        except OSError as exc:
            raise ClientLeft(str(exc)) from exc

    def reset(self) -> None:
        """Have :meth:`close` reset the connection, so that what was told doesn't look whole."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def close(self) -> None:
        """Close at once."""
        if self.conversation is not None:
            self.conversation.close()
        self.sock.close()

    def close_gently(self) -> None:
        """Close so that the client can read what it was told: unread data would reset the connection."""
        with contextlib.suppress(OSError, ClientLeft):
            self.sock.shutdown(socket.SHUT_WR)
            self.limit(LINGER)
            self.ahead.clear()
            left = LINGER_BYTES
            while left > 0 and (data := self.receive()):
                left -= len(data)
        self.close()


def shown(value: object, most: int = 200) -> str:
    """Return ``value`` as text that is safe in a log and on a terminal: what isn't printable ASCII is escaped."""
    text = ascii(str(value))[1:-1]
    return text if len(text) <= most else text[:most] + "..."
