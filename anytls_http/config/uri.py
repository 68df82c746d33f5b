"""``anytls://`` URIs: ``anytls://password@host[:port]/?sni=name&insecure=1#tag``.

They are taken apart by hand. ``urllib.parse`` drops tabs and line breaks silently, and its errors quote the
part before the host, which is the password. No error here shows anything of the URI but plain names of
query keys: with a password that isn't percent-encoded, any part may turn out to be a piece of it.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from ..errors import ConfigError
from .fields import describe_value
from .hosts import plausible_host

__all__ = ["parse_uri"]

_SCHEME = "anytls://"
_DEFAULT_PORT = 443
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{0,5}))?")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,30}")
_SWITCH = {"": False, "0": False, "false": False, "1": True, "true": True}


def parse_uri(uri: str) -> dict[str, Any]:
    """Return the configuration dict of a URI. Raises ``ConfigError``; nothing is validated any further."""
    if not isinstance(uri, str):
        raise ConfigError(f"URI: got {describe_value(uri, secret=True)}, takes a string")
    uri = uri.strip()
    if not uri.lower().startswith(_SCHEME):
        raise ConfigError(f"URI: takes {_SCHEME}password@host:port")
    rest, _, fragment = uri[len(_SCHEME) :].partition("#")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    password, at, host_and_port = authority.rpartition("@")
    if not at or not password or path or "@" in query:
        raise ConfigError(
            f"URI: takes {_SCHEME}password@host:port, with no path and with the password percent-encoded"
            ' ("/" as %2F, "?" as %3F, "#" as %23, "@" as %40)'
        )
    host, port = _host_and_port(host_and_port)
    config: dict[str, Any] = {
        "type": "anytls",
        "server": host,
        "server_port": port,
        "password": _unquote(password, "the password"),
        "tls": {"enabled": True, **_tls_of(query)},
    }
    if fragment:
        config["tag"] = _unquote(fragment, "the name after #")
    return config


def _host_and_port(text: str) -> tuple[str, int]:
    match = _HOST_AND_PORT.fullmatch(text)
    host = _unquote(match["host"], "the host") if match else ""
    if match is None or not _is_plausible(host):
        raise ConfigError("URI: takes a host name or an IP address (IPv6 in brackets), and a port number")
    port = int(match["port"] or _DEFAULT_PORT)
    if not 1 <= port <= 65535:
        raise ConfigError("URI: the port is not from 1 to 65535")
    return host, port


def _tls_of(query: str) -> dict[str, Any]:
    """Return the TLS fields that the query asks for."""
    values: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        if key not in ("sni", "insecure"):
            shown = f' "{key}"' if _PLAIN_KEY.fullmatch(key) else ""
            raise ConfigError(f"URI: unknown query key{shown}, takes sni and insecure")
        if key in values:
            raise ConfigError(f"URI: the query key {key} is there twice")
        values[key] = _unquote(value, key)
    tls: dict[str, Any] = {}
    if sni := values.get("sni"):
        # An IP address goes here as well: none is ever sent as SNI, and the certificate is verified for it.
        if not _is_plausible(sni):
            raise ConfigError("URI: sni is no host name or IP address")
        tls["server_name"] = sni
    if "insecure" in values:
        if values["insecure"].lower() not in _SWITCH:
            raise ConfigError("URI: insecure takes 1 or 0")
        tls["insecure"] = _SWITCH[values["insecure"].lower()]
    return tls


def _is_plausible(host: str) -> bool:
    try:
        plausible_host(host)
    except ValueError:
        return False
    return True


def _unquote(text: str, what: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass
    # Outside of the except block: the UnicodeDecodeError has the bytes in it.
    raise ConfigError(f"URI: {what} is not percent-encoded UTF-8")
