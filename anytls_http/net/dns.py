"""Lookups at a DNS server of the configuration, through ``dnspython`` (extra ``dns``).

The module is imported with the first such lookup only, and dnspython by it.
"""

from __future__ import annotations

import functools
import queue
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.message
import dns.nameserver
import dns.query
import dns.resolver

from ..errors import AnyTLSError, DialError
from .contexts import TLSContexts
from .resolve import resolve

if TYPE_CHECKING:
    from ..config.dns import DNSServer

__all__ = ["QUERY_TIMEOUT", "look_up"]

#: Seconds that one lookup may take; who waits for it may have less.
QUERY_TIMEOUT = 10.0
#: Seconds to wait for the answer about one family once there are addresses of the other: some servers
#: never answer what they don't know.
OTHER_FAMILY_PATIENCE = 0.5

_RECORDS = {socket.AF_INET: "A", socket.AF_INET6: "AAAA"}


def look_up(host: str, families: Sequence[socket.AddressFamily], server: DNSServer) -> list[str]:
    """Return the addresses that ``server`` knows of a name, those of the first family first.

    The families are asked for at the same time, each on a thread of its own. Takes :data:`QUERY_TIMEOUT`
    seconds at the most. Raises DialError, naming the server, where there is no answer of use.
    """
    limit = time.monotonic() + QUERY_TIMEOUT
    nameservers = _nameservers(server, limit)
    if len(families) == 1:
        return _ask(host, families[0], server, nameservers, limit)
    answers: queue.SimpleQueue[tuple[socket.AddressFamily, list[str], AnyTLSError | None]] = (
        queue.SimpleQueue()
    )

    def ask(family: socket.AddressFamily) -> None:
        try:
            answers.put((family, _ask(host, family, server, nameservers, limit), None))
        except AnyTLSError as exc:
            answers.put((family, [], exc))

    for family in families:
        threading.Thread(target=ask, args=(family,), name=f"anytls-dns-{host}", daemon=True).start()
    found: dict[socket.AddressFamily, list[str]] = {}
    problem: AnyTLSError | None = None
    for _ in families:
        patience = OTHER_FAMILY_PATIENCE if any(found.values()) else max(0.0, limit - time.monotonic())
        try:
            family, addresses, exc = answers.get(timeout=patience)
        except queue.Empty:
            problem = problem or DialError(f"no answer from {server.describe()}")
            break
        found[family] = addresses
        problem = problem or exc
    addresses = [address for family in families for address in found.get(family, ())]
    if not addresses and problem is not None:
        raise problem
    return addresses


def _ask(
    host: str,
    family: socket.AddressFamily,
    server: DNSServer,
    nameservers: Sequence[dns.nameserver.Nameserver],
    limit: float,
) -> list[str]:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = list(nameservers)
    # CNAMEs are followed, lost packets sent again and truncated answers asked for by TCP in here.
    try:
        answer = resolver.resolve(
            host,
            _RECORDS[family],
            tcp=server.type == "tcp",
            search=False,
            raise_on_no_answer=False,
            lifetime=max(0.001, limit - time.monotonic()),
        )
    except dns.resolver.NXDOMAIN:
        raise DialError(f"{server.describe()} says that the name doesn't exist") from None
    except dns.exception.Timeout:
        raise DialError(f"no answer from {server.describe()}") from None
    except dns.resolver.NoNameservers as exc:
        raise DialError(f"{server.describe()}: {_reason(exc)}") from None
    except dns.exception.DNSException as exc:
        raise DialError(f"{server.describe()}: {exc or type(exc).__name__}") from None
    return [] if answer.rrset is None else [record.address for record in answer.rrset]


def _reason(exc: dns.resolver.NoNameservers) -> str:
    """Say why a server was given up: what it answered, or what went wrong on the way."""
    errors = exc.kwargs.get("errors") or []
    if not errors:
        return "no answer of use"
    problem = errors[-1][3]
    if isinstance(problem, dns.query.NoDOH):
        return "lookups by https need more: pip install 'anytls_http[dns]'"
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted: {problem.verify_message}"
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    return str(problem) or type(problem).__name__


def _nameservers(server: DNSServer, limit: float) -> list[dns.nameserver.Nameserver]:
    """Return the server as dnspython takes it, once for each of its own addresses."""
    addresses = resolve(server.server, server.server_port, server.domain_strategy, limit, server.resolver)
    hosts = [address[0] for _, address in addresses]
    if server.type == "tls":
        return [_TLSNameserver(host, server) for host in hosts]
    if server.type == "https":
        return [_HTTPSNameserver(host, server) for host in hosts]
    return [dns.nameserver.Do53Nameserver(host, server.server_port) for host in hosts]


@functools.lru_cache(maxsize=16)
def _contexts(server: DNSServer) -> TLSContexts:
    return TLSContexts(server.tls, server.server)


class _TLSNameserver(dns.nameserver.AddressAndPortNameserver):
    """dnspython's own has no place for an SSL context."""

    def __init__(self, address: str, server: DNSServer) -> None:
        super().__init__(address, server.server_port)
        self._contexts = _contexts(server)

    def kind(self) -> str:
        return "DoT"

    def is_always_max_size(self) -> bool:
        return True

    def query(
        self, request: dns.message.QueryMessage, timeout: float, *args: Any, **kwargs: Any
    ) -> dns.message.Message:
        return dns.query.tls(
            request,
            self.address,
            timeout,
            self.port,
            ssl_context=self._contexts.context(),
            server_hostname=self._contexts.server_hostname,
        )


class _HTTPSNameserver(dns.nameserver.Nameserver):
    """Likewise; the name of the certificate is the one of the URL."""

    def __init__(self, address: str, server: DNSServer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._contexts = _contexts(server)
        self._address = address
        self._port = server.server_port
        name = server.tls.server_name or server.server
        self._url = f"https://{f'[{name}]' if ':' in name else name}:{self._port}{server.path}"

    def __str__(self) -> str:
        return self._url

    def kind(self) -> str:
        return "DoH"

    def is_always_max_size(self) -> bool:
        return True

    def answer_nameserver(self) -> str:
        return self._url

    def answer_port(self) -> int:
        return self._port

    def query(
        self, request: dns.message.QueryMessage, timeout: float, *args: Any, **kwargs: Any
    ) -> dns.message.Message:
        context = self._contexts.context()
        try:
            # It takes a context, as httpx does; only its annotation doesn't say so in every version.
            return dns.query.https(
                request,
                self._url,
                timeout,
                bootstrap_address=self._address,
                verify=context,  # type: ignore[arg-type,unused-ignore]
            )
        except (OSError, dns.exception.DNSException):
            raise
        except Exception as exc:  # noqa: BLE001 - httpx's or httpx2's, by the version of dnspython
            # dnspython itself would try it again and again until the time is up.
            problem = str(exc) or f"could not connect ({type(exc).__name__})"
        raise OSError(problem)
