"""TCP sockets made as the outbound's dial fields say.

Option numbers that Python's ``socket`` module doesn't name in every version are given here; each is used
only on the platform it belongs to.
"""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING

from ..errors import DialError
from .namespaces import socket_inside

if TYPE_CHECKING:
    from ..config import DialOptions

__all__ = ["open_socket", "os_error_text"]

_SO_BINDTODEVICE: int = getattr(socket, "SO_BINDTODEVICE", 25)  # Linux
_SO_MARK: int = getattr(socket, "SO_MARK", 36)  # Linux
_IP_BIND_ADDRESS_NO_PORT: int = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)  # Linux
_IP_BOUND_IF = 25  # macOS
_IPV6_BOUND_IF = 125  # macOS
_IPPROTO_MPTCP: int = getattr(socket, "IPPROTO_MPTCP", 262)  # Linux
#: macOS calls the idle time before the first probe TCP_KEEPALIVE.
_TCP_KEEPIDLE: int | None = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_TCP_KEEPINTVL: int | None = getattr(socket, "TCP_KEEPINTVL", None)
#: Linux refuses keep-alive times above this (MAX_TCP_KEEPIDLE), in seconds.
_MAX_KEEP_ALIVE = 32767


def open_socket(family: socket.AddressFamily, options: DialOptions) -> socket.socket:
    """Return a non-blocking TCP socket, not yet connected, with everything set that ``options`` ask for.

    Raises DialError in plain words when the system refuses one of them or has no socket left.
    """
    sock, multi_path = _new_socket(family, options)
    try:
        sock.setblocking(False)
        _set_tcp_options(sock, options, tolerant=multi_path)
        if options.routing_mark is not None:
            _set_routing_mark(sock, options.routing_mark)
        if options.bind_interface is not None:
            _bind_interface(sock, family, options.bind_interface)
        if options.reuse_addr:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        source = options.inet4_bind_address if family == socket.AF_INET else options.inet6_bind_address
        if source is not None:
            _bind_address(sock, source, no_port=options.bind_address_no_port)
    except OSError as exc:
        sock.close()
        if isinstance(exc, DialError):
            raise
        raise DialError(f"a socket option was refused: {os_error_text(exc)}") from exc
    except BaseException:
        sock.close()
        raise
    return sock


def os_error_text(exc: OSError) -> str:
    """Say in plain words what a system error means."""
    if exc.errno == errno.EMFILE:
        return "this process has no file descriptor left (EMFILE; see `ulimit -n`)"
    if exc.errno == errno.ENFILE:
        return "this machine has no file descriptor left (ENFILE)"
    return exc.strerror or str(exc)


def _new_socket(family: socket.AddressFamily, options: DialOptions) -> tuple[socket.socket, bool]:
    """Return a socket, and whether it is a multi-path one."""

    def make(protocol: int) -> socket.socket:
        if options.netns is None:
            return socket.socket(family, socket.SOCK_STREAM, protocol)
        return socket_inside(options.netns, lambda: socket.socket(family, socket.SOCK_STREAM, protocol))

    if options.tcp_multi_path:
        try:
            return make(_IPPROTO_MPTCP), True
        except DialError:
            raise
        except OSError as exc:
            # No such protocol in this kernel, or switched off by sysctl: plain TCP, as sing-box does.
            if exc.errno in (errno.EMFILE, errno.ENFILE):
                raise DialError(os_error_text(exc)) from exc
    try:
        return make(socket.IPPROTO_TCP), False
    except DialError:
        raise
    except OSError as exc:
        raise DialError(os_error_text(exc)) from exc


def _set_tcp_options(sock: socket.socket, options: DialOptions, *, tolerant: bool) -> None:
    wanted = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if not options.disable_tcp_keep_alive:
        wanted.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
        for option, seconds in (
            (_TCP_KEEPIDLE, options.tcp_keep_alive),
            (_TCP_KEEPINTVL, options.tcp_keep_alive_interval),
        ):
            if option is not None:
                wanted.append((socket.IPPROTO_TCP, option, min(max(1, round(seconds)), _MAX_KEEP_ALIVE)))
    for level, option, value in wanted:
        try:
            sock.setsockopt(level, option, value)
        except OSError:
            # Multi-path sockets of older kernels know few TCP options; their defaults will do.
            if not tolerant:
                raise


def _set_routing_mark(sock: socket.socket, mark: int) -> None:
    if sys.platform != "linux":
        raise DialError(f"routing_mark is not possible on {sys.platform}")
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    except PermissionError as exc:
        raise DialError(f"not permitted to set routing_mark {mark}: it needs root or CAP_NET_ADMIN") from exc


def _bind_interface(sock: socket.socket, family: socket.AddressFamily, name: str) -> None:
    try:
        if sys.platform == "linux":
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, name.encode() + b"\0")
        elif sys.platform == "darwin":
            index = socket.if_nametoindex(name)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_BOUND_IF, index)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_BOUND_IF, index)
        else:
            raise DialError(f"bind_interface is not possible on {sys.platform}")
    except PermissionError as exc:
        raise DialError(
            f'not permitted to bind to the network interface "{name}": it needs root or CAP_NET_RAW'
        ) from exc
    except OSError as exc:
        if isinstance(exc, DialError):
            raise
        raise DialError(f'cannot bind to the network interface "{name}": {os_error_text(exc)}') from exc


def _bind_address(sock: socket.socket, source: str, *, no_port: bool) -> None:
    if no_port:
        if sys.platform != "linux":
            raise DialError(f"bind_address_no_port is not possible on {sys.platform}")
        # The port is then picked at connect(), so that one source address serves more than 64 K connections.
        # The option is IPv4's by name, and acts on IPv6 sockets as well.
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    try:
        sock.bind((source, 0))
    except OSError as exc:
        raise DialError(f"cannot bind to the source address {source}: {os_error_text(exc)}") from exc
