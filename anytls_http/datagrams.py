"""Datagrams through the tunnel: :class:`AnyTLSDatagram`, made by :meth:`AnyTLSClient.create_datagram`.

They travel in streams (UDP over TCP, version 2), so they arrive in order and none is lost between this
process and the server; from there on they are UDP. What goes to IP addresses shares one stream; each name
has one of its own, since sing-box resolves the names of whole streams only.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import math
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from .datagram_channels import Channel, Channels
from .errors import AnyTLSTimeout, SessionClosed, StreamRefused
from .net.waiting import AT_ONCE, LONGEST_WAIT, deadline_after, remaining, valid_timeout, wait_writable
from .protocol.uot import MAX_DATAGRAM, Address
from .sockets import AnyTLSSocket

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import Buffer

__all__ = ["AnyTLSDatagram"]

logger = logging.getLogger("anytls_http.datagrams")

#: Bytes that a socket which doesn't block keeps for a stream that doesn't take them.
MAX_WAITING = 128 * 1024


class AnyTLSDatagram:
    """A UDP socket on the server's side: ``sendto recvfrom send recv settimeout close getpeername``.

    One thread may receive while another sends. Datagrams hold up to 65,507 bytes; sing-box takes up to
    16,384 (a larger one ends the stream) and cuts what comes back at that.
    """

    type = socket.SOCK_DGRAM
    proto = socket.IPPROTO_UDP

    def __init__(
        self, open_stream: Callable[[], AnyTLSSocket], address: Address | None, timeout: float | None
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._closed = False
        self._reader = threading.Lock()
        self._writer = threading.Lock()  # of the channels, too
        try:
            self._channels = Channels(open_stream, address)
        except ValueError as exc:
            raise StreamRefused(f"{address} can't be a target: {exc}") from exc
        # Wakes who receives: there is one more channel, or none any more.
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)

    # -- sending ---------------------------------------------------------------------------------------

    def send(self, data: Buffer, flags: int = 0) -> int:
        """Send one datagram to the address that this was made for. Raises as :meth:`sendto`."""
        if self._address is None:
            raise OSError(errno.EDESTADDRREQ, "this datagram socket has no address: use sendto")
        return self.sendto(data, self._address)

    def sendto(self, data: Buffer, address: Address) -> int:
        """Send one datagram to ``address`` (host or IP address, port); the server resolves a name.

        Raises :class:`AnyTLSTimeout` after the time-out, ``OSError`` (EMSGSIZE) over 65,507 bytes,
        :class:`StreamRefused` and :class:`SessionClosed` when the stream has ended. Where it was made for one
        address, any other is ``OSError`` (EISCONN).
        """
        address = (address[0], address[1])
        size = memoryview(data).nbytes
        if self._address is not None and address != self._address:
            raise OSError(errno.EISCONN, "this datagram socket was made for another address")
        if size > MAX_DATAGRAM:
            raise OSError(errno.EMSGSIZE, f"a datagram holds at most {MAX_DATAGRAM} bytes, not {size}")
        deadline = self._deadline()
        self._acquire(self._writer, deadline)
        try:
            before = len(self._channels.all())
            channel = self._channels.put(data, address)
            if len(self._channels.all()) != before:
                self._wake()
            is_sent = self._flush(channel)
        except ValueError as exc:
            raise OSError(errno.EINVAL, f"{address} can't be a target: {exc}") from exc
        except AnyTLSTimeout:
            self._would_block()
            raise
        finally:
            self._writer.release()
        # One datagram may wait for the stream (every later call passes it on); the next one waits here, without the
        # writer's role: who receives needs it for a moment.
        while not is_sent and (channel.unsent > MAX_WAITING or deadline != AT_ONCE):
            descriptor = channel.sock.fileno()
            if descriptor < 0:
                break  # it has ended meanwhile
            try:
                wait_writable(descriptor, deadline)
            except AnyTLSTimeout:
                self._would_block()
                raise
            self._acquire(self._writer, deadline)
            try:
                is_sent = self._flush(channel)
            finally:
                self._writer.release()
        return size

    def _flush(self, channel: Channel) -> bool:
        """Send what goes at once; True when nothing is left. The caller has the writer's role."""
        try:
            return channel.flush()
        except (SessionClosed, StreamRefused) as exc:
            self._lose(channel, exc)
            return True

    def _lose(self, channel: Channel, exc: OSError) -> None:
        """Forget a channel that has ended, or raise ``exc``. The caller has the writer's role."""
        self._check_open()
        if not self._channels.drop(channel):
            raise exc
        logger.info("datagrams to %a: %a", channel.address, str(exc))  # one name of many: lost, as UDP is

    # -- receiving -------------------------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """As :meth:`recvfrom`, without the address."""
        return self.recvfrom(bufsize)[0]

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Address]:
        """Return the next datagram and where it came from; what is over ``bufsize`` bytes of it is lost.

        Raises as :meth:`sendto`.
        """
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        deadline = self._deadline()
        self._acquire(self._reader, deadline)
        try:
            while True:
                channels = self._flushed()
                for channel in channels:
                    datagram = self._next(channel)
                    if datagram is not None:
                        return datagram[0][:bufsize], datagram[1]
                self._wait(channels, deadline)
        finally:
            self._reader.release()

    def _flushed(self) -> list[Channel]:
        """Return the channels, with what waited for their streams sent as far as it goes."""
        with self._writer:
            for channel in self._channels.all():
                if channel.unsent:
                    self._flush(channel)
            return self._channels.all()

    def _next(self, channel: Channel) -> tuple[bytes, Address] | None:
        try:
            while True:
                datagram = channel.next()
                if datagram is not None or not channel.receive():
                    return datagram
        except (SessionClosed, StreamRefused) as exc:
            with self._writer:
                self._lose(channel, exc)
            return None

    def _wait(self, channels: list[Channel], deadline: float | None) -> None:
        self._check_open()
        # Those that have ended meanwhile have no descriptor.
        open_ones = [(fd, channel) for channel in channels if (fd := channel.sock.fileno()) >= 0]
        reading = [self._wake_reader.fileno(), *(fd for fd, _ in open_ones)]
        writing = [fd for fd, channel in open_ones if channel.unsent]
        if not _wait_any(reading, writing, deadline):
            self._would_block()
            raise AnyTLSTimeout("timed out while waiting for a datagram")
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(100)

    def _acquire(self, lock: threading.Lock, deadline: float | None) -> None:
        if not lock.acquire(timeout=remaining(deadline)):
            self._would_block()
            raise AnyTLSTimeout("timed out while another thread was using the socket")
        try:
            self._check_open()
        except BaseException:
            lock.release()
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the socket is closed")

    def _deadline(self) -> float | None:
        return AT_ONCE if self._timeout == 0 else deadline_after(self._timeout)

    def _would_block(self) -> None:
        if self._timeout == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"\0")

    # -- as socket.socket ------------------------------------------------------------------------------

    def settimeout(self, value: float | None) -> None:
        """Set the time-out of later calls in seconds: None waits for ever, 0 never waits."""
        self._timeout = valid_timeout(value)

    def gettimeout(self) -> float | None:
        """Return the time-out in seconds."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """``settimeout(None)`` or ``settimeout(0)``."""
        self.settimeout(None if flag else 0)

    def getpeername(self) -> Address:
        """Return the address that this was made for; ``OSError`` (ENOTCONN) without one."""
        self._check_open()
        if self._address is None:
            raise OSError(errno.ENOTCONN, "this datagram socket has no address")
        return self._address

    def fileno(self) -> int:
        """Return -1 when closed, else raise ``io.UnsupportedOperation``: datagrams in the tunnel have no descriptor."""
        if self._closed:
            return -1
        raise io.UnsupportedOperation("datagrams in the tunnel have no file descriptor")

    def close(self) -> None:
        """End the streams and wake who is inside; any number of times."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        for channel in self._channels.all():
            channel.wake()
        with self._reader, self._writer:
            self._channels.close()
            self._wake_reader.close()
            self._wake_writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "any address" if self._address is None else f"{self._address[0]}:{self._address[1]}"
        return f"<AnyTLSDatagram to {where}{', closed' if self._closed else ''}>"


def _wait_any(reading: list[int], writing: list[int], deadline: float | None) -> bool:
    """Wait until one of them can be read, or written; False at the deadline."""
    seconds = None if deadline is None else min(LONGEST_WAIT, remaining(deadline))
    if not hasattr(select, "poll"):
        return any(select.select(reading, writing, [], seconds)[:2])
    poller = select.poll()
    for fd in reading:
        poller.register(fd, select.POLLIN | (select.POLLOUT if fd in writing else 0))
    return bool(poller.poll(None if seconds is None else math.ceil(seconds * 1000)))
