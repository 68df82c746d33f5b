"""The ``anytls`` outbound of sing-box: what a user wrote, as one frozen and validated value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from .dial import DIAL_NAMES, read_dial
from .fields import Fields, describe_value, show_text
from .hosts import plausible_host
from .options import DialOptions, PoolOptions, TLSOptions, changed_options
from .pool import POOL_NAMES, read_pool
from .tls import read_tls
from .unsupported import not_supported_names

__all__ = ["AnyTLSOutbound", "coerce_outbound"]

_NAMES = frozenset(
    {"type", "tag", "server", "server_port", "password", "client_metadata", "tls"}
    | POOL_NAMES
    | DIAL_NAMES
    | set(not_supported_names())
)
_HIGHEST_PORT = 65535
_LONGEST_METADATA = 1024


@dataclass(frozen=True, slots=True)
class AnyTLSOutbound:
    """A validated outbound. Make one with a ``from_...`` method: the constructor itself checks nothing.

    ``repr`` and :meth:`describe` leave out the password; :meth:`to_dict` and a pickle hold it.
    """

    server: str
    server_port: int
    password: str = field(repr=False)
    tls: TLSOptions = field(default_factory=TLSOptions)
    pool: PoolOptions = field(default_factory=PoolOptions)
    dial: DialOptions = field(default_factory=DialOptions)
    tag: str | None = None
    #: The ``client=`` value of Settings. None: this package's name and version; "" is sent empty.
    client_metadata: str | None = None

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> AnyTLSOutbound:
        """Return the outbound that a dict describes, with the field names of sing-box.

        A field that is ``None`` counts as missing. Raises ``ConfigError`` for the first field that is
        wrong, unknown, or not supported yet; what is merely without effect is logged as a warning.
        """
        if not isinstance(config, Mapping):
            raise ConfigError(f"outbound: got {describe_value(config, secret=True)}, takes an object")
        fields = Fields(config, _NAMES)
        kind = fields.text("type")
        if kind and kind != "anytls":
            fields.fail("type", f'got {show_text(kind)}, takes "anytls"')
        return cls(
            server=_server(fields),
            server_port=_server_port(fields),
            password=_password(fields),
            tls=read_tls(fields),
            pool=read_pool(fields),
            dial=read_dial(fields),
            tag=fields.filled_text("tag"),
            client_metadata=_client_metadata(fields),
        )

    @classmethod
    def from_json(cls, text: str | bytes, tag: str | None = None) -> AnyTLSOutbound:
        """Return the outbound in a JSON text, which may have comments and trailing commas.

        The text is a bare outbound or a whole sing-box configuration; see :meth:`from_file` for ``tag``.
        Raises ``ConfigError``, with line and column where the text is no JSON.
        """
        from .sources import choose_outbound, parse_json

        config, path = choose_outbound(parse_json(text), tag)
        return cls._from_place(config, path)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], tag: str | None = None, **overrides: Any
    ) -> AnyTLSOutbound:
        """Return the outbound in a file: a bare outbound or a whole sing-box configuration.

        ``tag`` chooses among several ``anytls`` outbounds. ``overrides`` are fields that are put over those
        of the file (objects such as ``tls`` are merged, ``None`` takes a field away), for what sing-box
        itself would refuse in the file. Raises ``ConfigError`` naming the file.
        """
        from .sources import choose_outbound, merge, parse_json, read_text

        name = os.fsdecode(path)
        text = read_text(name)
        try:
            config, place = choose_outbound(parse_json(text), tag)
            return cls._from_place(merge(config, overrides), place)
        except ConfigError as problem:
            message = f"{name}: {problem}"
        # Outside of the except block, so that no inner exception with the text in it travels along.
        raise ConfigError(message)

    @classmethod
    def from_uri(cls, uri: str) -> AnyTLSOutbound:
        """Return the outbound of an ``anytls://password@host[:port]/?sni=name&insecure=1#tag`` URI.

        The port is 443 by default. Raises ``ConfigError``, which never shows any part of the password.
        """
        from .uri import parse_uri

        return cls.from_dict(parse_uri(uri))

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that :meth:`from_dict` turns back into this outbound. It holds the password.

        Options at their default are left out.
        """
        config: dict[str, Any] = {
            "type": "anytls",
            "tag": self.tag,
            "server": self.server,
            "server_port": self.server_port,
            "password": self.password,
            "client_metadata": self.client_metadata,
            **changed_options(self.pool),
            **changed_options(self.dial),
            "tls": {"enabled": True, **changed_options(self.tls)},
        }
        return {name: value for name, value in config.items() if value is not None}

    def describe(self) -> str:
        """Return one line for logs, without the password: ``anytls-out (anytls, proxy.example:443)``."""
        host = f"[{self.server}]" if ":" in self.server else self.server
        return f"{self.tag or 'outbound'} (anytls, {host}:{self.server_port})"

    @classmethod
    def _from_place(cls, config: object, path: str) -> AnyTLSOutbound:
        """Return ``from_dict(config)``, whose errors name the place in the file too."""
        try:
            return cls.from_dict(config)  # type: ignore[arg-type]  # from_dict says what it isn't
        except ConfigError as problem:
            message = f"{path}{problem}"
        raise ConfigError(message)


def coerce_outbound(config: object) -> AnyTLSOutbound:
    """Return the outbound that a client was given: one that is made already, or a dict.

    Raises ``ConfigError`` for everything else, and for what is wrong in the dict.
    """
    if isinstance(config, AnyTLSOutbound):
        return config
    if isinstance(config, Mapping):
        return AnyTLSOutbound.from_dict(config)
    # The value isn't shown: it may well be a URI or a JSON text with a password.
    raise ConfigError(
        f"outbound: got {describe_value(config, secret=True)}, takes a dict or an AnyTLSOutbound"
        " (from_json, from_file and from_uri make one)"
    )


def _server(fields: Fields) -> str:
    server = fields.filled_text("server")
    if server is None:
        fields.fail("server", "is required: the host name or IP address of the AnyTLS server")
    if "://" in server or "@" in server:
        # Not shown: this is a whole URI, and the password is in it.
        fields.fail("server", "takes a host name or an IP address; for a URI there is from_uri")
    return fields.parsed("server", server, plausible_host)


def _server_port(fields: Fields) -> int:
    port = fields.integer("server_port", 1, _HIGHEST_PORT)
    if port is None:
        fields.fail("server_port", f"is required: an integer from 1 to {_HIGHEST_PORT}")
    return port


def _password(fields: Fields) -> str:
    password = fields.filled_text("password", secret=True)
    if password is None:
        fields.fail("password", "is required and must not be empty")
    return password


def _client_metadata(fields: Fields) -> str | None:
    metadata = fields.text("client_metadata")
    # Settings are lines: a line break would add settings of its own.
    if metadata and (not metadata.isprintable() or len(metadata.encode()) > _LONGEST_METADATA):
        fields.fail("client_metadata", f"takes one line of at most {_LONGEST_METADATA} printable bytes")
    return metadata
