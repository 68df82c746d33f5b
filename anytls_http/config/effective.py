"""What an outbound comes to, field by field, and what each value was set by: for ``anytls-http check-config``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields as options_of
from typing import Any, NamedTuple

from .._version import __version__
from .definitions import FIELDS, FieldDefinition, Kind, default_text
from .durations import format_duration, parse_duration
from .options import TLSOptions
from .outbound import AnyTLSOutbound
from .sources import choose_outbound, parse_json, read_text

__all__ = ["Setting", "chain", "effective_settings", "raw_outbound"]

_HIDDEN = "(hidden)"
_MISSING = object()


class Setting(NamedTuple):
    """One field: ``path`` as in errors, ``value`` as a configuration would have it, and who set it."""

    path: str
    value: str
    set_by: str


def raw_outbound(path: str, tag: str | None = None) -> Mapping[str, Any]:
    """Return the dict in a file that ``AnyTLSOutbound.from_file`` makes the outbound of."""
    chosen, _ = choose_outbound(parse_json(read_text(os.fspath(path))), tag)
    assert isinstance(chosen, Mapping)  # from_file has taken it
    return chosen


def effective_settings(
    outbound: AnyTLSOutbound, raw: Mapping[str, Any], origin: str = "file"
) -> list[Setting]:
    """Return the settings of ``outbound``, which was made of ``raw``; ``origin`` is what ``raw`` is called.

    Fields that nothing here depends on are there only when they are set.
    """
    return list(filter(None, (_setting(field, outbound, raw, origin) for field in FIELDS)))


def _setting(
    field: FieldDefinition, outbound: AnyTLSOutbound, raw: Mapping[str, Any], origin: str
) -> Setting | None:
    given = _at(raw, field.path)
    if isinstance(given, Mapping):
        return None  # its members have rows of their own
    value = _effective(field, outbound)
    if value is _MISSING:
        if given is None:
            return None
        value = given
    if given is None:
        over = _at(raw, "domain_resolver.strategy") if field.path == "domain_strategy" else None
        set_by = "domain_resolver.strategy" if over else "default"
        return Setting(field.path, _default_shown(field, outbound, value), set_by)
    if _is_empty(field, given):
        unset = default_text(field).replace("`", "") or "not set"
        return Setting(field.path, _default_shown(field, outbound, value), f"{origin} (empty: {unset})")
    return Setting(field.path, _shown(field, value), origin)


def _at(raw: object, path: str) -> object:
    """Return the value at a dotted path; None where there is none."""
    for name in path.split("."):
        if not isinstance(raw, Mapping):
            return None
        raw = raw.get(name)
    return raw


def _effective(field: FieldDefinition, outbound: AnyTLSOutbound) -> object:
    """Return the value that the other layers read; _MISSING where they read none."""
    holders = {"": (outbound, outbound.pool, outbound.dial), "tls": (outbound.tls,)}
    for holder in holders.get(field.parent, ()):
        if field.kind is not Kind.OBJECT and field.name in {option.name for option in options_of(holder)}:
            value: object = getattr(holder, field.name)
            return value
    return _MISSING


def _default_shown(field: FieldDefinition, outbound: AnyTLSOutbound, value: object) -> str:
    if field.path == "tls.server_name":
        return json.dumps(outbound.server, ensure_ascii=False)
    if field.path == "client_metadata":
        return json.dumps(f"anytls_http/{__version__}")
    if field.path == "tls.certificate":
        return _default_roots(outbound.tls)
    if value in (None, "", ()) or (field.kind is Kind.DURATION and not value):
        return default_text(field).replace("`", "") or "-"
    return _shown(field, value)


def _default_roots(tls: TLSOptions) -> str:
    if tls.certificate_path or tls.certificate_public_key_sha256 or tls.insecure:
        return "-"
    variable = next((name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), None)
    return f"those of {variable}" if variable else "certifi's"


def _shown(field: FieldDefinition, value: object) -> str:
    if field.secret:
        return _HIDDEN
    if isinstance(value, str) and "-----BEGIN" in value:
        return "(PEM)"
    if field.kind is Kind.DURATION and isinstance(value, int | float):
        value = format_duration(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _is_empty(field: FieldDefinition, given: object) -> bool:
    if field.path == "client_metadata":
        return False  # an empty string is sent
    if field.kind is Kind.DURATION and isinstance(given, str) and given:
        return not parse_duration(given)
    return given in ("", [], ())


def chain(outbound: AnyTLSOutbound) -> Iterator[str]:
    """Yield what each outbound of the ``detour`` chain is called, the one to be dialled first at the end."""
    hop = outbound.via
    while hop is not None:
        yield hop.describe()
        hop = hop.via
