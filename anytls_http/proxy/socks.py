"""The greetings of SOCKS5 (RFC 1928, RFC 1929), SOCKS4 and SOCKS4a."""

from __future__ import annotations

import enum
import ipaddress
import socket
from typing import NamedTuple

from anytls_http.protocol.address import decode_address

from .incoming import BadGreeting, Credentials, Incoming
from .verdicts import Reply

SOCKS5, SOCKS4 = 5, 4

#: Most bytes of a user id or a name in SOCKS4a.
MAX_TEXT = 255

_NO_AUTHENTICATION, _PASSWORD, _NO_METHOD = 0, 2, 0xFF
_ADDRESS_SIZES = {1: 4, 4: 16}  # and 3: a length, then a name


class Command(enum.IntEnum):
    """What a client can ask for."""

    CONNECT = 1
    UDP_ASSOCIATE = 3


class Wish(NamedTuple):
    """What the client asked for; ``version`` says how it is to be answered."""

    version: int
    command: Command
    host: str
    port: int


def greet(client: Incoming, credentials: Credentials | None) -> Wish:
    """Do the client's greeting. Raises :class:`BadGreeting` when it was refused, and told so."""
    version = client.exactly(1)[0]
    return _greet4(client, credentials) if version == SOCKS4 else _greet5(client, credentials)


def answer(client: Incoming, version: int, reply: Reply, bound: tuple[str, int] = ("0.0.0.0", 0)) -> None:
    """Tell the client how its wish went; ``bound``: the address that UDP ASSOCIATE gave it."""
    if version == SOCKS4:
        client.send(bytes((0, 90 if reply is Reply.SUCCEEDED else 91)) + bytes(6))
        return
    address = ipaddress.ip_address(bound[0].partition("%")[0])
    kind = 1 if address.version == 4 else 4
    client.send(bytes((SOCKS5, reply, 0, kind)) + address.packed + bound[1].to_bytes(2, "big"))


def _greet5(client: Incoming, credentials: Credentials | None) -> Wish:
    methods = client.exactly(client.exactly(1)[0])
    if credentials is not None:
        method = _PASSWORD if _PASSWORD in methods else _NO_METHOD
    elif _NO_AUTHENTICATION in methods:
        method = _NO_AUTHENTICATION
    else:
        method = _PASSWORD if _PASSWORD in methods else _NO_METHOD  # anybody may come in
    client.send(bytes((SOCKS5, method)))
    if method == _NO_METHOD:
        raise BadGreeting("no acceptable way to authenticate")
    if method == _PASSWORD:
        _check_password(client, credentials)
    version, command, _, kind = client.exactly(4)
    if version != SOCKS5:
        raise BadGreeting("not a SOCKS5 request")
    if kind == 3:
        size = client.exactly(1)
        address = bytes((3,)) + size + client.exactly(size[0] + 2)
    elif kind in _ADDRESS_SIZES:
        address = bytes((kind,)) + client.exactly(_ADDRESS_SIZES[kind] + 2)
    else:
        answer(client, SOCKS5, Reply.ADDRESS_TYPE_NOT_SUPPORTED)
        raise BadGreeting(f"unknown address type {kind}")
    try:
        host, port, _ = decode_address(address)
    except ValueError as exc:
        answer(client, SOCKS5, Reply.GENERAL_FAILURE)
        raise BadGreeting(str(exc)) from None
    return _wish(client, SOCKS5, command, host, port)


def _check_password(client: Incoming, credentials: Credentials | None) -> None:
    client.exactly(1)
    username = client.exactly(client.exactly(1)[0])
    password = client.exactly(client.exactly(1)[0])
    if credentials is not None and not credentials.match(username, password):
        client.send(b"\x01\x01")
        raise BadGreeting("wrong user name or password")
    client.send(b"\x01\x00")


def _greet4(client: Incoming, credentials: Credentials | None) -> Wish:
    command = client.exactly(1)[0]
    port = int.from_bytes(client.exactly(2), "big")
    address = client.exactly(4)
    client.until_zero(MAX_TEXT)  # the user id, which nobody checks
    if address[:3] == bytes(3) and address[3]:  # 0.0.0.x: SOCKS4a, the name follows
        try:
            host = client.until_zero(MAX_TEXT).decode("ascii")
        except UnicodeDecodeError:
            answer(client, SOCKS4, Reply.GENERAL_FAILURE)
            raise BadGreeting("the name is not ASCII") from None
    else:
        host = socket.inet_ntoa(address)
    if credentials is not None:
        answer(client, SOCKS4, Reply.NOT_ALLOWED)
        raise BadGreeting("SOCKS4 has no passwords")
    return _wish(client, SOCKS4, command, host, port)


def _wish(client: Incoming, version: int, command: int, host: str, port: int) -> Wish:
    known = {Command.CONNECT} if version == SOCKS4 else set(Command)
    if command not in known:
        answer(client, version, Reply.COMMAND_NOT_SUPPORTED)
        raise BadGreeting(f"command {command} is not supported")
    return Wish(version, Command(command), host, port)
