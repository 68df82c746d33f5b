"""What goes over the wire before it is encrypted: the two hellos of a TLS handshake, seen by a relay on the way."""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import dataclass
from typing import Any, Self

from tests.support.relay import Relay

#: Bytes that are kept of each direction: more than any handshake of the tests.
KEPT = 32 * 1024
HANDSHAKE = 22

#: Go's names of what a hello has as numbers (RFC 8446, RFC 8422, RFC 7905).
CURVES = {23: "P256", 24: "P384", 25: "P521", 29: "X25519", 4588: "X25519MLKEM768"}
VERSIONS = {0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}
SUITES = {
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
    0xC009: "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    0xC00A: "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    0xC013: "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    0xC014: "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    0xC02B: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    0xC02C: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    0xC02F: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    0xC030: "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    0xCCA8: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    0xCCA9: "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
}


@dataclass(frozen=True)
class ClientHello:
    """What a client offers."""

    server_name: bytes | None
    groups: list[str]
    suites: list[str]


@dataclass(frozen=True)
class ServerHello:
    """What a server chose, by Go's names; ``group`` for TLS 1.3 only."""

    version: str
    suite: str
    group: str


class Wiretap(Relay):
    """A relay that keeps what passes: ``sent`` as the client's pieces arrived, ``answered`` as one text."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(target)
        self.sent: list[bytes] = []
        self.answered = b""

    def _read(self, way: Any) -> None:
        before = len(way.waiting)
        super()._read(way)
        for _, data in list(way.waiting)[before:]:
            if way.upwards and sum(map(len, self.sent)) < KEPT:
                self.sent.append(data)
            elif not way.upwards and len(self.answered) < KEPT:
                self.answered += data

    @property
    def client_hello(self) -> ClientHello:
        """What the first client offered."""
        return read_client_hello(b"".join(self.sent))

    @property
    def server_hello(self) -> ServerHello:
        """What the server chose in its last ServerHello."""
        return read_server_hello(self.answered)


def records(data: bytes) -> list[tuple[int, bytes]]:
    """Return the TLS records in ``data`` as (type, body); a half one at the end is left out."""
    found = []
    while len(data) >= 5:
        kind, _, size = struct.unpack("!BHH", data[:5])
        if len(data) < 5 + size:
            break
        found.append((kind, data[5 : 5 + size]))
        data = data[5 + size :]
    return found


def read_client_hello(data: bytes) -> ClientHello:
    """Parse the ClientHello at the beginning of ``data``, in however many records it is."""
    body = _message(data, 1)[34:]
    body = body[1 + body[0] :]
    size = _u16(body)
    suites = [SUITES.get(_u16(body[at:]), "") for at in range(2, 2 + size, 2)]
    body = body[2 + size :]
    found = _extensions(body[1 + body[0] :])
    groups = found.get(10, b"\0\0")
    return ClientHello(
        server_name=found[0][5:] if 0 in found else None,
        groups=[CURVES.get(_u16(groups[at:]), "") for at in range(2, len(groups), 2)],
        suites=suites,
    )


def read_server_hello(data: bytes) -> ServerHello:
    """Parse the first ServerHello in ``data`` (no hello retry)."""
    body = _message(data, 2)
    version = _u16(body)
    body = body[34:]
    body = body[1 + body[0] :]
    suite = _u16(body)
    found = _extensions(body[3:])
    if 43 in found:
        version = _u16(found[43])
    group = CURVES.get(_u16(found[51]), "") if 51 in found else ""
    return ServerHello(VERSIONS[version], SUITES.get(suite, hex(suite)), group)


def _message(data: bytes, kind: int) -> bytes:
    body = b"".join(body for record, body in records(data) if record == HANDSHAKE)
    while body and body[0] != kind:
        body = body[4 + int.from_bytes(body[1:4], "big") :]
    return body[4 : 4 + int.from_bytes(body[1:4], "big")]


def _extensions(data: bytes) -> dict[int, bytes]:
    found = {}
    data = data[2 : 2 + _u16(data)] if len(data) >= 2 else b""
    while len(data) >= 4:
        kind, size = struct.unpack("!HH", data[:4])
        found[kind] = data[4 : 4 + size]
        data = data[4 + size :]
    return found


def _u16(data: bytes) -> int:
    return int.from_bytes(data[:2], "big")


class Sniffer:
    """TCP segments on loopback to one port, in order, as the kernel sent them (Linux; needs CAP_NET_RAW)."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._keep_only(port)
        # 3: ETH_P_ALL, which alone sees what is sent.
        self._sock.bind(("lo", 3))
        self._sock.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._sock.close()

    def _keep_only(self, port: int) -> None:
        """Let the kernel drop all but TCP to this port: what other tests send would fill the socket's buffer."""
        drop = 8
        program = [
            (0x28, 0, 0, 12),  # the Ethernet type
            (0x15, 0, drop - 2, 0x0800),  # IPv4?
            (0x30, 0, 0, 23),  # the protocol
            (0x15, 0, drop - 4, 6),  # TCP?
            (0xB1, 0, 0, 14),  # the length of the IP header
            (0x48, 0, 0, 16),  # the port after it
            (0x15, 0, drop - 7, port),
            (0x06, 0, 0, 0x40000),  # keep
            (0x06, 0, 0, 0),  # drop
        ]
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
        so_attach_filter = 26
        filter_program = struct.pack("HL", len(program), ctypes.addressof(code))
        self._sock.setsockopt(socket.SOL_SOCKET, so_attach_filter, filter_program)

    def segments(self) -> list[bytes]:
        """Return the payloads of all segments since the beginning or the last call."""
        found = []
        while True:
            try:
                packet, address = self._sock.recvfrom(65536)
            except BlockingIOError:
                return found
            if address[2] != socket.PACKET_OUTGOING or _u16(packet[12:]) != 0x0800 or packet[23] != 6:
                continue
            ip = packet[14 : 14 + _u16(packet[16:])]
            tcp = ip[(ip[0] & 15) * 4 :]
            payload = tcp[(tcp[12] >> 4) * 4 :]
            if _u16(tcp[2:]) == self._port and payload:
                found.append(payload)
