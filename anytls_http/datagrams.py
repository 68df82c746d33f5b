"""Datagrams through the tunnel: :class:`AnyTLSDatagram`, made by :meth:`AnyTLSClient.create_datagram`.

They travel in one stream (UDP over TCP, version 2), so they arrive in order and none is lost between
this process and the server; from there on they are UDP.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import threading
from typing import TYPE_CHECKING

from .errors import AnyTLSTimeout, SessionClosed, StreamRefused
from .net.waiting import AT_ONCE, deadline_after, remaining
from .protocol.uot import MAX_DATAGRAM, Address, DatagramDecoder, encode_datagram, encode_request
from .sockets import AnyTLSSocket

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

__all__ = ["AnyTLSDatagram"]

_READ_SIZE = 64 * 1024


class AnyTLSDatagram:
    """A UDP socket on the server's side: ``sendto recvfrom send recv settimeout close getpeername``.

    One thread may receive while another sends. Datagrams hold up to 65,507 bytes.
    """

    type = socket.SOCK_DGRAM
    proto = socket.IPPROTO_UDP

    def __init__(self, stream: AnyTLSSocket, address: Address | None) -> None:
        self._stream = stream
        self._address = address
        self._timeout = stream.gettimeout()
        try:
            self._request = encode_request(address)  # goes with the first datagram
        except ValueError as exc:
            stream.close()
            raise StreamRefused(f"{address} can't be a target: {exc}") from exc
        self._decoder = DatagramDecoder(with_addresses=address is None)
        self._reader = threading.Lock()
        self._writer = threading.Lock()

    @property
    def family(self) -> socket.AddressFamily:
        """The address family of the session's TCP connection."""
        return self._stream.family

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Send one datagram to the address that this was made for. Raises as :meth:`sendto`."""
        if self._address is None:
            raise OSError(errno.EDESTADDRREQ, "this datagram socket has no address: use sendto")
        return self._send(data, None)

    def sendto(self, data: Buffer, address: Address) -> int:
        """Send one datagram to ``address`` (host or IP address, port); the server resolves a name.

        Raises :class:`AnyTLSTimeout` after the time-out, ``OSError`` (EMSGSIZE) over 65,507 bytes,
        :class:`StreamRefused` and :class:`SessionClosed` when the stream has ended. Where it was made for one
        address, any other is ``OSError`` (EISCONN).
        """
        address = (address[0], address[1])
        if self._address is None:
            return self._send(data, address)
        if address != self._address:
            raise OSError(errno.EISCONN, "this datagram socket was made for another address")
        return self._send(data, None)

    def _send(self, data: Buffer, address: Address | None) -> int:
        view = memoryview(data).cast("B")
        if len(view) > MAX_DATAGRAM:
            raise OSError(errno.EMSGSIZE, f"a datagram holds at most {MAX_DATAGRAM} bytes, not {len(view)}")
        try:
            encoded = encode_datagram(view, address)
        except ValueError as exc:
            raise OSError(errno.EINVAL, f"{address} can't be a target: {exc}") from exc
        deadline = self._deadline()
        if not self._writer.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was sending")
        try:
            self._write(self._request + encoded, deadline)
            self._request = b""
        finally:
            self._writer.release()
        return len(view)

    def _write(self, data: bytes, deadline: float | None) -> None:
        left = memoryview(data)
        try:
            while left:
                count = self._stream._write_some(left, deadline, None, deadline == AT_ONCE)
                left = left[count:]
        except AnyTLSTimeout:
            if len(left) == len(data):
                self._would_block()
            else:
                self._stream.close()  # what follows a part of a datagram can't be told apart
            raise

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Address]:
        """Return the next datagram and where it came from; what is over ``bufsize`` bytes of it is lost.

        Raises as :meth:`sendto`.
        """
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        deadline = self._deadline()
        if not self._reader.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was receiving")
        try:
            if self._request:
                self._announce(deadline)
            while True:
                datagram = self._decoder.next()
                if datagram is not None:
                    break
                data = self._stream._read(_READ_SIZE, deadline)
                if not data:
                    raise SessionClosed("the server ended the stream of datagrams")
                self._decoder.feed(data)
        except ValueError as exc:
            self._stream.close()
            raise SessionClosed(f"the server sent what is no datagram: {exc}") from exc
        except AnyTLSTimeout:
            self._would_block()
            raise
        finally:
            self._reader.release()
        source, payload = datagram
        return payload[:bufsize], source or self._address or ("", 0)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """As :meth:`recvfrom`, without the address."""
        return self.recvfrom(bufsize)[0]

    def _announce(self, deadline: float | None) -> None:
        """Send the request alone: somebody receives before anything was sent."""
        if not self._writer.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was sending")
        try:
            request, self._request = self._request, b""
            if request:
                self._write(request, deadline)
        finally:
            self._writer.release()

    def _deadline(self) -> float | None:
        return AT_ONCE if self._timeout == 0 else deadline_after(self._timeout)

    def _would_block(self) -> None:
        if self._timeout == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None

    def settimeout(self, value: float | None) -> None:
        """Set the time-out of later calls in seconds: None waits for ever, 0 never waits."""
        self._stream.settimeout(value)
        self._timeout = self._stream.gettimeout()

    def gettimeout(self) -> float | None:
        """Return the time-out in seconds."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` or ``settimeout(0)``."""
        self.settimeout(None if flag else 0)

    def getpeername(self) -> Address:
        """Return the address that this was made for; ``OSError`` (ENOTCONN) without one."""
        if self._address is None:
            raise OSError(errno.ENOTCONN, "this datagram socket has no address")
        return self._address

    def getsockname(self) -> tuple[object, ...]:
        """Return the local TCP address of the session that carries the datagrams."""
        return self._stream.getsockname()

    def fileno(self) -> int:
        """Raise ``io.UnsupportedOperation``: datagrams in the tunnel have no descriptor."""
        raise io.UnsupportedOperation("datagrams in the tunnel have no file descriptor")

    def close(self) -> None:
        """End the stream; any number of times."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "any address" if self._address is None else f"{self._address[0]}:{self._address[1]}"
        return f"<AnyTLSDatagram to {where} over {self._stream!r}>"
