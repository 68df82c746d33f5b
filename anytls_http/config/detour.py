"""The outbounds that ``detour`` may name: how the server of another outbound is reached.

The tag is followed when the outbound is read, so that the result is one value with the whole chain in it:
each outbound holds the next one in ``via``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import ConfigError
from .dial import DIAL_NAMES, read_dial
from .endpoint import host_port, read_server, read_server_port
from .fields import Fields, describe_value, position_of_tag, show_text
from .options import DialOptions, changed_options

if TYPE_CHECKING:
    from .outbound import AnyTLSOutbound

__all__ = ["DirectOutbound", "HTTPOutbound", "SocksOutbound", "Upstream", "follow_detour"]

Upstream: TypeAlias = "AnyTLSOutbound | DirectOutbound | HTTPOutbound | SocksOutbound"

_KINDS = ("anytls", "direct", "socks", "http")
_SOCKS_VERSIONS = ("4", "4a", "5")
_LONGEST_SOCKS_TEXT = 255
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class DirectOutbound:
    """A TCP connection with dial fields of its own."""

    tag: str
    dial: DialOptions = field(default_factory=DialOptions)
    via: Upstream | None = None

    def describe(self) -> str:
        """Return how errors call it."""
        return f"{self.tag} (direct)"

    def to_dict(self) -> dict[str, Any]:
        """Return the outbound as in a configuration."""
        return {"type": "direct", "tag": self.tag, **changed_options(self.dial)}


@dataclass(frozen=True, slots=True)
class SocksOutbound:
    """A SOCKS proxy."""

    tag: str
    server: str
    server_port: int
    #: "5", "4a" or "4" (which is taken for "4a": the proxy looks the name up).
    version: str = "5"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    dial: DialOptions = field(default_factory=DialOptions)
    via: Upstream | None = None

    def describe(self) -> str:
        """Return how errors call it."""
        return f"{self.tag} (socks, {host_port(self.server, self.server_port)})"

    def to_dict(self) -> dict[str, Any]:
        """Return the outbound as in a configuration, with the password."""
        return _filled(
            type="socks",
            tag=self.tag,
            server=self.server,
            server_port=self.server_port,
            version=self.version,
            username=self.username,
            password=self.password,
            **changed_options(self.dial),
        )


@dataclass(frozen=True, slots=True)
class HTTPOutbound:
    """An HTTP proxy that takes CONNECT."""

    tag: str
    server: str
    server_port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    #: More headers of the CONNECT request. They may hold a secret as well.
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    dial: DialOptions = field(default_factory=DialOptions)
    via: Upstream | None = None

    def authorization(self) -> str | None:
        """Return the value of ``Proxy-Authorization``; None where there is no user."""
        if self.username is None:
            return None
        pair = f"{self.username}:{self.password or ''}"
        return "Basic " + base64.b64encode(pair.encode()).decode("ascii")

    def describe(self) -> str:
        """Return how errors call it."""
        return f"{self.tag} (http, {host_port(self.server, self.server_port)})"

    def to_dict(self) -> dict[str, Any]:
        """Return the outbound as in a configuration, with the password."""
        headers: dict[str, list[str]] = {}
        for name, value in self.headers:
            headers.setdefault(name, []).append(value)
        return _filled(
            type="http",
            tag=self.tag,
            server=self.server,
            server_port=self.server_port,
            username=self.username,
            password=self.password,
            headers=headers or None,
            **changed_options(self.dial),
        )


def follow_detour(
    dial: DialOptions,
    outbounds: Sequence[object] | None,
    dns_servers: Sequence[object] | None,
    trail: tuple[str, ...],
) -> Upstream | None:
    """Return the outbound that ``dial.detour`` names among the outbounds, its own detour followed too.

    None where there is no detour, or where the outbounds aren't known yet (``outbounds`` is None). ``trail``:
    the tags that led here. Raises ``ConfigError`` for a missing tag, a loop, and what is wrong in the outbound.
    """
    tag = dial.detour
    if tag is None or outbounds is None:
        return None
    if tag in trail:
        raise ConfigError("detour: a loop: " + " -> ".join((*trail, tag)))
    tags = {position: _tag_of(entry, position) for position, entry in enumerate(outbounds)}
    position = position_of_tag("detour: outbounds", tag, tags)
    if position is None:
        known = ", ".join(show_text(each) for each in tags.values()) or "none"
        raise ConfigError(
            f"detour: there is no outbound with the tag {show_text(tag)}; the tags are: {known}"
        )
    try:
        return _read_upstream(outbounds[position], tag, outbounds, dns_servers, (*trail, tag))
    except ConfigError as problem:
        raise ConfigError(f"detour: outbounds[{position}].{problem}") from None


def _tag_of(entry: object, position: int) -> str:
    """Return an outbound's tag; sing-box's for one that has none is its position."""
    from .outbound import AnyTLSOutbound

    if isinstance(entry, Mapping):
        return str(entry.get("tag") or position)
    if isinstance(entry, AnyTLSOutbound):
        return entry.tag or str(position)
    raise ConfigError(f"outbounds[{position}]: got {describe_value(entry, secret=True)}, takes an object")


def _read_upstream(
    entry: object,
    tag: str,
    outbounds: Sequence[object],
    dns_servers: Sequence[object] | None,
    trail: tuple[str, ...],
) -> Upstream:
    from .outbound import AnyTLSOutbound

    if isinstance(entry, AnyTLSOutbound):
        return entry._with_outbounds(outbounds, trail)
    assert isinstance(entry, Mapping)
    kind = entry.get("type")
    if kind == "anytls":
        return AnyTLSOutbound._read({**entry, "tag": tag}, outbounds, dns_servers, trail)
    if kind == "direct":
        fields = Fields(entry, {"type", "tag"} | DIAL_NAMES)
        dial = read_dial(fields, dns_servers)
        return DirectOutbound(tag, dial, follow_detour(dial, outbounds, dns_servers, trail))
    if kind == "socks":
        return _read_socks(entry, tag, outbounds, dns_servers, trail)
    if kind == "http":
        return _read_http(entry, tag, outbounds, dns_servers, trail)
    takes = ", ".join(f'"{each}"' for each in _KINDS)
    raise ConfigError(f"type: got {describe_value(kind)}, a detour takes one of {takes}")


def _read_socks(
    entry: Mapping[Any, Any],
    tag: str,
    outbounds: Sequence[object],
    dns_servers: Sequence[object] | None,
    trail: tuple[str, ...],
) -> SocksOutbound:
    names = {"type", "tag", "server", "server_port", "version", "username", "password", "network"}
    fields = Fields(entry, names | {"udp_over_tcp"} | DIAL_NAMES)
    networks = fields.choices("network", ("tcp", "udp"))
    if networks and "tcp" not in networks:
        fields.fail("network", 'takes "tcp" here: the tunnel is TCP')
    username, password = _user(fields)
    for name, text in (("username", username), ("password", password)):
        if text is not None and len(text.encode()) > _LONGEST_SOCKS_TEXT:
            fields.fail(name, f"takes at most {_LONGEST_SOCKS_TEXT} bytes, as SOCKS does")
    version = fields.choice("version", _SOCKS_VERSIONS) or "5"
    if version != "5" and password:
        fields.fail("password", f"SOCKS {version} knows no password, only a username")
    dial = read_dial(fields, dns_servers)
    return SocksOutbound(
        tag=tag,
        server=read_server(fields, "the SOCKS proxy"),
        server_port=read_server_port(fields),
        version=version,
        username=username,
        password=password,
        dial=dial,
        via=follow_detour(dial, outbounds, dns_servers, trail),
    )


def _read_http(
    entry: Mapping[Any, Any],
    tag: str,
    outbounds: Sequence[object],
    dns_servers: Sequence[object] | None,
    trail: tuple[str, ...],
) -> HTTPOutbound:
    names = {"type", "tag", "server", "server_port", "username", "password", "path", "headers", "tls"}
    fields = Fields(entry, names | DIAL_NAMES)
    if fields.filled_text("path"):
        fields.fail("path", "is not supported yet")
    tls = fields.get("tls")
    if tls is not None and not isinstance(tls, Mapping):
        fields.fail_type("tls", tls, "an object")
    if tls and tls.get("enabled"):
        fields.fail("tls", "an HTTP proxy that is reached by TLS is not supported yet")
    username, password = _user(fields)
    if username is not None and ":" in username:
        fields.fail("username", "must not have a colon: HTTP's Basic authentication ends it there")
    dial = read_dial(fields, dns_servers)
    return HTTPOutbound(
        tag=tag,
        server=read_server(fields, "the HTTP proxy"),
        server_port=read_server_port(fields),
        username=username,
        password=password,
        headers=_headers(fields),
        dial=dial,
        via=follow_detour(dial, outbounds, dns_servers, trail),
    )


def _user(fields: Fields) -> tuple[str | None, str | None]:
    username = fields.filled_text("username")
    password = fields.filled_text("password", secret=True)
    for name, text in (("username", username), ("password", password)):
        if text is not None and "\0" in text:
            fields.fail(name, "must not have a NUL character")
    if password is not None and username is None:
        fields.fail("username", "is required with a password")
    return username, password


def _headers(fields: Fields) -> tuple[tuple[str, str], ...]:
    given = fields.get("headers")
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        fields.fail_type("headers", given, "an object")
    group = Fields(given, list(given), fields.where("headers"))
    headers: list[tuple[str, str]] = []
    for name in given:
        if not _HEADER_NAME.fullmatch(name):
            fields.fail("headers", f"{show_text(name)} is no name of a header")
        for value in group.texts(name, secret=True):
            if not value.isprintable() or not value.isascii():
                group.fail(name, "takes printable ASCII characters")
            headers.append((name, value))
    return tuple(headers)


def _filled(**config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}
