"""The streams that carry datagrams (UDP over TCP, version 2), as sockets that never block.

What goes to IP addresses shares one; each name has one of its own, since sing-box resolves the names of whole streams
only.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .errors import SessionClosed, StreamRefused
from .protocol.address import is_name
from .protocol.uot import Address, DatagramDecoder, encode_datagram, encode_request
from .relay import shared_relay
from .sockets import AnyTLSSocket

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Channel", "Channels"]

#: Most names that have a stream at a time; the one that was longest without use makes room.
MAX_NAMES = 64
_READ_SIZE = 64 * 1024


class Channel:
    """One stream of datagrams as a real socket that never blocks; ``address`` None: each has its own.

    One thread may receive while another sends.
    """

    def __init__(self, stream: AnyTLSSocket, address: Address | None) -> None:
        self.address = address
        self.used_at = time.monotonic()
        #: The server has ended it in order, as it does where nothing comes for long.
        self.is_over = False
        self._decoder = DatagramDecoder(with_addresses=address is None)
        try:
            self._unsent = bytearray(encode_request(address))
        except ValueError:
            stream.close()
            raise
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        try:
            self._pair = shared_relay().join(theirs, stream)
        except BaseException:
            self.sock.close()
            theirs.close()
            stream.close()
            raise

    @property
    def unsent(self) -> int:
        """Bytes that wait for the stream to take them."""
        return len(self._unsent)

    def put(self, data: Buffer, address: Address | None) -> None:
        """Add one datagram to what is to be sent. Raises :class:`ValueError` for an impossible address."""
        self._unsent += encode_datagram(memoryview(data).cast("B"), address)
        self.used_at = time.monotonic()

    def flush(self) -> bool:
        """Send what goes at once; True when nothing is left. Raises as :meth:`receive`."""
        try:
            while self._unsent:
                del self._unsent[: self.sock.send(self._unsent)]
        except BlockingIOError:
            return False
        except OSError as exc:
            raise self._ended() from exc
        return True

    def receive(self) -> bool:
        """Take in what has come; False when nothing has.

        Raises :class:`SessionClosed` or :class:`StreamRefused` when the stream has ended, or makes no sense.
        """
        try:
            data = self.sock.recv(_READ_SIZE)
        except BlockingIOError:
            return False
        except OSError as exc:
            raise self._ended() from exc
        if not data:
            raise self._ended()
        self._decoder.feed(data)
        return True

    def next(self) -> tuple[bytes, Address] | None:
        """Return a datagram that has come, and its source. Raises as :meth:`receive`."""
        try:
            datagram = self._decoder.next()
        except ValueError as exc:
            raise SessionClosed(f"the server sent what is no datagram: {exc}") from exc
        if datagram is None:
            return None
        source, payload = datagram
        return payload, source or self.address or ("", 0)

    def _ended(self) -> OSError:
        error = self._pair.error
        self.is_over = error is None
        if isinstance(error, StreamRefused):
            # It names the stream of datagrams: that is no target of the user's.
            words = str(error).partition(": ")[2]
            return StreamRefused(f"{self.address[0]}:{self.address[1]}: {words}" if self.address else words)
        return SessionClosed(str(error) if error else "the server ended the stream of datagrams")

    def wake(self) -> None:
        """Wake who waits for it; it has ended then."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the stream."""
        self.sock.close()


class Channels:
    """The channels of one datagram socket: ``open_stream`` makes a stream, ``address`` is the only one, or None.

    Not safe for two threads at once.
    """

    def __init__(self, open_stream: Callable[[], AnyTLSSocket], address: Address | None) -> None:
        self._open_stream = open_stream
        self._main: Channel | None = Channel(open_stream(), address)
        self._address = address
        self._named: dict[Address, Channel] = {}

    def all(self) -> list[Channel]:
        """Return all of them."""
        main = self._main
        return [*self._named.values()] if main is None else [main, *self._named.values()]

    def put(self, data: Buffer, address: Address) -> Channel:
        """Add a datagram to the channel for ``address``, which it returns; a new one is opened where there is none.

        Raises :class:`ValueError` for an impossible address, and as ``create_connection``.
        """
        if self._address is not None or not is_name(address[0]):
            main = self._main
            if main is None:
                main = self._main = Channel(self._open_stream(), self._address)
            main.put(data, None if self._address is not None else address)
            return main
        channel = self._named.get(address)
        if channel is None:
            encode_request(address)  # may raise
            if len(self._named) >= MAX_NAMES:
                self.drop(min(self._named.values(), key=lambda channel: channel.used_at))
            channel = self._named[address] = Channel(self._open_stream(), address)
        channel.put(data, None)
        return channel

    def drop(self, channel: Channel) -> bool:
        """Close a channel that has ended; False where it is the one without which there are no datagrams."""
        if channel is self._main:
            if self._address is not None or not channel.is_over:
                return False
            self._main = None  # until there is something to send
        elif channel.address is not None:
            self._named.pop(channel.address, None)
        channel.close()
        return True

    def close(self) -> None:
        """End all streams."""
        for channel in self.all():
            channel.close()
