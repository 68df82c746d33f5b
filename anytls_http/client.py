"""The client: what a user holds of the tunnel. One pool of sessions, shared by whatever needs it."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from .config import AnyTLSOutbound, coerce_outbound
from .datagrams import AnyTLSDatagram
from .detour import Detour
from .errors import ClientClosed, StreamRefused
from .net.steps import step, watched
from .net.waiting import AT_ONCE, deadline_after, valid_timeout
from .pool.events import EventHooks
from .pool.pool import Pool
from .pool.stats import PoolStats, SessionInfo
from .protocol.address import checked_pair, encode_address
from .protocol.uot import TARGET as UDP_TARGET
from .sockets import AnyTLSSocket

if TYPE_CHECKING:
    from typing import Self

__all__ = ["AnyTLSClient", "create_connection"]

#: What ``http.client`` hands on to the ``create_connection`` it was given where its own caller gave no time-out.
_NOT_GIVEN: object = getattr(socket, "_GLOBAL_DEFAULT_TIMEOUT", ...)

#: Seconds after which ``wait_open`` takes a server that has said nothing for one of version 1.
VERSION_1_AFTER = 3.0


class AnyTLSClient:
    """A pool of AnyTLS sessions to one server.

    ``config``: the sing-box ``anytls`` outbound as a dict, or an :class:`AnyTLSOutbound`.
    ``outbounds``: those that its ``detour`` may name by tag.
    ``event_hooks``: names of events (``pool.events.EVENT_NAMES``) to lists of callables; each gets one
    frozen event, from any thread. Raises :class:`ConfigError` for what is wrong in them. Nothing is
    dialled here: the first use is ``with``, or the first connection. Any number of threads may use it.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | AnyTLSOutbound,
        *,
        outbounds: Iterable[Mapping[str, Any] | AnyTLSOutbound] = (),
        event_hooks: EventHooks | None = None,
    ) -> None:
        self._outbound = coerce_outbound(config, tuple(outbounds))
        via = self._outbound.via
        self._detour = None if via is None else Detour(via, AnyTLSClient)
        connect = None if self._detour is None else self._detour.connect
        self._pool = Pool(self._outbound, event_hooks, connect)

    @property
    def outbound(self) -> AnyTLSOutbound:
        """The configuration in use."""
        return self._outbound

    def create_connection(
        self,
        address: tuple[str, int],
        timeout: float | EllipsisType | None = ...,
        source_address: None = None,
        *,
        wait_open: bool = False,
    ) -> AnyTLSSocket:
        """Return a stream to ``address`` (host, port), like ``socket.create_connection``.

        The name is resolved by the server. ``timeout``: seconds for this call and, later, for each call on
        the socket; not given: ``socket.getdefaulttimeout()``; a dial is always capped by the outbound's own
        time-outs too. ``wait_open``: wait until the server says that it reached the target; else a refusal
        is raised by the first read.

        Raises :class:`DialError`, :class:`CertificateError`, :class:`ClientClosed`,
        :class:`AnyTLSTimeout`; with ``wait_open`` :class:`StreamRefused` and :class:`AuthenticationError` too.
        ``TypeError`` where ``address`` is no pair of a host and a port.
        """
        seconds = _seconds(timeout)
        if source_address is not None:
            raise TypeError("source_address must be None: it is the server that connects to the target")
        host, port = checked_pair(address)
        try:
            encoded = encode_address(host, port)
        except ValueError as exc:
            raise StreamRefused(f"{host}:{port} can't be a target: {exc}") from exc
        deadline = AT_ONCE if seconds == 0 else deadline_after(seconds)
        if watched():
            with step("open_stream", target=(host, port)) as found:
                lease = self._pool.acquire(deadline)
                found["session"], found["reused"] = lease.session.sequence, lease.session.streams_opened > 0
        else:
            lease = self._pool.acquire(deadline)
        sock = AnyTLSSocket(self._pool, lease, (host, port), encoded, seconds)
        if wait_open:
            try:
                sock._wait_open(deadline, VERSION_1_AFTER)
            except BaseException:
                sock.close()
                raise
        return sock

    def create_datagram(
        self, address: tuple[str, int] | None = None, timeout: float | EllipsisType | None = ...
    ) -> AnyTLSDatagram:
        """Return a socket for datagrams (UDP) through the tunnel: to and from ``address`` only, or to any.

        The server must know UDP over TCP version 2, as sing-box does. ``timeout`` as in
        :meth:`create_connection`, which says what is raised.
        """
        seconds = _seconds(timeout)
        return AnyTLSDatagram(lambda: self.create_connection(UDP_TARGET, seconds), address, seconds)

    def wait_ready(self, n: int = 1, timeout: float | None = None) -> None:
        """Wait until ``n`` sessions are ready for use, dialling them where ``ensure_idle_session`` is less.

        ``timeout``: seconds. Raises :class:`AnyTLSTimeout`, with the last dial's error in its words; ``TypeError`` and
        ``ValueError`` for what is no number of sessions or seconds.
        """
        if not isinstance(n, int):
            raise TypeError(f"n is a number of sessions (int), not {n!r}")
        self._pool.wait_ready(n, valid_timeout(timeout))

    def stats(self) -> PoolStats:
        """Return the pool's numbers of this moment."""
        return self._pool.stats()

    def sessions(self) -> list[SessionInfo]:
        """Return what each of the pool's sessions is doing at this moment, the oldest first."""
        return self._pool.sessions()

    def close(self) -> None:
        """End all sessions at once and wake whoever is blocked in one; any number of times."""
        self._pool.close()
        if self._detour is not None:
            self._detour.close()

    def __enter__(self) -> Self:
        if self._pool.state.closed:
            raise ClientClosed("the client is closed")
        self._pool.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            "a client can't be pickled: its sessions belong to this process; pickle its configuration"
        )

    def __repr__(self) -> str:
        stats = self.stats()
        where = f"{self._outbound.server}:{self._outbound.server_port}"
        state = "closed" if self._pool.state.closed else f"{stats.idle} idle, {stats.active} active"
        return f"<AnyTLSClient to {where}, {state}>"


def _seconds(timeout: float | EllipsisType | None) -> float | None:
    if timeout is _NOT_GIVEN or isinstance(timeout, EllipsisType):
        return socket.getdefaulttimeout()
    return valid_timeout(timeout)


def create_connection(
    address: tuple[str, int],
    timeout: float | EllipsisType | None = ...,
    source_address: None = None,
    *,
    tunnel: Mapping[str, Any] | AnyTLSOutbound | AnyTLSClient,
    wait_open: bool = False,
) -> AnyTLSSocket:
    """Return a stream to ``address`` through ``tunnel``: a factory for libraries that take one.

    ``functools.partial(anytls_http.create_connection, tunnel=client)`` has the shape of
    ``socket.create_connection``. ``tunnel``: a client, whose pool is used and which stays open; or a
    configuration, for a client of this one connection, which ends with it. Other arguments, and what is
    raised, as :meth:`AnyTLSClient.create_connection`; :class:`ConfigError` too.
    """
    if isinstance(tunnel, AnyTLSClient):
        return tunnel.create_connection(address, timeout, source_address, wait_open=wait_open)
    client = AnyTLSClient(tunnel)
    try:
        sock = client.create_connection(address, timeout, source_address, wait_open=wait_open)
    except BaseException:
        client.close()
        raise
    sock._on_end = client.close
    return sock
