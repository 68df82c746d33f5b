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
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from anytls_http.net.forks import forget_in_children
from anytls_http.net.waiting import remaining

from ._http2_turns import begin_in_turn
from ._http_connections import Connections, Place, Pooled

#: Seconds between two looks at idle connections, at those that nobody has taken for as long.
SWEEP_EVERY = 1.0

SCHEMES = frozenset({b"http", b"https", b"ws", b"wss"})


class HTTPPool:
    """Sends httpcore's requests on connections that it keeps; for any number of threads.

    ``core``: the module ``httpcore`` or ``httpcore2``. ``max_connections``, ``max_keepalive_connections``: None
    for no limit. ``make_connection``: called with an origin and ``options``, in place of ``core.HTTPConnection``.
    """

    def __init__(
        self,
        core: Any,
        *,
        max_connections: int | None,
        max_keepalive_connections: int | None,
        http2: bool,
        make_connection: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        self._core = core
        self._make_connection = make_connection or core.HTTPConnection
        self._most = sys.maxsize if max_connections is None else max_connections
        self._most_idle = sys.maxsize if max_keepalive_connections is None else max_keepalive_connections
        self._options: dict[str, Any] = {**options, "http2": http2}
        self._begin_empty()
        forget_in_children(self)

    def _begin_empty(self) -> None:
        self._lock = threading.RLock()
        self._is_inside = False  # a thread is between two states; RLock lets its own finalizers in
        self._kept = Connections(self._make_connection, self._most, self._most_idle, self._options)
        #: Of requests that have ended, and are still to be settled.
        self.ended: deque[Place] = deque()
        self._next_sweep = 0.0

    @property
    def connections(self) -> list[Any]:
        """The connections in use or idle, as httpcore's objects."""
        return [pooled.connection for pooled in self._kept.all.copy()]

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
                connection = self._connection_for(place)
                if self._options["http2"]:
                    assert place.pooled is not None
                    response = begin_in_turn(place.pooled.turns, connection, request)
                    self._kept.learn(place, response)
                else:
                    response = connection.handle_request(request)
                response.stream = _Body(response.stream, self, place)
                return response
            except self._core.ConnectionNotAvailable:
                self.release(place)  # its server speaks HTTP/1.1 only, or takes no more streams
            except BaseException:
                self.ended.append(place)  # first of all, before an interrupt can come
                self.settle()
                raise

    # -- taking a connection ---------------------------------------------------------------------------

    def _connection_for(self, place: Place) -> Any:
        """Give ``place`` a connection, and return httpcore's part of it."""
        self._sweep()
        superfluous: list[Pooled] = []
        self._exclusively(self._kept.find, place, superfluous)
        while True:
            self.settle()
            for pooled in superfluous:
                pooled.connection.close()
            ready = place.ready
            if ready is not None:
                self._wait(ready, place.deadline)
            found = place.pooled
            assert found is not None
            # It may have ended. This may tell the user's hooks of it: so not under the lock.
            if found.stream is not None:
                is_good = found.stream.prove_alive()
            else:
                is_good = self._kept.may_share(place.target) or not found.connection.has_expired()
            if is_good:
                return found.connection
            superfluous = []
            self._exclusively(self._kept.replace, place, found, superfluous)

    def _wait(self, ready: Any, deadline: float | None) -> None:
        """Wait for ``ready``, and look after the connections meanwhile: everybody else may be waiting too."""
        while True:
            left = SWEEP_EVERY if deadline is None else min(SWEEP_EVERY, remaining(deadline))
            if ready.acquire(timeout=left):
                return
            if not left:
                limit = f"all {self._most} connections that the limit allows are in use"
                raise self._core.PoolTimeout(f"timed out while waiting for a connection: {limit}")
            self.settle()
            self._sweep()

    # -- giving it back --------------------------------------------------------------------------------

    def release(self, place: Place) -> None:
        """The request of ``place`` has ended; any number of times.

        The finalizer of an abandoned response comes here too, and may run anywhere: inside the lock as well, on
        the thread that has it, which then settles this when it is done.
        """
        self.ended.append(place)
        self.settle()

    def settle(self) -> None:
        """Give on the connections of requests that have ended."""
        while self.ended:
            superfluous: list[Pooled] = []
            if not self._unless_inside(self._end_all, superfluous):
                return
            for pooled in superfluous:
                pooled.connection.close()

    def _end_all(self, superfluous: list[Pooled]) -> None:
        while self.ended:
            self._kept.end(self.ended[0], superfluous)
            self.ended.popleft()  # not before: an interrupt would lose it

    def _sweep(self) -> None:
        """Now and then, close the idle connections that have ended or are too old, and what an interrupt has lost."""
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_EVERY
        taken: list[Pooled] = []
        superfluous: list[Pooled] = []

        def take() -> None:
            self._kept.take_lost(superfluous)
            self._kept.take_idle_since(now - SWEEP_EVERY, taken)

        if not self._unless_inside(take):
            return
        # This may tell the user's hooks of the end: so not under the lock.
        ended = {pooled for pooled in taken if pooled.connection.has_expired()}
        self._exclusively(self._kept.put_back, taken, ended, superfluous)
        self.settle()
        for pooled in superfluous:
            pooled.connection.close()

    def close(self) -> None:
        """Close all connections, and end the requests on them."""
        with self._lock:
            closing = list(self._kept.all)
            # A signal's handler may come at any time: then requests find what it has closed.
            self._unless_inside(self._kept.clear)
        for pooled in closing:
            pooled.connection.close()
        self.settle()

    # -- one thread at a time --------------------------------------------------------------------------

    def _exclusively(self, step: Callable[..., None], *arguments: Any) -> None:
        """Take a step from one state of the connections to the next."""
        with self._lock:
            self._is_inside = True
            try:
                step(*arguments)
            finally:
                self._is_inside = False

    def _unless_inside(self, step: Callable[..., None], *arguments: Any) -> bool:
        """The same; False where this very thread is inside a step, in a finalizer or a signal's handler."""
        with self._lock:
            if self._is_inside:
                return False
            self._exclusively(step, *arguments)
            return True

    def forget_in_child(self) -> None:
        """In a forked child: other threads' requests are gone, and a lock that one of them has had.

        Idle connections, which are the parent's, have ended here: they are closed when they are looked at.
        """
        idle = () if self._is_inside else tuple(self._kept.idle)
        self._begin_empty()
        for pooled in idle:
            self._kept.all.add(pooled)
            self._kept.keep_idle(pooled)


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
            self._pool.ended.append(self._place)  # first of all, before an interrupt can come
            self._pool.settle()
