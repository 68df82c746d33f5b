"""httpcore's connection pool, with two of its faults kept from the user. httpcore2 has cured both.

* httpcore 1.0 decides under its lock which connections are idle and to be closed, and closes them after it.
  Meanwhile another thread may have begun a request on one, which would fail half sent, with an error that is
  nobody's fault. Here closing and beginning exclude each other: a request that comes too late gets another
  connection, one that came first is let end.
* It takes ``max_keepalive_connections`` for a limit on all connections, not on the idle ones: from one thread more
  than that on, none is kept alive. Here the limit is applied as a request ends, to the idle ones.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpcore


class TunnelConnection(httpcore.ConnectionInterface):
    """A connection of httpcore's that is closed only between requests."""

    def __init__(self, pool: TunnelPool, connection: httpcore.ConnectionInterface) -> None:
        self._pool = pool
        self._connection = connection
        self._lock = threading.Lock()
        self._requests = 0  # begun, and their responses not closed; more than 1 with HTTP/2
        self.closing = False
        # Asked for each connection at each request: without a call in between.
        self.can_handle_request = connection.can_handle_request  # type: ignore[method-assign]
        self.is_available = connection.is_available  # type: ignore[method-assign]
        self.has_expired = connection.has_expired  # type: ignore[method-assign]
        self.is_idle = connection.is_idle  # type: ignore[method-assign]
        self.is_closed = connection.is_closed  # type: ignore[method-assign]
        self.info = connection.info  # type: ignore[method-assign]

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send ``request``, return its response; raises ``ConnectionNotAvailable`` once the pool closed this."""
        with self._lock:
            if self.closing:
                raise httpcore.ConnectionNotAvailable
            self._requests += 1
        try:
            response = self._connection.handle_request(request)
        except BaseException:
            self.request_ended()
            raise
        response.stream = _Body(response.stream, self)
        return response

    def request_ended(self) -> None:
        """Called once for each request that was begun: it failed, or its response is closed."""
        with self._lock:
            self._requests -= 1
            if self._requests:
                return
            if not (self.closing or self._pool.retire(self)):
                return
        self._connection.close()

    def close(self) -> None:
        """Close, or let the last request do it that is under way; httpcore's pool has forgotten this connection."""
        with self._lock:
            self.closing = True
            if self._requests:
                return
        self._connection.close()

    def end(self) -> None:
        """Close, requests under way or not."""
        with self._lock:
            self.closing = True
        self._connection.close()

    def __repr__(self) -> str:
        return repr(self._connection)


class _Body:
    """A response's body, whose closing ends the request; httpcore closes it once."""

    def __init__(self, stream: Any, connection: TunnelConnection) -> None:
        self._stream = stream
        self._connection = connection

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._connection.request_ended()


class TunnelPool(httpcore.ConnectionPool):
    """A ``ConnectionPool`` of :class:`TunnelConnection`."""

    def __init__(self, *, max_keepalive_connections: int | None, **options: Any) -> None:
        super().__init__(max_keepalive_connections=None, **options)
        self._idle_limit = sys.maxsize if max_keepalive_connections is None else max_keepalive_connections
        self._idle_lock = threading.Lock()

    def create_connection(self, origin: httpcore.Origin) -> httpcore.ConnectionInterface:
        """Return a new connection to ``origin``; httpcore's pool calls it."""
        return TunnelConnection(self, super().create_connection(origin))

    def retire(self, connection: TunnelConnection) -> bool:
        """Mark ``connection``, idle from now on, for closing where it is one more than may be kept; True if so."""
        connections = self.connections
        if len(connections) <= self._idle_limit:
            return False
        with self._idle_lock:  # of two that end at once, the second must not count the first
            idle = sum(other.is_idle() and not getattr(other, "closing", False) for other in connections)
            connection.closing = idle > self._idle_limit
            return connection.closing

    def close(self) -> None:
        """End all connections at once, and the requests on them."""
        for connection in self.connections:
            if isinstance(connection, TunnelConnection):
                connection.end()
        super().close()
