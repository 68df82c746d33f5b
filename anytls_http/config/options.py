"""The validated options of an outbound, as the other layers read them. All durations are seconds.

Plain frozen dataclasses and readers of our own, no ``msgspec``: it would be a compiled dependency, and its
errors can't be taught what this package promises (a path, what a field takes, never a secret).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .durations import format_duration

if TYPE_CHECKING:
    from .dns import DNSServer

__all__ = ["DialOptions", "PoolOptions", "TLSOptions", "changed_options"]


def _seconds(default: float | None) -> Any:
    """Return a dataclass field for a duration, marked so that it can be written as one again."""
    return field(default=default, metadata={"duration": True})


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The nine options of the pool; the seed's documentation of the outbound says what each one means."""

    idle_session_check_interval: float = _seconds(30.0)
    idle_session_timeout: float = _seconds(30.0)
    min_idle_session: int = 0
    ensure_idle_session: int = 0
    #: 0: unlimited.
    ensure_idle_session_create_rate: int = 0
    #: None: unlimited.
    max_connection_lifetime: float | None = _seconds(None)
    connection_lifetime_jitter: float = _seconds(0.0)
    #: 0: the same number as ``min_idle_session``.
    min_idle_session_for_age: int = 0
    #: None: no heartbeat.
    heartbeat: float | None = _seconds(None)


@dataclass(frozen=True, slots=True)
class DialOptions:
    """How the TCP connection to the server is made."""

    connect_timeout: float = _seconds(5.0)
    #: Happy eyeballs: how long after one attempt the next one starts.
    fallback_delay: float = _seconds(0.3)
    bind_interface: str | None = None
    inet4_bind_address: str | None = None
    inet6_bind_address: str | None = None
    bind_address_no_port: bool = False
    routing_mark: int | None = None
    reuse_addr: bool = False
    tcp_multi_path: bool = False
    disable_tcp_keep_alive: bool = False
    tcp_keep_alive: float = _seconds(300.0)
    tcp_keep_alive_interval: float = _seconds(75.0)
    #: "", "prefer_ipv4", "prefer_ipv6", "ipv4_only" or "ipv6_only".
    domain_strategy: str = ""
    #: What looks up the server's name. None: the system.
    resolver: DNSServer | None = None
    #: Name or path of the network namespace in which sockets are made (Linux).
    netns: str | None = None
    #: Tag of the outbound through which the server is reached. With it, all the others are without effect.
    detour: str | None = None


@dataclass(frozen=True, slots=True)
class TLSOptions:
    """The TLS of the connection to the server."""

    #: SNI, and the name that the certificate must have. None: the outbound's ``server``.
    server_name: str | None = None
    disable_sni: bool = False
    insecure: bool = False
    alpn: tuple[str, ...] = ()
    min_version: str = "1.2"
    max_version: str = "1.3"
    #: Go's names. TLS 1.3's own change nothing; the others are all that TLS 1.2 and older may use.
    cipher_suites: tuple[str, ...] = ()
    #: Go's names, upper-case.
    curve_preferences: tuple[str, ...] = ()
    #: PEM text of the only trusted roots. Never together with ``certificate_path``.
    certificate: str | None = field(default=None, repr=False)
    certificate_path: str | None = None
    #: Base64. Where there are some, nothing else about the server's certificate counts.
    certificate_public_key_sha256: tuple[str, ...] = ()
    #: PEM texts, or the files that hold them; there is one of each pair, or none of the four.
    client_certificate: str | None = field(default=None, repr=False)
    client_certificate_path: str | None = None
    client_key: str | None = field(default=None, repr=False)
    client_key_path: str | None = None
    handshake_timeout: float = _seconds(15.0)
    #: The ClientHello in several TCP segments, or in several TLS records.
    fragment: bool = False
    fragment_fallback_delay: float = _seconds(0.5)
    record_fragment: bool = False


def changed_options(options: PoolOptions | DialOptions | TLSOptions) -> dict[str, Any]:
    """Return the options that aren't at their default, as they are written in a configuration."""
    changed: dict[str, Any] = {}
    for item in fields(options):
        value = getattr(options, item.name)
        if value == item.default:
            continue
        if item.name == "resolver":
            changed["domain_resolver"] = value.tag
            continue
        if item.metadata.get("duration"):
            value = format_duration(value or 0.0)
        changed[item.name] = list(value) if isinstance(value, tuple) else value
    return changed
