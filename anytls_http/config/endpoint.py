"""Reading where a server is: ``server`` and ``server_port``, which several kinds of objects have."""

from __future__ import annotations

from .fields import Fields
from .hosts import plausible_host

__all__ = ["host_port", "read_server", "read_server_port"]

_HIGHEST_PORT = 65535


def read_server(fields: Fields, what: str) -> str:
    """Return the host of ``what`` ("the AnyTLS server"), which is required."""
    server = fields.filled_text("server")
    if server is None:
        fields.fail("server", f"is required: the host name or IP address of {what}")
    if "://" in server or "@" in server:
        # Not shown: this is a whole URI, and the password is in it.
        fields.fail("server", "takes a host name or an IP address; for a URI there is from_uri")
    return fields.parsed("server", server, plausible_host)


def read_server_port(fields: Fields, default: int | None = None) -> int:
    """Return the port, which is required where there is no default. 0 is the default's number."""
    port = fields.integer("server_port", 1 if default is None else 0, _HIGHEST_PORT) or default
    if port is None:
        fields.fail("server_port", f"is required: an integer from 1 to {_HIGHEST_PORT}")
    return port


def host_port(host: str, port: int) -> str:
    """Return ``host:port`` for people, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
