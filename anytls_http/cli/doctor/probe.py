"""A second look at a server that has failed: its certificate, trusted or not, and whether it is a web site.

Neither look sends anything of the configuration but the name of the server.
"""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING

from anytls_http.net.dial import connect_tcp

from .certificate import CertificateFacts, printable, read_certificate

if TYPE_CHECKING:
    from anytls_http.pool.state import PoolState


def shown_certificate(state: PoolState, timeout: float) -> CertificateFacts | None:
    """Return what the server's certificate says, whoever the server is; None where there is no seeing it.

    ``timeout``: seconds.
    """
    try:
        with _unverified(state, timeout) as tls:
            return read_certificate(tls.getpeercert(binary_form=True))
    except OSError:
        return None


def web_answer(state: PoolState, timeout: float) -> str | None:
    """Return the status line where the server answers HTTP, None where it doesn't. ``timeout``: seconds."""
    request = f"GET / HTTP/1.1\r\nHost: {state.contexts.server_name}\r\nConnection: close\r\n\r\n"
    try:
        with _unverified(state, timeout) as tls:
            tls.sendall(request.encode("ascii", "replace"))
            answer = tls.recv(200)
    except OSError:
        return None
    if not answer.startswith(b"HTTP/"):
        return None
    return printable(answer.partition(b"\r\n")[0].decode("latin-1"))


def _unverified(state: PoolState, timeout: float) -> ssl.SSLSocket:
    """Return a TLS connection to the server, made by the way that the client takes, with whoever answers."""
    deadline = time.monotonic() + timeout
    server, port = state.outbound.server, state.outbound.server_port
    sock: socket.socket
    if state.connect is None:
        sock = connect_tcp(server, port, state.outbound.dial, deadline)
    else:
        sock = state.connect(server, port, deadline, lambda: False)
    try:
        sock.settimeout(timeout)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(sock, server_hostname=state.contexts.server_hostname)
    except BaseException:
        sock.close()
        raise
