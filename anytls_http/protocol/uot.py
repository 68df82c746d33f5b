"""UDP over TCP, version 2: datagrams as they stand in a stream of the tunnel.

The stream goes to :data:`TARGET`. First the request: ``is_connect u8 | SocksAddr``. Then each datagram,
in both directions: ``length u16 | data`` where ``is_connect`` was 1, else with its address before the
length: ``ATYP u8 | address | port u16``, where ATYP has numbers of its own.
"""

from __future__ import annotations

import ipaddress

from .address import checked_pair, decode_address, encode_address

__all__ = ["MAX_DATAGRAM", "TARGET", "DatagramDecoder", "encode_datagram", "encode_request"]

#: What the stream is opened to; the server knows this name.
TARGET = ("sp.v2.udp-over-tcp.arpa", 0)
#: Most bytes of a datagram over IPv4: 65,535 less the headers of IP and UDP.
MAX_DATAGRAM = 65507

# The ATYPs of datagrams, by those of SocksAddr.
_KINDS = {1: 0, 4: 1, 3: 2}
_SOCKS_KINDS = {kind: socks for socks, kind in _KINDS.items()}

Address = tuple[str, int]


def encode_request(address: Address | None) -> bytes:
    """Return what goes first: datagrams to and from ``address`` only, or (None) each with its own.

    Raises :class:`ValueError` for an address that can't be one.
    """
    if address is None:
        return b"\x00" + encode_address("0.0.0.0", 0)
    return b"\x01" + encode_address(*checked_pair(address))


def encode_datagram(data: bytes | bytearray | memoryview, address: Address | None) -> bytes:
    """Return one datagram; ``address`` where the request named none. Raises :class:`ValueError`."""
    size = len(data)
    if size > 0xFFFF:
        raise ValueError(f"a datagram of {size} bytes: 65535 are possible")
    head = b""
    if address is not None:
        encoded = encode_address(*checked_pair(address))
        head = bytes((_KINDS[encoded[0]],)) + encoded[1:]
    return b"".join((head, size.to_bytes(2, "big"), data))


class DatagramDecoder:
    """Datagrams out of a stream: :meth:`feed` what came, then take :meth:`next` until it is None.

    What can't be a datagram is a :class:`ValueError`, for good: nothing after it can be told apart.
    """

    def __init__(self, with_addresses: bool) -> None:
        self._with_addresses = with_addresses
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take over what came."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next(self) -> tuple[Address | None, bytes] | None:
        """Return the next datagram and its source (None where all have the same), None when it isn't whole yet."""
        with memoryview(self._buffer) as whole, whole[self._start :] as view:
            address, at = self._address(view) if self._with_addresses else (None, 0)
            if at < 0 or len(view) < at + 2:
                return None
            end = at + 2 + int.from_bytes(view[at : at + 2], "big")
            if len(view) < end:
                return None
            self._start += end
            return address, bytes(view[at + 2 : end])

    def _address(self, view: memoryview) -> tuple[Address | None, int]:
        """Return the address and its size, -1 when it isn't whole yet."""
        if not view:
            return None, -1
        kind = _SOCKS_KINDS.get(view[0])
        if kind is None:
            raise ValueError(f"unknown address type {view[0]} of a datagram")
        if kind == 3:
            if len(view) < 2:
                return None, -1
            size = 4 + view[1]
        else:
            size = 7 if kind == 1 else 19
        if len(view) < size:
            return None, -1
        host, port, _ = decode_address(bytes((kind,)) + bytes(view[1:size]))
        if kind == 4:
            mapped = ipaddress.IPv6Address(host).ipv4_mapped
            host = str(mapped) if mapped is not None else host
        return (host, port), size
