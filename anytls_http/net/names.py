"""Whether a certificate is good for a name, for the one case in which OpenSSL can't be asked.

OpenSSL compares names only when it is also to send the name (SNI) to the server. With ``disable_sni`` it may
not, so the comparison is made here, by the rules of RFC 6125 as OpenSSL applies them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["ascii_name", "certificate_names", "is_ip_address", "valid_for"]

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")


def is_ip_address(name: str) -> bool:
    """Tell whether this is an IPv4 or IPv6 address and not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def ascii_name(name: str) -> str:
    """Return a host name as certificates and SNI have it: in IDNA, without the dot of the DNS root.

    Raises ValueError when the name can't be written so (an empty label, or one of more than 63 bytes).
    """
    name = name.removesuffix(".")
    if not name or name.startswith("."):
        raise ValueError("a label is empty")
    return name.encode("idna").decode("ascii")


def certificate_names(certificate: Mapping[str, Any]) -> list[str]:
    """Return the DNS names and IP addresses of a certificate as ``getpeercert()`` gives it."""
    alternatives = certificate.get("subjectAltName", ())
    return [value.strip() for kind, value in alternatives if kind in ("DNS", "IP Address")]


def valid_for(certificate: Mapping[str, Any], name: str) -> bool:
    """Tell whether a certificate, as ``getpeercert()`` gives it, is valid for a host name or IP address.

    Only the subjectAltName counts, never the subject's common name. ``*`` stands for exactly one whole label,
    the left-most one, of a name that has at least two more.
    """
    alternatives = certificate.get("subjectAltName", ())
    if is_ip_address(name):
        wanted = ipaddress.ip_address(name.partition("%")[0])
        addresses = [value.strip() for kind, value in alternatives if kind == "IP Address"]
        return any(is_ip_address(value) and ipaddress.ip_address(value) == wanted for value in addresses)
    host = ascii_name(name).lower()
    return any(
        kind == "DNS" and _matches(value.lower().removesuffix("."), host) for kind, value in alternatives
    )


def _matches(pattern: str, host: str) -> bool:
    if not pattern.startswith("*."):
        return pattern == host
    parent = pattern[2:]
    label, _, rest = host.partition(".")
    return "." in parent and "*" not in parent and rest == parent and _LABEL.fullmatch(label) is not None
