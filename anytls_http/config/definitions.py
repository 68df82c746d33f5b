"""One row for every field of the outbound: its type, its default, and what it means here.

The JSON Schema, ``anytls-http check-config`` and the table in ``docs/configuration.md`` are made of these rows.
That they agree with what ``dial.py``, ``pool.py`` and ``tls.py`` read is held by the tests.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .durations import format_duration
from .options import DialOptions, PoolOptions, TLSOptions
from .tls_names import CIPHER_SUITES, CURVES

__all__ = ["FIELDS", "FieldDefinition", "Kind", "default_text"]


class Kind(Enum):
    """What a field takes; the value says it in the documentation."""

    TEXT = "string"
    TEXTS = "string or list of strings"
    FLAG = "boolean"
    INTEGER = "integer"
    DURATION = "duration"
    MARK = "integer or string"
    OBJECT = "object"
    TEXT_OR_OBJECT = "string or object"


@dataclass(frozen=True, slots=True)
class FieldDefinition:
    """One field. ``path`` is dotted, as in errors."""

    path: str
    kind: Kind
    meaning: str
    #: The only values; for TEXTS those of each item.
    choices: tuple[str, ...] = ()
    #: Bounds of an INTEGER.
    lowest: int = 0
    highest: int = 2**31 - 1
    required: bool = False
    #: Where there is no value in the options to take it from, or more is to be said than that.
    default: str = ""
    #: Only its being unset, empty or false is accepted; ``meaning`` says why.
    refused: bool = False
    #: Never shown.
    secret: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def parent(self) -> str:
        """The path of the object that it belongs to; empty for the outbound itself."""
        return self.path.rpartition(".")[0]


_STRATEGIES = ("as_is", "prefer_ipv4", "prefer_ipv6", "ipv4_only", "ipv6_only")
_VERSIONS = ("1.0", "1.1", "1.2", "1.3")
_NETWORK_TYPES = ("wifi", "cellular", "ethernet", "other")
_CLIENTS_ONLY = "accepted with a logged warning: it acts in graphical clients only, as in sing-box"
_NO_CACHE = "accepted, nothing to do: nothing is cached"
_NOT_YET = "not supported yet, so that nobody believes to be hidden who isn't"
_SEED = "; not in the released sing-box"

_F = FieldDefinition
_K = Kind

FIELDS: tuple[FieldDefinition, ...] = (
    # --- the outbound ---
    _F("type", _K.TEXT, "the kind of outbound", choices=("anytls",), default="anytls"),
    _F("tag", _K.TEXT, "the outbound's name: for choosing it in a file, for `detour`, and in the log"),
    _F("server", _K.TEXT, "host name or IP address of the AnyTLS server", required=True),
    _F("server_port", _K.INTEGER, "its TCP port", lowest=1, highest=65535, required=True),
    _F("password", _K.TEXT, "what the server knows this client by", required=True, secret=True),
    _F(
        "client_metadata",
        _K.TEXT,
        "the `client=` value of Settings, for servers that want one; an empty string is sent empty",
        default="anytls_http/VERSION",
    ),
    # --- the pool ---
    _F(
        "idle_session_check_interval",
        _K.DURATION,
        "how often idle sessions are checked, and missing ones created",
    ),
    _F("idle_session_timeout", _K.DURATION, "in a check, sessions idle for longer than this are closed"),
    _F("min_idle_session", _K.INTEGER, "the newest n idle sessions are exempt from `idle_session_timeout`"),
    _F(
        "ensure_idle_session",
        _K.INTEGER,
        "the pool keeps n idle sessions ready, from the first use on" + _SEED,
    ),
    _F(
        "ensure_idle_session_create_rate",
        _K.INTEGER,
        "at most n sessions are created in a check's cycle; 0: all that are missing" + _SEED,
    ),
    _F(
        "max_connection_lifetime",
        _K.DURATION,
        "sessions older than this are closed when they are idle, the oldest first" + _SEED,
        default="unlimited",
    ),
    _F(
        "connection_lifetime_jitter",
        _K.DURATION,
        "each session's lifetime differs by up to this; smaller than `max_connection_lifetime`" + _SEED,
        default="none",
    ),
    _F(
        "min_idle_session_for_age",
        _K.INTEGER,
        "n idle sessions are exempt from `max_connection_lifetime`; 0: as many as `min_idle_session`" + _SEED,
    ),
    _F("heartbeat", _K.DURATION, "how often each session proves that it is alive" + _SEED, default="off"),
    # --- the TCP connection ---
    _F(
        "detour",
        _K.TEXT,
        "tag of the outbound to go through (`anytls`, `direct`, `socks`, `http`) of the same file or of the client's "
        "`outbounds=`; chains work, loops are refused; the other dial fields are then without effect",
    ),
    _F("bind_interface", _K.TEXT, "the interface to use (Linux, macOS)"),
    _F("inet4_bind_address", _K.TEXT, "source address of IPv4 connections"),
    _F("inet6_bind_address", _K.TEXT, "source address of IPv6 connections"),
    _F("bind_address_no_port", _K.FLAG, "IP_BIND_ADDRESS_NO_PORT (Linux)"),
    _F(
        "routing_mark", _K.MARK, 'SO_MARK, a number or a string such as `"0x1234"` (Linux)', highest=2**32 - 1
    ),
    _F("reuse_addr", _K.FLAG, "SO_REUSEADDR"),
    _F("netns", _K.TEXT, "name or path of the network namespace in which the socket is made (Linux)"),
    _F("connect_timeout", _K.DURATION, "for the TCP connection"),
    _F(
        "tcp_fast_open",
        _K.FLAG,
        "refused, as in sing-box",
        refused=True,
    ),
    _F("tcp_multi_path", _K.FLAG, "Multipath TCP; plain TCP where the kernel has none"),
    _F("disable_tcp_keep_alive", _K.FLAG, "no TCP keep-alive"),
    _F("tcp_keep_alive", _K.DURATION, "idle time before the first keep-alive probe"),
    _F("tcp_keep_alive_interval", _K.DURATION, "time between two probes"),
    _F("udp_fragment", _K.FLAG, "accepted, nothing to do: the tunnel is TCP"),
    _F(
        "domain_resolver",
        _K.TEXT_OR_OBJECT,
        "who looks up `server`: `local` or the tag of one of the file's `dns.servers` (`local`, `udp`, `tcp`, `tls`, "
        "`https`; all but the first need dnspython)",
        default="the system",
    ),
    _F("domain_resolver.server", _K.TEXT, "the tag"),
    _F("domain_resolver.strategy", _K.TEXT, "in place of `domain_strategy`", choices=_STRATEGIES),
    _F("domain_resolver.disable_cache", _K.FLAG, _NO_CACHE),
    _F("domain_resolver.disable_optimistic_cache", _K.FLAG, _NO_CACHE),
    _F("domain_resolver.rewrite_ttl", _K.INTEGER, _NO_CACHE, highest=2**32 - 1),
    _F("domain_resolver.client_subnet", _K.TEXT, "not supported yet", refused=True),
    _F("domain_resolver.timeout", _K.DURATION, "not supported yet", refused=True),
    _F(
        "domain_strategy",
        _K.TEXT,
        "which addresses of `server` are used, and which first",
        choices=_STRATEGIES,
    ),
    _F("network_strategy", _K.TEXT, _CLIENTS_ONLY, choices=("default", "hybrid", "fallback")),
    _F("network_type", _K.TEXTS, _CLIENTS_ONLY, choices=_NETWORK_TYPES),
    _F("fallback_network_type", _K.TEXTS, _CLIENTS_ONLY, choices=_NETWORK_TYPES),
    _F(
        "fallback_delay",
        _K.DURATION,
        "happy eyeballs (RFC 8305): when the next address is tried beside the last",
    ),
    _F("protect_path", _K.TEXT, "refused: it acts on Android only", refused=True),
    # --- TLS ---
    _F("tls", _K.OBJECT, "TLS, without which there is no AnyTLS", required=True),
    _F("tls.enabled", _K.FLAG, "must be true", required=True),
    _F("tls.engine", _K.TEXT, "`go` and nothing are this package's own; others are refused", choices=("go",)),
    _F(
        "tls.server_name",
        _K.TEXT,
        "the name sent to the server (SNI; never an IP address) and verified",
        default="`server`",
    ),
    _F("tls.disable_sni", _K.FLAG, "no name is sent; the certificate is verified for it all the same"),
    _F("tls.insecure", _K.FLAG, "nothing is verified; a warning is logged once per client"),
    _F("tls.alpn", _K.TEXTS, "protocols to offer, such as `h2`"),
    _F("tls.min_version", _K.TEXT, "lowest TLS version", choices=_VERSIONS),
    _F("tls.max_version", _K.TEXT, "highest TLS version", choices=_VERSIONS),
    _F(
        "tls.cipher_suites",
        _K.TEXTS,
        "Go's names of the suites for TLS 1.2 and older, in order of preference; those of TLS 1.3 are accepted and "
        "change nothing, as in Go; with these alone, TLS 1.3 is the only version left",
        choices=tuple(CIPHER_SUITES),
    ),
    _F(
        "tls.curve_preferences",
        _K.TEXTS,
        "the curves to offer; more than one needs Python 3.15, `X25519MLKEM768` needs OpenSSL 3.5: what can't be had "
        "is refused, naming the versions at hand",
        choices=tuple(CURVES),
    ),
    _F(
        "tls.certificate",
        _K.TEXTS,
        "the only trusted roots, as PEM: one string or its lines",
        default="certifi's",
    ),
    _F("tls.certificate_path", _K.TEXT, "the file with them; it is read again when it has changed"),
    _F(
        "tls.certificate_public_key_sha256",
        _K.TEXTS,
        "base64 SHA-256 of the server's public key (SPKI): then nothing else about its certificate counts; in conflict "
        "with `certificate` and `certificate_path`",
    ),
    _F("tls.client_certificate", _K.TEXTS, "the client's own certificate, as PEM; goes together with a key"),
    _F("tls.client_certificate_path", _K.TEXT, "the file with it; it is read again when it has changed"),
    _F("tls.client_key", _K.TEXTS, "its key, as PEM, without a passphrase", secret=True),
    _F("tls.client_key_path", _K.TEXT, "the file with it; it is read again when it has changed"),
    _F("tls.handshake_timeout", _K.DURATION, "for the TLS handshake"),
    _F(
        "tls.fragment",
        _K.FLAG,
        "the ClientHello goes out in several TCP segments, cut inside the server's name",
    ),
    _F(
        "tls.fragment_fallback_delay",
        _K.DURATION,
        "time between these segments, where the system doesn't tell what has been acknowledged (all but Linux)",
    ),
    _F("tls.record_fragment", _K.FLAG, "the ClientHello goes out in several TLS records, cut likewise"),
    _F("tls.kernel_tx", _K.FLAG, "accepted with a logged note: no kernel TLS here"),
    _F("tls.kernel_rx", _K.FLAG, "accepted with a logged note: no kernel TLS here"),
    _F("tls.spoof", _K.TEXT, _NOT_YET, refused=True),
    _F("tls.spoof_method", _K.TEXT, _NOT_YET, refused=True),
    _F("tls.ech", _K.OBJECT, "Encrypted Client Hello: with `enabled` " + _NOT_YET),
    _F("tls.ech.enabled", _K.FLAG, _NOT_YET, refused=True),
    _F("tls.utls", _K.OBJECT, "imitation of a browser's hello: with `enabled` " + _NOT_YET),
    _F("tls.utls.enabled", _K.FLAG, _NOT_YET, refused=True),
    _F("tls.reality", _K.OBJECT, "Reality: with `enabled` " + _NOT_YET),
    _F("tls.reality.enabled", _K.FLAG, _NOT_YET, refused=True),
)

_OPTIONS = {"": (PoolOptions, DialOptions), "tls": (TLSOptions,)}


def default_text(definition: FieldDefinition) -> str:
    """Return a field's default as a configuration would have it; empty where there is none to speak of."""
    if definition.default or definition.refused:
        return definition.default
    for options in _OPTIONS.get(definition.parent, ()):
        for option in dataclasses.fields(options):
            if option.name == definition.name:
                value: Any = option.default
                if option.metadata.get("duration"):
                    return format_duration(value)
                return "" if value in (None, "", ()) else str(value).lower()
    return "false" if definition.kind is Kind.FLAG and not definition.required else ""
