"""The way to a server that isn't a TCP connection of our own: what ``detour`` of the outbound names.

``client.py`` makes one :class:`Detour` for a client whose outbound has a detour, and the pool's dials call
its :meth:`~Detour.connect` in place of ``net.dial.connect_tcp``. A chain is followed from its far end: each
hop connects to the next by whatever leads to itself.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .config import AnyTLSOutbound
from .config.detour import DirectOutbound, HTTPOutbound, SocksOutbound
from .config.endpoint import host_port
from .errors import (
    AnyTLSError,
    AnyTLSTimeout,
    AuthenticationError,
    CertificateError,
    ClientClosed,
    DialError,
)
from .net.dial import connect_tcp
from .net.proxies import http_connect, socks4_connect, socks5_connect
from .net.waiting import deadline_after, earlier

if TYPE_CHECKING:
    from .client import AnyTLSClient
    from .config.detour import Upstream

__all__ = ["Detour"]

#: Seconds that a proxy, or an AnyTLS server, may take to reach the next hop, where the caller has no deadline.
ANSWER_TIMEOUT = 15.0
#: What a hop's own failure stays; anything else is a DialError, since the target was never asked for.
_KEPT = (AnyTLSTimeout, AuthenticationError, CertificateError, ClientClosed)


class Detour:
    """Connects to one server through other outbounds. Any number of threads may use it.

    ``make_client`` makes the client of an ``anytls`` hop (one per hop, its sessions shared by all that is
    dialled through it); :meth:`close` closes it. Nothing is dialled before :meth:`connect`.
    """

    def __init__(self, via: Upstream, make_client: Callable[[AnyTLSOutbound], AnyTLSClient]) -> None:
        self._hop = via
        self._client: AnyTLSClient | None = None
        self._next: Detour | None = None
        if isinstance(via, AnyTLSOutbound):
            self._client = make_client(via)  # it follows its own detour
        elif via.via is not None:
            self._next = Detour(via.via, make_client)

    def __repr__(self) -> str:
        return f"<Detour through {self._hop.describe()}>"

    def connect(
        self,
        host: str,
        port: int,
        deadline: float | None,
        cancelled: Callable[[], bool] | None = None,
    ) -> socket.socket:
        """Return a non-blocking socket to ``host``, connected through the hop; the hop looks the name up.

        ``deadline`` is a time of ``time.monotonic()``, None for the hops' own limits only. ``cancelled``: the
        caller wants no connection any more, once it returns True. Raises :class:`DialError`,
        :class:`AuthenticationError`, :class:`CertificateError` or :class:`AnyTLSTimeout`, each naming the hop.
        """
        try:
            return self._connect(host, port, deadline, cancelled)
        except AnyTLSError as exc:
            kind = type(exc) if isinstance(exc, _KEPT) else DialError
            raise kind(f"detour {self._hop.describe()}: {exc}") from exc

    def close(self) -> None:
        """End the sessions of the ``anytls`` hops, and wake whoever waits for one."""
        if self._client is not None:
            self._client.close()
        if self._next is not None:
            self._next.close()

    def _connect(
        self, host: str, port: int, deadline: float | None, cancelled: Callable[[], bool] | None
    ) -> socket.socket:
        hop = self._hop
        if isinstance(hop, DirectOutbound):
            if self._next is not None:
                return self._next.connect(host, port, deadline, cancelled)
            return connect_tcp(host, port, hop.dial, deadline, cancelled)
        if isinstance(hop, AnyTLSOutbound):
            return self._through_anytls(hop, host, port, deadline)
        return self._through_proxy(hop, host, port, deadline, cancelled)

    def _through_anytls(
        self, hop: AnyTLSOutbound, host: str, port: int, deadline: float | None
    ) -> socket.socket:
        assert self._client is not None
        patience = hop.dial.connect_timeout + hop.tls.handshake_timeout + ANSWER_TIMEOUT
        limit = earlier(deadline, deadline_after(patience))
        assert limit is not None
        # To wait for the server's word costs a round trip per dial, and makes a refusal a plain error: the
        # relay behind as_socket() could only end the socket. A version 1 server gives no such word.
        stream = self._client.create_connection(
            (host, port),
            max(0.0, limit - time.monotonic()),
            wait_open=not _speaks_version_1(self._client),
        )
        try:
            stream.settimeout(None)
            sock = stream.as_socket()
        except BaseException as exc:
            stream.close()
            if isinstance(exc, (OSError, RuntimeError)) and not isinstance(exc, AnyTLSError):
                raise DialError(f"no socket for the stream: {exc}") from exc
            raise
        sock.setblocking(False)
        return sock

    def _through_proxy(
        self,
        hop: SocksOutbound | HTTPOutbound,
        host: str,
        port: int,
        deadline: float | None,
        cancelled: Callable[[], bool] | None,
    ) -> socket.socket:
        if self._next is not None:
            sock = self._next.connect(hop.server, hop.server_port, deadline, cancelled)
        else:
            sock = connect_tcp(hop.server, hop.server_port, hop.dial, deadline, cancelled)
        limit = earlier(deadline, deadline_after(ANSWER_TIMEOUT))
        try:
            if isinstance(hop, HTTPOutbound):
                http_connect(sock, host, port, _http_headers(hop), limit, cancelled)
            elif hop.version == "5":
                user = None if hop.username is None else (hop.username, hop.password or "")
                socks5_connect(sock, host, port, user, limit, cancelled)
            else:
                socks4_connect(sock, host, port, hop.username, limit, cancelled)
        except AnyTLSError as exc:
            sock.close()
            kind = AnyTLSTimeout if isinstance(exc, AnyTLSTimeout) else DialError
            raise kind(f"could not reach {host_port(host, port)} through it: {exc}") from exc
        except BaseException:
            sock.close()
            raise
        return sock


def _speaks_version_1(client: AnyTLSClient) -> bool:
    """Whether the server has sent frames, and never that it speaks version 2."""
    state = client._pool.state
    with state.lock:
        sessions = list(state.sessions)
    return state.server_version != 2 and any(session.frames_received for session in sessions)


def _http_headers(hop: HTTPOutbound) -> list[tuple[str, str]]:
    authorization = hop.authorization()
    own = [("Proxy-Authorization", authorization)] if authorization is not None else []
    return [*own, *hop.headers]
