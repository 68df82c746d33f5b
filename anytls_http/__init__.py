"""AnyTLS inside the program: httpx, requests and plain sockets through a pool of AnyTLS sessions.

    with httpx.Client(transport=AnyTLSTransport(outbound)) as http: ...
    session.mount("https://", AnyTLSAdapter(outbound))
    with AnyTLSClient(outbound) as tunnel: tunnel.create_connection(("example.org", 80))

``outbound`` is the ``anytls`` outbound of a sing-box configuration, as a dict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .client import AnyTLSClient, create_connection
from .config import AnyTLSOutbound
from .datagrams import AnyTLSDatagram
from .errors import (
    AnyTLSError,
    AnyTLSTimeout,
    AuthenticationError,
    CertificateError,
    ClientClosed,
    ConfigError,
    DialError,
    SessionClosed,
    StreamRefused,
)
from .pool.stats import PoolStats, SessionInfo
from .sockets import AnyTLSSocket, AnyTLSTLSSocket
from .tls_context import create_default_context

if TYPE_CHECKING:
    from .integrations.httpx import AnyTLSTransport as AnyTLSTransport
    from .integrations.requests import AnyTLSAdapter as AnyTLSAdapter
    from .integrations.requests import requests_session as requests_session
    from .proxy import LocalProxy as LocalProxy

# Without the lazy names: `import *` would load httpx, and fail where requests isn't installed.
__all__ = [
    "AnyTLSClient",
    "AnyTLSDatagram",
    "AnyTLSError",
    "AnyTLSOutbound",
    "AnyTLSSocket",
    "AnyTLSTLSSocket",
    "AnyTLSTimeout",
    "AuthenticationError",
    "CertificateError",
    "ClientClosed",
    "ConfigError",
    "DialError",
    "PoolStats",
    "SessionClosed",
    "SessionInfo",
    "StreamRefused",
    "__version__",
    "create_connection",
    "create_default_context",
]

#: Imported at their first use: neither httpx nor requests nor the proxy is loaded before it is needed.
_LAZY = {
    "AnyTLSTransport": "integrations.httpx",
    "AnyTLSAdapter": "integrations.requests",
    "LocalProxy": "proxy",
    "requests_session": "integrations.requests",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
