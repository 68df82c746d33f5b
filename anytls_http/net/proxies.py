"""The client's part of SOCKS 5, SOCKS 4a and HTTP CONNECT, on a connected non-blocking socket.

Of our own rather than ``python-socks``: see docs/decisions.md. Nothing is read beyond the proxy's answer, so
that the socket is the target's from the next byte on, and one absolute deadline counts for all of it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterable

from ..errors import AnyTLSTimeout, DialError
from .waiting import ReadWaiter, earlier, wait_writable

__all__ = ["http_connect", "socks4_connect", "socks5_connect"]

#: How often ``cancelled`` is asked while the proxy is awaited (seconds).
_CANCEL_INTERVAL = 0.05
#: Most bytes of the head of an HTTP answer.
_LONGEST_HEAD = 64 * 1024
_LONGEST_NAME = 255
_LONGEST_SHOWN = 100

_SOCKS5_REPLIES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "command not supported",
    8: "address type not supported",
}
_SOCKS4_REPLIES = {91: "refused or failed", 92: "it can't reach an identd here", 93: "another user"}
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: ([^\r\n]*))?")


class _Exchange:
    """Sending and receiving with one deadline and a way to be called off."""

    def __init__(
        self, sock: socket.socket, deadline: float | None, cancelled: Callable[[], bool] | None
    ) -> None:
        self._sock = sock
        self._deadline = deadline
        self._cancelled = cancelled

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                self._wait(lambda until: wait_writable(self._sock.fileno(), until))
            except OSError as exc:
                raise DialError(f"the connection broke: {exc.strerror or exc}") from exc

    def receive(self, count: int, flags: int = 0) -> bytes:
        """Return up to ``count`` bytes, at least one."""
        while True:
            try:
                data = self._sock.recv(count, flags)
            except BlockingIOError:
                self._wait(ReadWaiter(self._sock.fileno()).wait)
            except OSError as exc:
                raise DialError(f"the connection broke: {exc.strerror or exc}") from exc
            else:
                if not data:
                    raise DialError("it closed the connection instead of an answer")
                return data

    def receive_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self.receive(count - len(data))
        return data

    def _wait(self, wait: Callable[[float | None], None]) -> None:
        while True:
            if self._cancelled is not None and self._cancelled():
                raise DialError("cancelled")
            now = time.monotonic()
            if self._deadline is not None and now >= self._deadline:
                raise AnyTLSTimeout("no answer in time")
            slice_end = None if self._cancelled is None else now + _CANCEL_INTERVAL
            try:
                wait(earlier(self._deadline, slice_end))
            except AnyTLSTimeout:
                continue
            return


def socks5_connect(
    sock: socket.socket,
    host: str,
    port: int,
    user: tuple[str, str] | None,
    deadline: float | None,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """Have a SOCKS 5 proxy connect ``sock`` to a target, whose name it looks up itself (RFC 1928, 1929).

    ``user`` is (name, password). Raises DialError, and AnyTLSTimeout at ``deadline``.
    """
    exchange = _Exchange(sock, deadline, cancelled)
    # Where there is a user, nothing else is offered: the proxy must not take him for anybody.
    exchange.send(b"\x05\x01\x00" if user is None else b"\x05\x02\x00\x02")
    version, method = exchange.receive_exactly(2)
    if version != 5:
        raise DialError("it is no SOCKS 5 proxy")
    if method == 2 and user is not None:
        name, password = (text.encode() for text in user)
        exchange.send(bytes([1, len(name)]) + name + bytes([len(password)]) + password)
        if exchange.receive_exactly(2)[1] != 0:
            raise DialError("it refused the username and password")
    elif method == 0xFF:
        raise DialError("it wants a username and a password" if user is None else "it refused to log in")
    elif method != 0:
        raise DialError(f"it chose a way to log in that it wasn't offered ({method})")
    exchange.send(b"\x05\x01\x00" + _socks5_address(host) + port.to_bytes(2))
    version, reply, _, kind = exchange.receive_exactly(4)
    if version != 5:
        raise DialError("it is no SOCKS 5 proxy")
    if reply != 0:
        raise DialError(f"it answered: {_SOCKS5_REPLIES.get(reply, f'error {reply}')}")
    if kind not in (1, 3, 4):
        raise DialError(f"its answer has an unknown type of address ({kind})")
    length = exchange.receive_exactly(1)[0] if kind == 3 else {1: 4, 4: 16}[kind]
    exchange.receive_exactly(length + 2)


def socks4_connect(
    sock: socket.socket,
    host: str,
    port: int,
    username: str | None,
    deadline: float | None,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """Have a SOCKS 4a proxy connect ``sock`` to a target, whose name it looks up itself.

    Raises DialError, and AnyTLSTimeout at ``deadline``.
    """
    address = _ip_address(host)
    if address is not None and address.version == 6:
        raise DialError("SOCKS 4 can't carry an IPv6 address")
    # 4a: an impossible address, and the name after the user's.
    packed = b"\0\0\0\x01" if address is None else address.packed
    name = b"" if address is not None else _name(host) + b"\0"
    exchange = _Exchange(sock, deadline, cancelled)
    exchange.send(b"\x04\x01" + port.to_bytes(2) + packed + (username or "").encode() + b"\0" + name)
    version, reply = exchange.receive_exactly(8)[:2]
    if version not in (0, 4):
        raise DialError("it is no SOCKS 4 proxy")
    if reply != 90:
        raise DialError(f"it answered: {_SOCKS4_REPLIES.get(reply, f'error {reply}')}")


def http_connect(
    sock: socket.socket,
    host: str,
    port: int,
    headers: Iterable[tuple[str, str]],
    deadline: float | None,
    cancelled: Callable[[], bool] | None = None,
) -> None:
    """Have an HTTP proxy connect ``sock`` to a target, whose name it looks up itself (CONNECT).

    ``headers`` are sent besides ``Host``, which they may replace. Raises DialError, and AnyTLSTimeout at
    ``deadline``.
    """
    address = _ip_address(host)
    literal = address is not None and address.version == 6
    target = f"[{host}]:{port}" if literal else f"{host if address else _name(host).decode()}:{port}"
    sent = list(headers)
    if not any(name.lower() == "host" for name, _ in sent):
        sent.insert(0, ("Host", target))
    lines = [f"CONNECT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent), "", ""]
    exchange = _Exchange(sock, deadline, cancelled)
    exchange.send("\r\n".join(lines).encode("ascii"))
    head = _http_head(exchange)
    match = _STATUS_LINE.match(head)
    if match is None:
        raise DialError("it is no HTTP proxy: " + ascii(head[:_LONGEST_SHOWN])[1:])
    status = int(match[1])
    if not 200 <= status < 300:
        words = (match[2] or b"").decode("latin-1").strip()
        shown = f"{status} {words[:_LONGEST_SHOWN]}" if words.isprintable() else str(status)
        raise DialError(f"it answered: {shown.strip()}")


def _http_head(exchange: _Exchange) -> bytes:
    """Return the head of the answer, and leave in the socket what comes after it."""
    head = b""
    while len(head) < _LONGEST_HEAD:
        # Looked at first: of what follows the head, not a byte may be taken.
        seen = exchange.receive(4096, socket.MSG_PEEK)
        end = (head + seen).find(b"\r\n\r\n")
        take = len(seen) if end < 0 else end + 4 - len(head)
        head += exchange.receive_exactly(take)
        if end >= 0:
            return head
        if not b"HTTP/1.".startswith(head[:7]):
            return head  # not HTTP: the rest need not come
    raise DialError("the head of its answer has no end")


def _socks5_address(host: str) -> bytes:
    address = _ip_address(host)
    if address is not None:
        return (b"\x01" if address.version == 4 else b"\x04") + address.packed
    name = _name(host)
    return bytes([3, len(name)]) + name


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _name(host: str) -> bytes:
    """Return a host name as it goes over the wire."""
    try:
        name = host.encode("idna")
    except UnicodeError as exc:
        raise DialError(f'"{host}" is no host name') from exc
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise DialError(f'"{host}" is no host name')
    return name
