"""The ``anytls`` outbound of sing-box: what a user wrote, as one frozen and validated value."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConfigError
from .detour import Upstream, follow_detour
from .dial import DIAL_NAMES, read_dial
from .dns import DNSServer
from .endpoint import host_port, read_server, read_server_port
from .fields import Fields, describe_value, show_text
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
    #: What ``dial.detour`` names, with all of its own chain; None where the tag wasn't followed yet.
    via: Upstream | None = None

    @classmethod
    def from_dict(
        cls,
        config: Mapping[str, Any],
        *,
        outbounds: Iterable[Mapping[str, Any] | AnyTLSOutbound] | None = None,
        dns_servers: Sequence[Mapping[str, Any]] | None = None,
    ) -> AnyTLSOutbound:
        """Return the outbound that a dict describes, with the field names of sing-box.

        A field that is ``None`` counts as missing. ``outbounds``: those that ``detour`` may name by tag;
        not given, the client's own ``outbounds=`` are searched later. ``dns_servers``: those that
        ``domain_resolver`` may name. Raises ``ConfigError`` for the first field that is
        wrong, unknown, or not supported yet; what is merely without effect is logged as a warning.
        """
        return cls._read(config, None if outbounds is None else tuple(outbounds), dns_servers, ())

    @classmethod
    def _read(
        cls,
        config: object,
        outbounds: Sequence[object] | None,
        dns_servers: Sequence[object] | None,
        trail: tuple[str, ...],
    ) -> AnyTLSOutbound:
        """``trail``: tags of the outbounds that led here, this one the last; empty for the first of all."""
        if not isinstance(config, Mapping):
            raise ConfigError(f"outbound: got {describe_value(config, secret=True)}, takes an object")
        fields = Fields(config, _NAMES)
        kind = fields.text("type")
        if kind and kind != "anytls":
            fields.fail("type", f'got {show_text(kind)}, takes "anytls"')
        tag = fields.filled_text("tag")
        dial = read_dial(fields, dns_servers)
        return cls(
            server=read_server(fields, "the AnyTLS server"),
            server_port=read_server_port(fields),
            password=_password(fields),
            tls=read_tls(fields),
            pool=read_pool(fields),
            dial=dial,
            tag=tag,
            client_metadata=_client_metadata(fields),
            via=follow_detour(dial, outbounds, dns_servers, trail or ((tag,) if tag else ())),
        )

    @classmethod
    def from_json(cls, text: str | bytes, tag: str | None = None) -> AnyTLSOutbound:
        """Return the outbound in a JSON text, which may have comments and trailing commas.

        The text is a bare outbound or a whole sing-box configuration; see :meth:`from_file` for ``tag``.
        Raises ``ConfigError``, with line and column where the text is no JSON.
        """
        from .sources import choose_outbound, parse_json

        document = parse_json(text)
        config, path = choose_outbound(document, tag)
        return cls._from_place(config, path, document)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], tag: str | None = None, **overrides: Any
    ) -> AnyTLSOutbound:
        """Return the outbound in a file: a bare outbound or a whole sing-box configuration.

        ``tag`` chooses among several ``anytls`` outbounds; it isn't needed where all but one only serve as
        another's ``detour``. What ``detour`` and ``domain_resolver`` name is looked up in the same file.
        ``overrides`` are fields that are put over those of the file (objects such as ``tls`` are merged,
        ``None`` takes a field away), for what sing-box itself would refuse in the file. Raises
        ``ConfigError`` naming the file.
        """
        from .sources import choose_outbound, merge, parse_json, read_text

        name = os.fsdecode(path)
        text = read_text(name)
        try:
            document = parse_json(text)
            config, place = choose_outbound(document, tag)
            return cls._from_place(merge(config, overrides), place, document)
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

        Options at their default are left out. What ``detour`` and ``domain_resolver`` name is there by its
        tag only; :meth:`to_config` has it.
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

    def to_config(self) -> dict[str, Any]:
        """Return a configuration with this outbound, the outbounds of its ``detour`` and the DNS servers.

        As JSON it is what :meth:`from_json` turns back into this outbound. It holds the passwords.
        """
        outbounds: list[dict[str, Any]] = []
        servers: dict[str, dict[str, Any]] = {}
        hop: Upstream | None = self
        while hop is not None:
            outbounds.append(hop.to_dict())
            server: DNSServer | None = hop.dial.resolver
            while server is not None:
                servers[server.tag] = server.to_dict()
                server = server.resolver
            hop = hop.via
        config: dict[str, Any] = {"outbounds": outbounds}
        if servers:
            config["dns"] = {"servers": list(servers.values())}
        return config

    def with_outbounds(self, outbounds: Iterable[Mapping[str, Any] | AnyTLSOutbound]) -> AnyTLSOutbound:
        """Return the same outbound with its ``detour`` looked up among ``outbounds``, unless it was already.

        Raises ``ConfigError`` for a missing tag and for a loop.
        """
        return self._with_outbounds(tuple(outbounds), (self.tag,) if self.tag else ())

    def _with_outbounds(self, outbounds: Sequence[object], trail: tuple[str, ...]) -> AnyTLSOutbound:
        if self.dial.detour is None or self.via is not None:
            return self
        return replace(self, via=follow_detour(self.dial, outbounds, None, trail))

    def describe(self) -> str:
        """Return one line for logs, without the password: ``anytls-out (anytls, proxy.example:443)``."""
        return f"{self.tag or 'outbound'} (anytls, {host_port(self.server, self.server_port)})"

    @classmethod
    def _from_place(cls, config: object, path: str, document: object) -> AnyTLSOutbound:
        """Return the outbound of ``config``, whose errors name the place in the document too."""
        from .sources import siblings

        outbounds, dns_servers = siblings(document)
        try:
            return cls._read(config, outbounds, dns_servers, ())
        except ConfigError as problem:
            message = f"{path}{problem}"
        raise ConfigError(message)


def coerce_outbound(
    config: object, outbounds: Iterable[Mapping[str, Any] | AnyTLSOutbound] | None = None
) -> AnyTLSOutbound:
    """Return the outbound that a client was given: one that is made already, or a dict.

    ``outbounds``: those that ``detour`` may name; None leaves it for later. Raises ``ConfigError`` for
    everything else, and for what is wrong in the dict.
    """
    if isinstance(config, AnyTLSOutbound):
        return config if outbounds is None else config.with_outbounds(outbounds)
    if isinstance(config, Mapping):
        return AnyTLSOutbound.from_dict(config, outbounds=outbounds)
    # The value isn't shown: it may well be a URI or a JSON text with a password.
    raise ConfigError(
        f"outbound: got {describe_value(config, secret=True)}, takes a dict or an AnyTLSOutbound"
        " (from_json, from_file and from_uri make one)"
    )


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
