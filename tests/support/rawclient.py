"""A minimal AnyTLS client, straight from ``docs/protocol.md``: it shares no code with the package.

One blocking TLS socket, one thread. It is the yardstick for the test server: what this client gets from it,
it must get from the real sing-box too.
"""

from __future__ import annotations

import collections
import hashlib
import socket
import ssl
import struct
from typing import Any, NamedTuple, Self

WASTE, SYN, PSH, FIN, SETTINGS, ALERT, UPDATE, SYNACK, HEART_REQUEST, HEART_RESPONSE, SERVER_SETTINGS = range(
    11
)
_HEADER = struct.Struct(">BIH")


class Frame(NamedTuple):
    """A frame, as it was received."""

    command: int
    stream: int
    data: bytes


def frame(command: int, stream: int = 0, data: bytes = b"") -> bytes:
    """Return a frame's bytes."""
    return _HEADER.pack(command, stream, len(data)) + data


def ipv4(host: str, port: int) -> bytes:
    """Return a SocksAddr with an IPv4 address."""
    return b"\x01" + socket.inet_aton(host) + struct.pack(">H", port)


def ipv6(host: str, port: int) -> bytes:
    """Return a SocksAddr with an IPv6 address."""
    return b"\x04" + socket.inet_pton(socket.AF_INET6, host) + struct.pack(">H", port)


def name(host: str, port: int) -> bytes:
    """Return a SocksAddr with a name."""
    return b"\x03" + bytes([len(host)]) + host.encode() + struct.pack(">H", port)


class RawClient:
    """One session, by hand. ``outbound`` is what a server's ``outbound()`` returns."""

    def __init__(self, outbound: dict[str, Any], timeout: float = 5.0) -> None:
        self._outbound = outbound
        context = ssl.create_default_context(cadata=outbound["tls"]["certificate"])
        plain = socket.create_connection((outbound["server"], outbound["server_port"]), timeout)
        try:
            self.sock = context.wrap_socket(plain, server_hostname=outbound["tls"]["server_name"])
        except BaseException:
            plain.close()
            raise
        self._buffer = bytearray()
        self._seen: collections.deque[Frame] = collections.deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send ``data`` in one TLS record, where it fits."""
        self.sock.sendall(data)

    def authenticate(self, password: str | None = None, padding: int = 30) -> None:
        """Send the authentication, as one record."""
        digest = hashlib.sha256((password or self._outbound["password"]).encode()).digest()
        self.send(digest + struct.pack(">H", padding) + bytes(padding))

    def settings(self, padding_md5: str = "0" * 32, version: int = 2) -> bytes:
        """Return a Settings frame."""
        return frame(SETTINGS, 0, f"v={version}\nclient=raw/1\npadding-md5={padding_md5}".encode())

    def begin(self, **settings: Any) -> None:
        """Authenticate and send Settings."""
        self.authenticate()
        self.send(self.settings(**settings))

    def open(self, stream: int, address: bytes, data: bytes = b"") -> None:
        """Open a stream, and send its first data along."""
        self.send(
            frame(SYN, stream) + frame(PSH, stream, address) + (frame(PSH, stream, data) if data else b"")
        )

    def next_frame(self) -> Frame | None:
        """Return the next frame from the server; None when the session has ended."""
        while True:
            if len(self._buffer) >= 7:
                command, stream, size = _HEADER.unpack_from(self._buffer)
                if len(self._buffer) >= 7 + size:
                    data = bytes(self._buffer[7 : 7 + size])
                    del self._buffer[: 7 + size]
                    return Frame(command, stream, data)
            try:
                received = self.sock.recv(65536)
            except (ConnectionError, ssl.SSLError):
                received = b""
            if not received:
                return None
            self._buffer += received

    def wait_for(self, command: int, stream: int | None = None) -> Frame:
        """Read frames until one has this command (and stream), and return it."""
        while (got := self.next_frame()) is not None:
            if got.command == command and stream in (None, got.stream):
                return got
        raise ConnectionError(f"the session ended before command {command} came")

    def read_stream(self, stream: int) -> bytes:
        """Read until the stream's FIN, and return its data."""
        data = bytearray()
        while (got := self.next_frame()) is not None:
            if got.stream == stream and got.command == PSH:
                data += got.data
            elif got.stream == stream and got.command == FIN:
                break
        return bytes(data)

    def has_ended(self) -> bool:
        """Read to the session's end; False when the time-out comes first."""
        try:
            while self.next_frame() is not None:
                pass
        except TimeoutError:
            return False
        return True
