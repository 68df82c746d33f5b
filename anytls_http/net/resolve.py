"""Name lookup with a deadline.

``getaddrinfo`` can't be interrupted, so a name is looked up on a short-lived daemon thread and the caller
waits for it no longer than it may. IP addresses are taken as they are, without any lookup.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..errors import AnyTLSError, AnyTLSTimeout, DialError

if TYPE_CHECKING:
    from ..config.dns import DNSServer

__all__ = ["Address", "SocketAddress", "resolve", "seconds_text"]

#: What ``socket.connect`` takes: (host, port) for IPv4, (host, port, flow info, scope id) for IPv6.
SocketAddress = tuple[str, int] | tuple[str, int, int, int]
Address = tuple[socket.AddressFamily, SocketAddress]

_FAMILY_NAMES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
_PREFERRED = {"prefer_ipv4": socket.AF_INET, "prefer_ipv6": socket.AF_INET6}
#: How often ``cancelled`` is asked while the answer is awaited (seconds).
_CANCEL_INTERVAL = 0.05
_ONLY = {"ipv4_only": socket.AF_INET, "ipv6_only": socket.AF_INET6}


def resolve(
    host: str,
    port: int,
    strategy: str,
    deadline: float | None,
    server: DNSServer | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Address]:
    """Return the addresses of a host, the ones to be tried first at the front.

    ``strategy`` is the outbound's ``domain_strategy``: ``""`` keeps the system's order, ``prefer_ipv4`` and
    ``prefer_ipv6`` move a family to the front, ``ipv4_only`` and ``ipv6_only`` drop the other one. As in
    sing-box it is about names: an IP address as ``host`` is returned whatever its family.

    ``deadline`` is absolute ``time.monotonic()`` seconds, or None to wait for as long as the system does.
    ``server`` is who is asked, None for the system. ``cancelled``: the caller wants no answer any more,
    once it returns True.

    Raises AnyTLSTimeout at the deadline, and DialError when the lookup fails, leaves no address or was
    cancelled.
    """
    literal = _ip_literal(host, port)
    if literal is not None:
        return [literal]
    started = time.monotonic()
    if deadline is not None and started >= deadline:
        raise AnyTLSTimeout(f'no time left for the name lookup of "{host}"')
    wanted = _ONLY.get(strategy, socket.AF_UNSPEC)
    lookup = _join_or_start(host, port, wanted, server)
    if not _wait(lookup.done, deadline, cancelled):
        if cancelled is not None and cancelled():
            raise DialError(f'name lookup of "{host}" was cancelled')
        waited = seconds_text(time.monotonic() - started)
        raise AnyTLSTimeout(f'name lookup of "{host}" timed out after {waited}')
    if lookup.failure is not None:
        kind = f"{_FAMILY_NAMES[wanted]} name lookup" if strategy in _ONLY else "name lookup"
        raise DialError(f'{kind} of "{host}" failed: {lookup.failure}')
    addresses = _ordered(lookup.addresses, strategy)
    if not addresses:
        if strategy in _ONLY:
            raise DialError(
                f'"{host}" has no {_FAMILY_NAMES[wanted]} address (domain_strategy is {strategy})'
            )
        raise DialError(f'name lookup of "{host}" found no address')
    return addresses


def _wait(done: threading.Event, deadline: float | None, cancelled: Callable[[], bool] | None) -> bool:
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if cancelled is None:
            return done.wait(left)
        if done.wait(_CANCEL_INTERVAL if left is None else min(left, _CANCEL_INTERVAL)):
            return True
        if left == 0 or cancelled():
            return False


def seconds_text(seconds: float) -> str:
    """Write a duration for an error message: ``5 s``, ``0.25 s``."""
    return f"{round(max(0.0, seconds), 2):g} s"


def _ip_literal(host: str, port: int) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return socket.AF_INET, (host, port)
    if address.scope_id is None:
        return socket.AF_INET6, (host, port, 0, 0)
    try:
        # The system turns the interface's name into its number; AI_NUMERICHOST keeps it from asking a server.
        found = socket.getaddrinfo(host, port, socket.AF_INET6, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except OSError as exc:
        raise DialError(f'"{host}" is not usable as an address here: {exc.strerror or exc}') from exc
    return _usable(found)[0]


def _ordered(addresses: Iterable[Address], strategy: str) -> list[Address]:
    if strategy in _ONLY:
        return [address for address in addresses if address[0] == _ONLY[strategy]]
    if strategy in _PREFERRED:
        return sorted(addresses, key=lambda address: address[0] != _PREFERRED[strategy])
    return list(addresses)


def _usable(found: Iterable[tuple[socket.AddressFamily, object, object, object, object]]) -> list[Address]:
    addresses: dict[Address, None] = {}  # A dict, to drop duplicates and keep the order.
    for family, _, _, _, address in found:
        # A Python without IPv6 gives (int, bytes) for an IPv6 address: of no use.
        if family in _FAMILY_NAMES and isinstance(address, tuple) and isinstance(address[0], str):
            addresses[(family, address)] = None
    return list(addresses)


def _asked(host: str, port: int, family: socket.AddressFamily, server: DNSServer) -> list[Address]:
    """Return what a DNS server of the configuration says."""
    try:
        from .dns import look_up
    except ImportError as exc:
        raise DialError(f"domain_resolver needs dnspython: pip install 'anytls_http[dns]' ({exc})") from exc
    families = [socket.AF_INET6, socket.AF_INET] if family == socket.AF_UNSPEC else [family]
    found = [_ip_literal(address, port) for address in look_up(host, families, server)]
    return list(filter(None, found))


class _Lookup:
    """One lookup (``getaddrinfo``, or at a DNS server) and what came of it; read the results once ``done`` is set."""

    def __init__(self, host: str, port: int, family: socket.AddressFamily, server: DNSServer | None) -> None:
        self.key = (host, port, family, server)
        self.done = threading.Event()
        self.addresses: list[Address] = []
        self.failure: str | None = None

    def start(self) -> None:
        thread = threading.Thread(target=self.run, name=f"anytls-lookup-{self.key[0]}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No thread to be had (a limit, or the interpreter is exiting): late is better than never.
            self.run()

    def run(self) -> None:
        host, port, family, server = self.key
        failure: str | None = "the lookup was interrupted"
        addresses: list[Address] = []
        try:
            if server is None:
                addresses = _usable(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))
            else:
                addresses = _asked(host, port, family, server)
            failure = None
        except AnyTLSError as exc:
            failure = str(exc)
        except (OSError, ValueError, OverflowError) as exc:
            # ValueError: the name can't be written in IDNA (an empty or too long label), or holds a NUL.
            failure = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
        finally:
            self.finish(addresses, failure)

    def finish(self, addresses: list[Address], failure: str | None) -> None:
        """Publish the result, to those who wait; the first result stands."""
        with _lock:
            if self.done.is_set():
                return
            self.addresses, self.failure = addresses, failure
            if _in_flight.get(self.key) is self:
                del _in_flight[self.key]
            self.done.set()


_lock = threading.Lock()
#: Lookups that still run. Whoever asks for the same name joins: a resolver that hangs costs one thread.
_in_flight: dict[tuple[str, int, socket.AddressFamily, DNSServer | None], _Lookup] = {}


def _join_or_start(host: str, port: int, family: socket.AddressFamily, server: DNSServer | None) -> _Lookup:
    lookup = _Lookup(host, port, family, server)
    with _lock:
        running = _in_flight.setdefault(lookup.key, lookup)
    if running is lookup:
        try:
            lookup.start()
        except BaseException:
            # Ctrl-C here must not leave a lookup behind that others would wait for and nobody does.
            lookup.finish([], "the lookup was interrupted")
            raise
    return running


def _forget_lookups() -> None:
    """In a forked child: the threads are gone, and the lock may have been held by one of them."""
    global _lock
    _lock = threading.Lock()
    _in_flight.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lookups)
