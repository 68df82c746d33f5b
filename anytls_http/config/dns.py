"""The servers of the file's ``dns.servers``, as far as ``domain_resolver`` of an outbound names them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from .endpoint import host_port, read_server, read_server_port
from .fields import Fields, describe_value, position_of_tag, show_text
from .options import TLSOptions, changed_options
from .tls import read_tls
from .unsupported import not_supported_names, refuse_not_supported

__all__ = ["STRATEGIES", "DNSServer", "read_resolver"]

#: The default, which is said by its name too.
AS_IS = "as_is"
STRATEGIES = (AS_IS, "prefer_ipv4", "prefer_ipv6", "ipv4_only", "ipv6_only")

#: Type -> the port where none is given. "local" is the system's own lookup.
_PORTS = {"local": 0, "udp": 53, "tcp": 53, "tls": 853, "https": 443}
_REMOTE = frozenset({"type", "tag", "server", "server_port", "domain_resolver", "domain_strategy"})
#: Without effect here: nothing is cached, and the system decides how it looks up.
_RESOLVER_WITHOUT_EFFECT = ("disable_cache", "disable_optimistic_cache")
_HIGHEST_TTL = 2**32 - 1
#: What of the TLS fields is honoured for a connection that dnspython makes.
_TLS_NAMES = {"server_name", "insecure", "certificate", "certificate_path", "min_version", "max_version"}
_DEFAULT_PATH = "/dns-query"


@dataclass(frozen=True, slots=True)
class DNSServer:
    """A server that is asked for the addresses of an outbound's ``server``, through dnspython."""

    tag: str
    #: "udp", "tcp", "tls" or "https".
    type: str
    server: str
    server_port: int
    #: Of the URL, for "https".
    path: str = _DEFAULT_PATH
    tls: TLSOptions = field(default_factory=TLSOptions)
    #: How ``server`` itself is looked up, where it is a name. None: by the system.
    resolver: DNSServer | None = None
    domain_strategy: str = ""

    def describe(self) -> str:
        """Return how errors call it: ``dns-remote (tls, 192.0.2.53:853)``."""
        return f"{self.tag} ({self.type}, {host_port(self.server, self.server_port)})"

    def to_dict(self) -> dict[str, Any]:
        """Return what ``dns.servers`` would have for it; its own resolver is named by tag."""
        config: dict[str, Any] = {
            "type": self.type,
            "tag": self.tag,
            "server": self.server,
            "server_port": self.server_port,
        }
        if self.path != _DEFAULT_PATH:
            config["path"] = self.path
        if tls := changed_options(self.tls):
            config["tls"] = tls
        if self.resolver is not None:
            config["domain_resolver"] = self.resolver.tag
        if self.domain_strategy:
            config["domain_strategy"] = self.domain_strategy
        return config


def read_resolver(
    fields: Fields, servers: Sequence[object] | None, trail: tuple[str, ...] = ()
) -> tuple[DNSServer | None, str]:
    """Return the server that ``domain_resolver`` of this object names, and the strategy of its lookups.

    None is the system. ``servers`` is the file's ``dns.servers``; None where there is no file. ``trail``:
    tags of the servers that led here. Raises ``ConfigError``, also where dnspython is missing.
    """
    strategy = _strategy(fields, "domain_strategy")
    if isinstance(fields.get("domain_resolver"), str):
        tag, of_resolver = fields.text("domain_resolver"), ""
    else:
        names = {"server", "strategy", "rewrite_ttl", *_RESOLVER_WITHOUT_EFFECT}
        resolver = fields.group("domain_resolver", {*names, *not_supported_names("domain_resolver")})
        if resolver is None:
            return None, strategy
        refuse_not_supported(resolver)
        for name in _RESOLVER_WITHOUT_EFFECT:
            resolver.flag(name)
        resolver.integer("rewrite_ttl", 0, _HIGHEST_TTL)
        tag, of_resolver = resolver.text("server"), _strategy(resolver, "strategy")
        if not tag and of_resolver:
            resolver.fail("server", "is required with a strategy")
    # The resolver's own strategy stands before the deprecated field, as in sing-box.
    strategy = of_resolver or strategy
    if not tag:
        return None, strategy
    try:
        return _named(tag, servers, trail), strategy
    except ConfigError as problem:
        raise ConfigError(f"{fields.where('domain_resolver')}: {problem}") from None


def _strategy(fields: Fields, name: str) -> str:
    strategy = fields.choice(name, STRATEGIES)
    return "" if strategy == AS_IS else strategy


def _named(tag: str, servers: Sequence[object] | None, trail: tuple[str, ...]) -> DNSServer | None:
    """Return the server with this tag; None where that is the system's own lookup."""
    if tag in trail:
        raise ConfigError("a loop: " + " -> ".join((*trail, tag)))
    entries: list[Mapping[Any, Any]] = []
    for position, entry in enumerate(servers or ()):
        if not isinstance(entry, Mapping):
            raise ConfigError(f"dns.servers[{position}]: got {describe_value(entry)}, takes an object")
        entries.append(entry)
    tags = {position: entry.get("tag") or str(position) for position, entry in enumerate(entries)}
    found = position_of_tag("dns.servers", tag, tags)
    if found is not None:
        try:
            return _read_server(entries[found], tag, servers, (*trail, tag))
        except ConfigError as problem:
            raise ConfigError(f"dns.servers[{found}].{problem}") from None
    if tag == "local":
        return None
    where = "" if servers else ' ("local" is the system; from_file knows those of the file\'s dns.servers)'
    raise ConfigError(f"there is no DNS server with the tag {show_text(tag)}{where}")


def _read_server(
    entry: Mapping[Any, Any], tag: str, servers: Sequence[object] | None, trail: tuple[str, ...]
) -> DNSServer | None:
    kind = entry.get("type")
    if not isinstance(kind, str) or kind not in _PORTS:
        got = "is required" if not kind else f"got {describe_value(kind)}"
        raise ConfigError(f"type: {got}, takes one of " + ", ".join(f'"{each}"' for each in _PORTS))
    if kind == "local":
        Fields(entry, {"type", "tag", "prefer_go", "neighbor_domain"}).flag("prefer_go")
        return None
    _need_dnspython()
    names = set(_REMOTE)
    if kind in ("tls", "https"):
        names.add("tls")
    if kind == "https":
        names |= {"path", "method"}
    fields = Fields(entry, names)
    resolver, strategy = read_resolver(fields, servers, trail)
    return DNSServer(
        tag=tag,
        type=kind,
        server=read_server(fields, "the DNS server"),
        server_port=read_server_port(fields, _PORTS[kind]),
        path=_path(fields) if kind == "https" else _DEFAULT_PATH,
        tls=_tls(entry) if "tls" in names else TLSOptions(),
        resolver=resolver,
        domain_strategy=strategy,
    )


def _need_dnspython() -> None:
    if importlib.util.find_spec("dns") is None:
        raise ConfigError("type: all but \"local\" need dnspython: pip install 'anytls_http[dns]'")


def _path(fields: Fields) -> str:
    method = fields.filled_text("method")
    if method is not None and method.upper() != "POST":
        fields.fail("method", f'got {show_text(method)}, takes "POST"')
    path = fields.filled_text("path") or _DEFAULT_PATH
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or set(path) & {" ", "#"}:
        fields.fail("path", f'got {show_text(path)}, takes the path of a URL, such as "{_DEFAULT_PATH}"')
    return path


def _tls(entry: Mapping[Any, Any]) -> TLSOptions:
    given = entry.get("tls")
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"tls: got {describe_value(given)}, takes an object")
    # sing-box doesn't ask for tls.enabled here: the type of the server says it.
    options = read_tls(Fields({"tls": {**(given or {}), "enabled": True}}, {"tls"}))
    for name in changed_options(options):
        if name not in _TLS_NAMES:
            raise ConfigError(f"tls.{name}: is not supported for a DNS server")
    return options
