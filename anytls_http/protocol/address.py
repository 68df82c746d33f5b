"""Target addresses as they stand on the wire (SocksAddr): ``ATYP u8 | address | port u16``.

Names are sent as names: the server resolves them.
"""

from __future__ import annotations

import functools
import ipaddress
import re

__all__ = ["checked_pair", "decode_address", "encode_address", "is_name"]

_IPV4 = 1
_DOMAIN = 3
_IPV6 = 4

#: Most bytes of a name: its length is one byte on the wire.
MAX_NAME = 255

# Besides control characters and spaces, the delimiters of URLs: no name has them, and IDNA's
# normalisation can make them out of harmless looking characters.
_NAME = re.compile(r"[^\x00-\x20\x7f-\U0010ffff/\\?#@\[\]:%]+")


def checked_pair(address: object) -> tuple[str, int]:
    """Return a caller's address as it is; raises :class:`TypeError` where it is no pair of host and port."""
    if isinstance(address, tuple | list) and len(address) == 2:
        host, port = address
        if isinstance(host, str) and isinstance(port, int):
            return host, port
    raise TypeError(f"an address is a pair of a host (str) and a port (int), not {address!r}")


def encode_address(host: str, port: int) -> bytes:
    """Return the SocksAddr of ``host`` and ``port`` (0 to 65,535).

    ``host`` is an IP address (IPv6 with or without brackets) or a name; a name with other than ASCII
    characters is IDNA encoded, any other is sent as it is. Raises :class:`ValueError` in plain words.
    """
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"the port must be from 0 to 65535, not {port}")
    return _encode_host(host) + port.to_bytes(2, "big")


@functools.lru_cache(maxsize=1024)  # new connections go to the same few targets
def _encode_host(host: str) -> bytes:
    if ":" in host or host.startswith("["):
        return bytes((_IPV6,)) + _ipv6(host)
    # Only an address ends in a digit (no top-level domain does), and trying is slow.
    if host[-1:].isdigit():
        try:
            return bytes((_IPV4,)) + ipaddress.IPv4Address(host).packed
        except ipaddress.AddressValueError:
            pass  # a name after all, like "host1"
    name = _name(host)
    return bytes((_DOMAIN, len(name))) + name


def is_name(host: str) -> bool:
    """Whether ``host`` is to be resolved, no IP address; it need not be a possible name."""
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return True
    return False


def _ipv6(host: str) -> bytes:
    text = host
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    if "%" in text:
        raise ValueError(f"{_shown(host)}: an IPv6 address with a zone has no meaning on the server's side")
    try:
        return ipaddress.IPv6Address(text).packed
    except ipaddress.AddressValueError:
        raise ValueError(f"{_shown(host)} is neither an IPv6 address nor a host name") from None


def _name(host: str) -> bytes:
    if not host:
        raise ValueError("the host is empty")
    # Before IDNA, which takes long for a long name.
    if len(host) > MAX_NAME:
        raise ValueError(f"the host name has {len(host)} characters, more than {MAX_NAME}")
    text = host
    if not host.isascii():
        try:
            text = host.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise ValueError(f"{_shown(host)} can't be encoded as an international name: {error}") from None
        if not 0 < len(text) <= MAX_NAME:
            raise ValueError(f"{_shown(host)} has {len(text)} bytes when encoded, must be 1 to {MAX_NAME}")
    if _NAME.fullmatch(text) is None:
        raise ValueError(f"{_shown(host)} has a character that no host name can have")
    return text.encode("ascii")


def _shown(host: str) -> str:
    text = ascii(host)
    return text if len(text) <= 100 else text[:100] + "..."


def decode_address(data: bytes | bytearray | memoryview) -> tuple[str, int, int]:
    """Return host, port and the number of bytes that the SocksAddr at the start of ``data`` takes.

    Raises :class:`ValueError` where ``data`` ends too early or holds no address.
    """
    head = bytes(data[: 4 + MAX_NAME])
    if not head:
        raise ValueError("the address is cut short")
    kind, start = head[0], 1
    if kind == _IPV4:
        size = 4
    elif kind == _IPV6:
        size = 16
    elif kind == _DOMAIN:
        if len(head) < 2:
            raise ValueError("the address is cut short")
        size, start = head[1], 2
        if not size:
            raise ValueError("the address has an empty name")
    else:
        raise ValueError(f"unknown address type {kind}")
    end = start + size
    if len(head) < end + 2:
        raise ValueError("the address is cut short")
    raw = head[start:end]
    port = int.from_bytes(head[end : end + 2], "big")
    if kind == _DOMAIN:
        return _decoded_name(raw), port, end + 2
    return str(ipaddress.ip_address(raw)), port, end + 2


def _decoded_name(raw: bytes) -> str:
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("the name in the address is not ASCII") from None
