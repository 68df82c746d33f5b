"""The HTTP connections of one transport: httpcore's connections, in a pool of our own.

httpcore's own pool looks at every connection twice per request, under its lock, and asks of each idle one
whether its peer has ended it; that was a tenth of a small request, and more with many threads
(``docs/performance.md``). The one of httpcore 1.0 also closes connections under requests that have just begun
on them, and takes ``max_keepalive_connections`` for a limit on all connections. Here a request takes the
connection that was used last, which nobody else can take or close meanwhile, and looks at that one only.

The rules are the same else: ``max_connections`` at once, for which requests wait in their order; at most
``max_keepalive_connections`` idle ones, of which those that are too old are closed; an HTTP/2 connection is shared.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

#: Seconds between two looks at all idle connections, for those that the target has ended or that are too old.
SWEEP_EVERY = 1.0

SCHEMES = frozenset({b"http", b"https", b"ws", b"wss"})
#: Where a request goes: scheme, host, port.
Target = tuple[bytes, bytes, int | None]


class Pooled:
    """A connection, and what the pool knows of it."""

    __slots__ = ("connection", "requests", "target")

    def __init__(self, connection: Any, target: Target) -> None:
        self.connection = connection
        self.target = target
        self.requests = 0  # begun, and their responses not closed; more than one with HTTP/2


class Place:
    """One request's place in the pool: on a connection, or in the queue for one."""

    __slots__ = ("pooled", "ready", "target", "url")

    def __init__(self, url: Any) -> None:
        self.url = url
        self.target: Target = (url.scheme, url.host, url.port)
        self.pooled: Pooled | None = None
        self.ready: threading.Event | None = None  # while it waits: set when there is a connection

    def take(self, pooled: Pooled) -> None:
        """Put the request on ``pooled``; the pool's lock is held."""
        pooled.requests += 1
        self.pooled = pooled
        if self.ready is not None:
            self.ready.set()


class HTTPPool:
    """Sends httpcore's requests on connections that it keeps; for any number of threads.

    ``core``: the module ``httpcore`` or ``httpcore2``. ``max_connections``, ``max_keepalive_connections``: None
    for no limit. ``keepalive_expiry``: seconds, None for never. ``options``: more for ``core.HTTPConnection``.
    """

    def __init__(
        self,
        core: Any,
        *,
        max_connections: int | None,
        max_keepalive_connections: int | None,
        http2: bool,
        **options: Any,
    ) -> None:
        self._core = core
        self._most = sys.maxsize if max_connections is None else max_connections
        self._most_idle = sys.maxsize if max_keepalive_connections is None else max_keepalive_connections
        self._shares = http2
        self._options: dict[str, Any] = {**options, "http2": http2}
        self._begin_empty()
        _pools.add(self)

    def _begin_empty(self) -> None:
        self._lock = threading.RLock()
        self._is_inside = False  # a thread is between two states; RLock lets its own finalizers in
        self._all: set[Pooled] = set()
        self._idle: OrderedDict[Pooled, None] = OrderedDict()  # the one that was used last is the last
        self._idle_to: dict[Target, dict[Pooled, None]] = {}  # the same, in the same order
        self._waiting: deque[Place] = deque()  # only while there are ``_most`` connections, and none is idle
        self._ended: deque[Place] = deque()  # of requests that have ended, and are still to be settled
        self._next_sweep = 0.0

    @property
    def connections(self) -> list[Any]:
        """The connections in use or idle, as httpcore's objects."""
        return [pooled.connection for pooled in self._all.copy()]

    def handle_request(self, request: Any) -> Any:
        """Send ``request`` and return httpcore's response, whose ``stream`` has to be closed.

        Raises httpcore's exceptions, ``PoolTimeout`` where no connection came free within the request's time-out.
        """
        url = request.url
        if url.scheme not in SCHEMES:
            found = url.scheme.decode("ascii", "replace")
            told = f", and this one with {found}:" if found else ""
            raise self._core.UnsupportedProtocol(f"a URL must begin with http:// or https://{told}")
        while True:
            place = Place(url)
            try:
                response = self._connection_for(place, request).handle_request(request)
                response.stream = _Body(response.stream, self, place)
                return response
            except self._core.ConnectionNotAvailable:
                self.release(place)  # its server speaks HTTP/1.1 only, or takes no more streams
            except BaseException:
                self.release(place)
                raise

    # -- taking a connection ---------------------------------------------------------------------------

    def _connection_for(self, place: Place, request: Any) -> Any:
        """Give ``place`` a connection, and return httpcore's part of it."""
        deadline: float | None = None
        while True:
            for superfluous in self._find(place):
                superfluous.connection.close()
            if place.ready is not None:
                if deadline is None:
                    timeout = request.extensions.get("timeout", {}).get("pool")
                    deadline = None if timeout is None else time.monotonic() + timeout
                self._wait(place.ready, deadline)
                place.ready = None
            pooled = place.pooled
            assert pooled is not None
            # Of an idle connection its peer may have ended; others are new, or in use.
            if pooled.requests > 1 or not pooled.connection.has_expired():
                return pooled.connection
            pooled.connection.close()
            self.release(place)

    def _find(self, place: Place) -> list[Pooled]:
        """Give ``place`` a connection, or put it into the queue; return those that are to be closed."""
        target = place.target
        with self._lock:
            self._is_inside = True
            try:
                superfluous = self._sweep()
                if target in self._idle_to:
                    found = next(reversed(self._idle_to[target]))
                    self._forget_idle(found)
                    place.take(found)
                elif self._shares and (shared := self._shared(target)) is not None:
                    place.take(shared)
                else:
                    if self._idle and len(self._all) >= self._most:
                        superfluous.append(self._drop_oldest())
                    if len(self._all) < self._most:
                        self._connect(place)
                    else:
                        place.ready = threading.Event()
                        self._waiting.append(place)
            finally:
                self._is_inside = False
        self._settle()
        return superfluous

    def _shared(self, target: Target) -> Pooled | None:
        """Return a connection to ``target`` in use that takes more requests, or may do so once it is connected."""
        for pooled in self._all:
            if pooled.target == target and pooled.connection.is_available():
                return pooled
        return None

    def _connect(self, place: Place) -> None:
        """Give ``place`` a new connection, which connects at its first request."""
        pooled = Pooled(self._core.HTTPConnection(place.url.origin, **self._options), place.target)
        self._all.add(pooled)
        place.take(pooled)

    def _wait(self, ready: threading.Event, deadline: float | None) -> None:
        left = None if deadline is None else min(threading.TIMEOUT_MAX, deadline - time.monotonic())
        if not ready.wait(left):
            limit = f"all {self._most} connections that the limit allows are in use"
            raise self._core.PoolTimeout(f"timed out while waiting for a connection: {limit}")

    # -- giving it back --------------------------------------------------------------------------------

    def release(self, place: Place) -> None:
        """The request of ``place`` has ended; any number of times.

        The finalizer of an abandoned response comes here too, and may run anywhere: inside the lock as well, on
        the thread that has it, which then settles this when it is done.
        """
        self._ended.append(place)
        self._settle()

    def _settle(self) -> None:
        while self._ended:
            superfluous: list[Pooled] = []
            with self._lock:
                if self._is_inside:
                    return
                self._is_inside = True
                try:
                    while self._ended:
                        self._end(self._ended.popleft(), superfluous)
                finally:
                    self._is_inside = False
            for pooled in superfluous:
                pooled.connection.close()

    def _end(self, place: Place, superfluous: list[Pooled]) -> None:
        pooled, place.pooled = place.pooled, None
        if pooled is None:
            if place in self._waiting:
                self._waiting.remove(place)
            return
        pooled.requests -= 1
        if pooled.requests:
            return
        if pooled in self._all and pooled.connection.is_available():
            if self._waiting and self._waiting[0].target == pooled.target:
                self._waiting.popleft().take(pooled)
                return
            self._keep_idle(pooled)
            if self._waiting or len(self._idle) > self._most_idle:
                superfluous.append(self._drop_oldest())
        else:
            self._all.discard(pooled)
            superfluous.append(pooled)
        while self._waiting and len(self._all) < self._most:
            self._connect(self._waiting.popleft())

    def _drop_oldest(self) -> Pooled:
        oldest = next(iter(self._idle))
        self._forget_idle(oldest)
        self._all.remove(oldest)
        return oldest

    def _keep_idle(self, pooled: Pooled) -> None:
        self._idle[pooled] = None
        self._idle_to.setdefault(pooled.target, {})[pooled] = None

    def _forget_idle(self, pooled: Pooled) -> None:
        del self._idle[pooled]
        same = self._idle_to[pooled.target]
        del same[pooled]
        if not same:
            del self._idle_to[pooled.target]

    def _sweep(self) -> list[Pooled]:
        """Forget, now and then, the idle connections that have ended or are too old; return them."""
        now = time.monotonic()
        if now < self._next_sweep:
            return []
        self._next_sweep = now + SWEEP_EVERY
        ended = [pooled for pooled in self._idle if pooled.connection.has_expired()]
        for pooled in ended:
            self._forget_idle(pooled)
            self._all.remove(pooled)
        return ended

    def close(self) -> None:
        """Close all connections, and end the requests on them."""
        with self._lock:
            self._is_inside = True
            try:
                closing = list(self._all)
                self._all.clear()
                self._idle.clear()
                self._idle_to.clear()
            finally:
                self._is_inside = False
        for pooled in closing:
            pooled.connection.close()
        self._settle()

    def forget_in_child(self) -> None:
        """In a forked child: other threads' requests are gone, and a lock that one of them has had.

        Idle connections, which are the parent's, have ended here: they are closed when they are looked at.
        """
        idle = () if self._is_inside else tuple(self._idle)
        self._begin_empty()
        for pooled in idle:
            self._all.add(pooled)
            self._keep_idle(pooled)


class _Body:
    """A response's body; closing it gives the connection back."""

    def __init__(self, stream: Any, pool: HTTPPool, place: Place) -> None:
        self._stream = stream
        self._pool = pool
        self._place = place

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._pool.release(self._place)


_pools: weakref.WeakSet[HTTPPool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
