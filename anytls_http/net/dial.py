"""TCP connections to the AnyTLS server: happy eyeballs (RFC 8305) in the caller's thread."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..errors import AnyTLSTimeout, DialError
from .resolve import Address, SocketAddress, resolve, seconds_text
from .socket_options import open_socket, os_error_text
from .steps import step

if TYPE_CHECKING:
    from ..config import DialOptions

__all__ = ["connect_tcp"]

#: What a non-blocking connect() that goes on answers. EAGAIN isn't among them: on Linux it is a failure.
_IN_PROGRESS = {errno.EINPROGRESS, errno.EINTR, getattr(errno, "WSAEWOULDBLOCK", errno.EINPROGRESS)}


#: How often ``cancelled`` is asked while a connection is awaited (seconds).
_CANCEL_INTERVAL = 0.05


def connect_tcp(
    host: str,
    port: int,
    options: DialOptions,
    deadline: float | None,
    cancelled: Callable[[], bool] | None = None,
) -> socket.socket:
    """Return a connected, non-blocking TCP socket to a host, with the outbound's socket options set.

    The addresses of the host are tried with the families interleaved, the next one ``options.fallback_delay``
    seconds after the last, or at once when one fails. The first that connects wins; the others are closed.

    ``deadline`` is absolute ``time.monotonic()`` seconds, or None; ``options.connect_timeout`` (seconds, name
    lookup included) caps it. ``cancelled``: the caller wants no connection any more, once it returns True.

    Raises AnyTLSTimeout at the deadline, and DialError, with the reason of each address, when all fail, and
    when it was cancelled.
    """
    started = time.monotonic()
    limit = started + options.connect_timeout
    if deadline is not None:
        limit = min(limit, deadline)
    with step("resolve", host=host) as found:
        addresses = found["addresses"] = resolve(
            host, port, options.domain_strategy, limit, options.resolver, cancelled
        )
    with step("connect_tcp", addresses=addresses):
        return _connect(host, port, addresses, options, started, limit, cancelled)


def _connect(
    host: str,
    port: int,
    addresses: Iterable[Address],
    options: DialOptions,
    started: float,
    limit: float,
    cancelled: Callable[[], bool] | None,
) -> socket.socket:
    """Return the connection to the first address that takes one; raises as :func:`connect_tcp`."""
    race = _Race(addresses, options)
    try:
        winner = race.run(limit, cancelled)
    finally:
        race.close()
    if winner is not None:
        return winner
    name = _host_port(host, port)
    reasons = "; ".join(race.failures)
    if race.timed_out:
        waited = seconds_text(time.monotonic() - started)
        raise AnyTLSTimeout(f"no answer from {name} within {waited}" + (f" ({reasons})" if reasons else ""))
    if len(race.failures) == 1 and reasons.startswith(f"{name}: "):
        raise DialError(f"could not connect to {reasons}")
    raise DialError(f"could not connect to {name}: {reasons}")


class _Race:
    """Connection attempts to the addresses of one server, side by side.

    The selector's map is the list of attempts under way, so that :meth:`close` finds every socket.
    """

    def __init__(self, addresses: Iterable[Address], options: DialOptions) -> None:
        self.failures: list[str] = []
        self.timed_out = False
        self._options = options
        self._waiting = deque(_interleaved(addresses))
        # poll() takes descriptors above 1,024, which select() doesn't, and costs none itself, as epoll does.
        self._selector: selectors.BaseSelector = getattr(
            selectors, "PollSelector", selectors.DefaultSelector
        )()

    def run(self, deadline: float, cancelled: Callable[[], bool] | None = None) -> socket.socket | None:
        """Return the first socket that connects, or None: then ``timed_out`` and ``failures`` tell why."""
        next_start = 0.0
        while True:
            now = time.monotonic()
            if now >= deadline:
                self.timed_out = True
                return None
            under_way = bool(self._selector.get_map())
            if self._waiting and (now >= next_start or not under_way):
                family, address = self._waiting.popleft()
                failed_before = len(self.failures)
                winner = self._start(family, address)
                if winner is not None:
                    return winner
                if len(self.failures) == failed_before:
                    next_start = now + self._options.fallback_delay
                continue
            if not under_way:
                return None
            wake = min(deadline, next_start) if self._waiting else deadline
            if cancelled is not None:
                if cancelled():
                    self.failures.append("cancelled")
                    return None
                wake = min(wake, now + _CANCEL_INTERVAL)
            for key, _ in self._selector.select(wake - now):
                winner = self._finish(key)
                if winner is not None:
                    return winner
                next_start = 0.0

    def close(self) -> None:
        """Close the sockets of all attempts that are still under way."""
        for key in list(self._selector.get_map().values()):
            _socket_of(key).close()
        self._selector.close()

    def _start(self, family: socket.AddressFamily, address: SocketAddress) -> socket.socket | None:
        try:
            sock = open_socket(family, self._options)
        except DialError as exc:
            self._failed(address, str(exc))
            return None
        try:
            code = sock.connect_ex(address)
            if code in _IN_PROGRESS:
                self._selector.register(sock, selectors.EVENT_WRITE, address)
                return None
            return self._settled(sock, address, code)
        except OSError as exc:
            sock.close()
            self._failed(address, os_error_text(exc))
            return None
        except BaseException:
            sock.close()
            raise

    def _finish(self, key: selectors.SelectorKey) -> socket.socket | None:
        sock = _socket_of(key)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._selector.unregister(sock)
        return self._settled(sock, key.data, code)

    def _settled(self, sock: socket.socket, address: SocketAddress, code: int) -> socket.socket | None:
        """Tell whether an attempt that has come to its end, with this error number, is the winner."""
        if code == 0:
            try:
                if sock.getsockname() != sock.getpeername():
                    return sock
                # Nobody listens, and the kernel picked as source port the very port that it was to connect
                # to: such a socket talks to itself. Happens with ephemeral ports on the own machine.
                code = errno.ECONNREFUSED
            except OSError as exc:
                code = exc.errno or errno.ENOTCONN  # It was reset since.
        sock.close()
        self._failed(address, os.strerror(code))
        return None

    def _failed(self, address: SocketAddress, reason: str) -> None:
        self.failures.append(f"{_host_port(address[0], address[1])}: {reason}")


def _socket_of(key: selectors.SelectorKey) -> socket.socket:
    sock = key.fileobj
    assert isinstance(sock, socket.socket)
    return sock


def _interleaved(addresses: Iterable[Address]) -> list[Address]:
    """Let the families take turns, each in its own order; the family of the first address begins."""
    by_family: dict[socket.AddressFamily, deque[Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], deque()).append(address)
    result: list[Address] = []
    while by_family:
        for family, queue in list(by_family.items()):
            result.append(queue.popleft())
            if not queue:
                del by_family[family]
    return result


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
