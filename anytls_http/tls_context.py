"""An ``ssl.SSLContext`` whose ``wrap_socket`` takes a socket of the tunnel.

The standard library's ``wrap_socket`` works on the descriptor, and would write TLS around the tunnel.
With this context ``http.client``, ``smtplib`` (STARTTLS) and others run on an :class:`AnyTLSSocket`.
"""

from __future__ import annotations

import ssl
from typing import Any

from .net.contexts import load_default_roots
from .sockets import AnyTLSSocket

__all__ = ["TunnelSSLContext", "create_default_context"]


class TunnelSSLContext(ssl.SSLContext):
    """As ``ssl.SSLContext``; a socket of the tunnel gets TLS inside the tunnel, any other as usual."""

    def wrap_socket(self, sock: Any, *args: Any, **kwargs: Any) -> Any:
        """Do a TLS handshake over ``sock``; arguments and errors as ``ssl.SSLContext.wrap_socket``."""
        if not isinstance(sock, AnyTLSSocket):
            return super().wrap_socket(sock, *args, **kwargs)
        return _wrap(self, sock, *args, **kwargs)


def _wrap(
    context: ssl.SSLContext,
    sock: AnyTLSSocket,
    server_side: bool = False,
    do_handshake_on_connect: bool = True,
    suppress_ragged_eofs: bool = True,
    server_hostname: str | None = None,
    session: ssl.SSLSession | None = None,
) -> Any:
    if server_side or session is not None or not do_handshake_on_connect:
        raise ValueError("TLS in the tunnel is for clients: no server_side, session or late handshake")
    return sock.start_tls(context, server_hostname)


def create_default_context() -> TunnelSSLContext:
    """Return a context that verifies the target, with the roots that httpx trusts.

    Those are ``certifi``'s, or what ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` name. Raises :class:`ConfigError`
    where these can't be read.
    """
    context = TunnelSSLContext(ssl.PROTOCOL_TLS_CLIENT)
    load_default_roots(context)
    return context
