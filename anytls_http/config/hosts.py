"""What a server name may look like: host names, IPv4 and IPv6 addresses."""

from __future__ import annotations

import ipaddress
import re

__all__ = ["ip_address_text", "plausible_host"]

#: A label of a host name. Underscores are no host name by the RFCs, but names with them resolve.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_TAKES = "a host name or an IP address"
_LONGEST_NAME = 253


def plausible_host(text: str) -> str:
    """Return the host without the brackets that an IPv6 address may have.

    Raises ``ValueError`` with what would be right. This looks at the form only; nothing is resolved.
    """
    host = text[1:-1] if text.startswith("[") and text.endswith("]") and ":" in text else text
    if _is_ip_address(host):
        return host
    if host.count(":") == 1 and host.rpartition(":")[2].isdigit():
        raise ValueError(f"{_TAKES} without a port: the port has a field of its own")
    ascii_name = _to_ascii(host).removesuffix(".")
    labels = ascii_name.split(".")
    # All digits in the last label is an IPv4 address gone wrong (999.1.1.1, 1.2.3): the system would
    # guess what was meant, or ask the name servers for it.
    if len(ascii_name) > _LONGEST_NAME or labels[-1].isdigit() or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(_TAKES)
    return host


def ip_address_text(text: str, version: int) -> str:
    """Return the IP address as it stands; ``ValueError`` where it is none of this version (4 or 6)."""
    if not _is_ip_address(text) or ipaddress.ip_address(text).version != version:
        raise ValueError(f"an IPv{version} address")
    return text


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    # A zone (fe80::1%eth0) is taken as it is by ipaddress, whatever characters it has.
    return text.isprintable() and " " not in text


def _to_ascii(host: str) -> str:
    if len(host) > _LONGEST_NAME + 1:
        raise ValueError(_TAKES)
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(_TAKES) from None
