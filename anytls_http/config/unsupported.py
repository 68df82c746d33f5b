"""The fields of sing-box that are known here and can't be honoured yet, refused by name.

One table: who makes a field work takes its row out and reads it in ``dial.py`` or ``tls.py``. A field that
is set to what it would be anyway (empty, false, ``enabled: false``) asks for nothing and is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from .fields import Fields

__all__ = ["MEMBERS", "NOT_SUPPORTED_YET", "not_supported_names", "refuse_not_supported"]


#: What the objects that are not supported yet may have beside ``enabled``; nobody looks at it.
MEMBERS = {
    "tls.ech": (
        "config",
        "config_path",
        "query_server_name",
        "pq_signature_schemes_enabled",
        "dynamic_record_sizing_disabled",
    ),
    "tls.utls": ("fingerprint",),
    "tls.reality": ("public_key", "short_id"),
}


def _is_switched_on(fields: Fields, name: str) -> object:
    group = fields.group(name, {"enabled", *MEMBERS[fields.where(name)]})
    return group is not None and group.flag("enabled")


#: Path of the field -> how to read it; whatever is read and isn't false or empty is refused.
NOT_SUPPORTED_YET: dict[str, Callable[[Fields, str], object]] = {
    "domain_resolver.client_subnet": Fields.text,
    "domain_resolver.timeout": Fields.duration,
    "tls.spoof": Fields.text,
    "tls.spoof_method": Fields.text,
    "tls.ech": _is_switched_on,
    "tls.utls": _is_switched_on,
    "tls.reality": _is_switched_on,
}


def not_supported_names(path: str = "") -> Collection[str]:
    """Return the names in the table of the object at this path, which are known names there."""
    return {name for parent, _, name in map(_split, NOT_SUPPORTED_YET) if parent == path}


def refuse_not_supported(fields: Fields) -> None:
    """Raise ``ConfigError`` for the first field of this object that is set and not supported yet."""
    for full_path, read in NOT_SUPPORTED_YET.items():
        parent, _, name = _split(full_path)
        if parent == fields.path and read(fields, name):
            fields.fail(name, "is not supported yet")


def _split(full_path: str) -> tuple[str, str, str]:
    return full_path.rpartition(".")
