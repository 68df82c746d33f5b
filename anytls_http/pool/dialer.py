"""Dialling one session: TCP, TLS with the certificate verified, then the authentication, in that order."""

from __future__ import annotations

import socket
import time

from anytls_http._version import __version__
from anytls_http.errors import AnyTLSError, AnyTLSTimeout, ClientClosed, DialError
from anytls_http.net.dial import connect_tcp
from anytls_http.net.steps import observed_by, step
from anytls_http.net.tls import TLSConnection
from anytls_http.net.waiting import deadline_after, earlier
from anytls_http.protocol.session import ClientSession

from .lease import Lease
from .session import Session
from .state import PoolState

#: What Settings call this client, unless ``client_metadata`` says otherwise.
CLIENT_NAME = f"anytls_http/{__version__}"


def dial(state: PoolState, created_for: str, deadline: float | None) -> Lease:
    """Return the lease of a new session, authenticated as far as the client can tell: the server says nothing to that.

    Capped by the outbound's ``connect_timeout`` and ``tls.handshake_timeout``. Raises :class:`DialError`,
    :class:`CertificateError`, :class:`ClientClosed`, or :class:`AnyTLSTimeout` at ``deadline``
    (``time.monotonic()`` seconds).
    """
    outbound = state.outbound
    try:
        with step("dial", server=outbound.server, port=outbound.server_port) as found:
            lease = _dial(state, created_for, deadline)
            found["session"] = lease.session.sequence
            return lease
    except AnyTLSError as exc:
        if not isinstance(exc, ClientClosed):
            with state.lock:
                state.last_error = exc.bare()
        raise


def _connect(state: PoolState, deadline: float | None) -> socket.socket:
    """Return a connected socket to the server: by TCP, or by the way that ``detour`` is."""
    server, port, dial = state.outbound.server, state.outbound.server_port, state.outbound.dial
    if state.connect is None:
        return connect_tcp(server, port, dial, deadline, lambda: state.closed)
    via = state.outbound.via
    with step("detour", detour="" if via is None else via.describe()), observed_by(None):
        # Not the steps of the hops: they would be taken for this server's.
        return state.connect(server, port, deadline, lambda: state.closed)


def _dial(state: PoolState, created_for: str, deadline: float | None) -> Lease:
    outbound = state.outbound
    started = time.monotonic()
    try:
        sock = _connect(state, deadline)
    except DialError:
        if state.closed:
            raise ClientClosed("the client was closed") from None
        raise
    connected = time.monotonic()
    tls: TLSConnection | None = None
    try:
        contexts = state.contexts
        tls = TLSConnection(sock, contexts.context(), contexts.server_hostname)
        state.dialled(tls)
        handshake_deadline = earlier(deadline, deadline_after(outbound.tls.handshake_timeout))
        server = f"{outbound.server}:{outbound.server_port}"
        if outbound.via is not None:
            # A proxy may say yes before it has tried: then its refusal is an end of the connection here.
            server += f" through detour {outbound.via.describe()}"
        try:
            with step("tls", server_name=contexts.server_name) as found:
                tls.handshake(contexts, server, handshake_deadline)
                found["ssl_object"] = tls.engine.ssl_object
        except AnyTLSTimeout:
            seconds = time.monotonic() - connected
            raise AnyTLSTimeout(
                f"no answer from {server} to the TLS handshake within {seconds:.1f} s"
            ) from None
        client = CLIENT_NAME if outbound.client_metadata is None else outbound.client_metadata
        protocol = ClientSession(outbound.password, state.scheme, client, state.rng)
        # One record, together with the last flight of the handshake: one system call, no round trip.
        tls.write([protocol.authentication()], handshake_deadline)
        lease = Lease(state, Session(state, tls, protocol, state.next_sequence(), connected - started))
    except BaseException:
        # The last one to look closes it: nobody else can be inside by now.
        if tls is not None:
            state.dial_over(tls)
        sock.close()
        if state.closed:
            raise ClientClosed("the client was closed") from None
        raise
    state.dial_over(tls)
    state.add(lease.session, created_for, time.monotonic() - started)
    return lease
