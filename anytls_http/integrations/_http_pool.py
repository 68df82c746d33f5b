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

import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

from anytls_http.net.forks import forget_in_children

#: Seconds between two looks at idle connections, at those that nobody has taken for as long.
SWEEP_EVERY = 1.0
#: Most targets that are remembered for having no HTTP/2.
MOST_REMEMBERED = 10_000

SCHEMES = frozenset({b"http", b"https", b"ws", b"wss"})
#: Where a request goes: scheme, host, port.
Target = tuple[bytes, bytes, int | None]


class Pooled:
    """A connection, and what the pool knows of it."""

    __slots__ = ("connection", "idle_since", "requests", "target")

    def __init__(self, connection: Any, target: Target) -> None:
        self.connection = connection
        self.target = target
        self.idle_since = 0.0
        self.requests = 0  # begun, and their responses not closed; more than one with HTTP/2


class Place:
    """One request's place in the pool: on a connection, or in the queue for one."""

    __slots__ = ("deadline", "pooled", "ready", "target", "url")

    def __init__(self, url: Any, deadline: float | None) -> None:
        self.url = url
        self.target: Target = (url.scheme, url.host, url.port)
        self.deadline = deadline  # until when it may wait
        self.pooled: Pooled | None = None
        # While it waits: released when there is a connection. No Event: those run Python under a lock of their own.
        self.ready: Any = None

    def take(self, pooled: Pooled) -> None:
        """Put the request on ``pooled``; the pool's lock is held."""
        pooled.requests += 1
        self.pooled = pooled
        if self.ready is not None:
            self.ready.release()


class HTTPPool:
    """Sends httpcore's requests on connections that it keeps; for any number of threads.

    ``core``: the module ``httpcore`` or ``httpcore2``. ``max_connections``, ``max_keepalive_connections``: None
    for no limit. ``options``: more for ``core.HTTPConnection``.
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
        self._http2 = http2
        self._options: dict[str, Any] = {**options, "http2": http2}
        self._begin_empty()
        forget_in_children(self)

    def _begin_empty(self) -> None:
        self._lock = threading.RLock()
        self._is_inside = False  # a thread is between two states; RLock lets its own finalizers in
        self._all: set[Pooled] = set()
        self._idle: OrderedDict[Pooled, None] = OrderedDict()  # the one that was used last is the last
        self._idle_to: dict[Target, OrderedDict[Pooled, None]] = {}  # the same, in the same order
        self._waiting: deque[Place] = deque()  # only while there are ``_most`` connections, and none is idle
        self._ended: deque[Place] = deque()  # of requests that have ended, and are still to be settled
        self._next_sweep = 0.0
        self._http1_only: set[Target] = set()

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
        timeout = request.extensions.get("timeout", {}).get("pool")
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            place = Place(url, deadline)
            try:
                response = self._connection_for(place).handle_request(request)
                if self._http2:
                    self._learn(place.target, response)
                response.stream = _Body(response.stream, self, place)
                return response
            except self._core.ConnectionNotAvailable:
                self.release(place)  # its server speaks HTTP/1.1 only, or takes no more streams
            except BaseException:
                self.release(place)
                raise

    # -- taking a connection ---------------------------------------------------------------------------

    def _connection_for(self, place: Place) -> Any:
        """Give ``place`` a connection, and return httpcore's part of it."""
        if time.monotonic() >= self._next_sweep:
            self._sweep()
        superfluous = self._find(place)
        while True:
            for pooled in superfluous:
                pooled.connection.close()
            if place.ready is not None:
                self._wait(place)
            found = place.pooled
            assert found is not None
            # An idle one may have ended. This may tell the user's hooks of it: so not under the lock.
            if self._may_share(place.target) or not found.connection.has_expired():
                return found.connection
            superfluous = self._replace(place, found)

    def _find(self, place: Place) -> list[Pooled]:
        """Give ``place`` a connection, or put it into the queue; return those that are to be closed."""
        superfluous: list[Pooled] = []
        with self._lock:
            self._is_inside = True
            try:
                if not self._take_idle(place, superfluous) and not self._join(place):
                    if self._idle and len(self._all) >= self._most:
                        superfluous.append(self._drop_oldest())
                    if len(self._all) < self._most:
                        self._connect(place)
                    else:
                        place.ready = threading.Lock()
                        place.ready.acquire()
                        self._waiting.append(place)
            finally:
                self._is_inside = False
        self._settle()
        return superfluous

    def _replace(self, place: Place, ended: Pooled) -> list[Pooled]:
        """Give ``place`` another connection than the one that has ended, which keeps its turn; return that one."""
        superfluous = [ended]
        with self._lock:
            self._is_inside = True
            try:
                ended.requests -= 1
                place.pooled = None
                self._all.discard(ended)
                if not self._take_idle(place, superfluous):
                    self._connect(place)
                self._serve()
            finally:
                self._is_inside = False
        self._settle()
        return superfluous

    def _take_idle(self, place: Place, superfluous: list[Pooled]) -> bool:
        """Take the idle connection that was used last, if there is one."""
        target = place.target
        while target in self._idle_to:
            found = next(reversed(self._idle_to[target]))
            self._forget_idle(found)
            # Another request may share it at once, so it must be known to be good; no socket is asked with HTTP/2.
            if self._may_share(target) and found.connection.has_expired():
                self._all.remove(found)
                superfluous.append(found)
                continue
            place.take(found)
            return True
        return False

    def _may_share(self, target: Target) -> bool:
        return self._http2 and target not in self._http1_only

    def _join(self, place: Place) -> bool:
        """Share a connection in use that takes more requests, or may do so once it is connected."""
        if self._may_share(place.target):
            for pooled in self._all:
                if pooled.requests and pooled.target == place.target and pooled.connection.is_available():
                    place.take(pooled)
                    return True
        return False

    def _learn(self, target: Target, response: Any) -> None:
        """Remember who has no HTTP/2, so that nobody waits for a connection that can't be shared."""
        if response.extensions.get("http_version") == b"HTTP/2":
            self._http1_only.discard(target)
        elif target not in self._http1_only:
            if len(self._http1_only) >= MOST_REMEMBERED:
                self._http1_only.clear()
            self._http1_only.add(target)

    def _connect(self, place: Place) -> None:
        """Give ``place`` a new connection, which connects at its first request."""
        pooled = Pooled(self._core.HTTPConnection(place.url.origin, **self._options), place.target)
        place.take(pooled)
        self._all.add(pooled)

    def _wait(self, place: Place) -> None:
        deadline = place.deadline
        left = -1 if deadline is None else min(threading.TIMEOUT_MAX, max(0.0, deadline - time.monotonic()))
        if not place.ready.acquire(timeout=left):
            limit = f"all {self._most} connections that the limit allows are in use"
            raise self._core.PoolTimeout(f"timed out while waiting for a connection: {limit}")
        place.ready = None

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
                        self._end(self._ended[0], superfluous)
                        self._ended.popleft()  # not before: an interrupt would lose it
                finally:
                    self._is_inside = False
            for pooled in superfluous:
                pooled.connection.close()

    def _end(self, place: Place, superfluous: list[Pooled]) -> None:
        if place.ready is not None and place in self._waiting:
            self._waiting.remove(place)
        pooled = place.pooled
        if pooled is None:
            return
        pooled.requests -= 1
        place.pooled = None
        if pooled.requests:
            self._share(pooled)
        else:
            self._give_on(pooled, superfluous)

    def _give_on(self, pooled: Pooled, superfluous: list[Pooled]) -> None:
        """Find the next use of a connection that nobody uses any more."""
        if pooled in self._all and pooled.connection.is_available():
            if self._waiting and self._waiting[0].target == pooled.target:
                self._waiting.popleft().take(pooled)
                self._share(pooled)
                return
            self._keep_idle(pooled)
            if self._waiting or len(self._idle) > self._most_idle:
                superfluous.append(self._drop_oldest())
        else:
            self._all.discard(pooled)
            superfluous.append(pooled)
        self._serve()

    def _serve(self) -> None:
        """Make connections for those who wait, as far as the limit allows."""
        while self._waiting and len(self._all) < self._most:
            place = self._waiting.popleft()
            self._connect(place)
            if place.pooled is not None:
                self._share(place.pooled)

    def _share(self, pooled: Pooled) -> None:
        """Let those who wait for the same target share ``pooled``."""
        if (
            self._waiting
            and self._may_share(pooled.target)
            and pooled in self._all
            and pooled.connection.is_available()
        ):
            for place in [place for place in self._waiting if place.target == pooled.target]:
                place.take(pooled)
                self._waiting.remove(place)

    def _drop_oldest(self) -> Pooled:
        oldest = next(iter(self._idle))
        self._forget_idle(oldest)
        self._all.remove(oldest)
        return oldest

    def _keep_idle(self, pooled: Pooled) -> None:
        same = self._idle_to.get(pooled.target)
        if same is None:
            same = OrderedDict()
        pooled.idle_since = time.monotonic()
        # No call in between, where an interrupt could come.
        self._idle[pooled] = None
        same[pooled] = None
        self._idle_to[pooled.target] = same

    def _forget_idle(self, pooled: Pooled) -> None:
        same = self._idle_to[pooled.target]
        is_last = len(same) == 1
        del self._idle[pooled]
        del same[pooled]
        if is_last:
            del self._idle_to[pooled.target]

    def _sweep(self) -> None:
        """Close the idle connections that have ended or are too old, and those that an interrupt has lost."""
        now = time.monotonic()
        self._next_sweep = now + SWEEP_EVERY
        looked_at: list[Pooled] = []
        superfluous: list[Pooled] = []
        with self._lock:
            if self._is_inside:
                return
            self._is_inside = True
            try:
                superfluous += [
                    pooled for pooled in self._all if not pooled.requests and pooled not in self._idle
                ]
                self._all.difference_update(superfluous)
                while self._idle and now - next(iter(self._idle)).idle_since >= SWEEP_EVERY:
                    oldest = next(iter(self._idle))
                    self._forget_idle(oldest)  # so that nobody takes it while it is looked at
                    looked_at.append(oldest)
            finally:
                self._is_inside = False
        # This may tell the user's hooks of the end: so not under the lock.
        ended = {pooled for pooled in looked_at if pooled.connection.has_expired()}
        with self._lock:
            self._is_inside = True
            try:
                for pooled in reversed(looked_at):
                    if pooled in ended:
                        self._all.discard(pooled)
                        superfluous.append(pooled)
                    elif self._waiting:
                        self._give_on(pooled, superfluous)
                    elif pooled in self._all:
                        since = pooled.idle_since
                        self._keep_idle(pooled)
                        pooled.idle_since = since
                        self._idle.move_to_end(pooled, last=False)
                        self._idle_to[pooled.target].move_to_end(pooled, last=False)
                self._serve()
            finally:
                self._is_inside = False
        self._settle()
        for pooled in superfluous:
            pooled.connection.close()

    def close(self) -> None:
        """Close all connections, and end the requests on them."""
        with self._lock:
            closing = list(self._all)
            if (
                not self._is_inside
            ):  # a signal's handler may come at any time: then requests find what it has closed
                self._is_inside = True
                try:
                    self._all.clear()
                    self._idle.clear()
                    self._idle_to.clear()
                    self._serve()
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
