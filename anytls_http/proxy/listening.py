"""Where the proxy listens, and who may use it: what is refused before it starts."""

from __future__ import annotations

import ipaddress
import socket

from anytls_http.errors import ConfigError

from .incoming import Credentials, shown


def make_credentials(username: str | None, password: str | None) -> Credentials | None:
    """Return what clients have to know, None when that is nothing. Raises :class:`ConfigError`."""
    if username is None and password is None:
        return None
    if not username or password is None:
        raise ConfigError("username, password: both are needed, or neither")
    if ":" in username or len(username.encode()) > 255 or len(password.encode()) > 255:
        raise ConfigError("username, password: at most 255 bytes each, and no colon in the user name")
    return Credentials(username, password)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach ``host``. Raises :class:`ConfigError` where it is none."""
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)
    except OSError as exc:
        raise ConfigError(f"listen: {shown(host)}: {exc.strerror or exc}") from None
    except UnicodeError:
        raise ConfigError(f"listen: {shown(host)} is not a host") from None


def open_listener(address: tuple[str, int]) -> socket.socket:
    """Return a listening socket that doesn't block. Raises ``OSError`` in plain words, and :class:`ConfigError`."""
    host, port = address
    if not 0 <= port <= 65535:
        raise ConfigError(f"listen: {port} is not a port")
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(where[:2], family=family, backlog=1024)
    except OSError as exc:
        where_to = shown(f"{host}:{port}")
        raise OSError(exc.errno, f"can't listen on {where_to}: {exc.strerror or exc}") from exc
    listener.setblocking(False)
    return listener
