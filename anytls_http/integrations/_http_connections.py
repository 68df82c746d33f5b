"""The connections of an HTTP pool: which one a request gets, and what becomes of it when the request has ended.

Bookkeeping only, for one thread at a time: ``_http_pool.py`` has the lock, and closes what is handed out as
superfluous, since that may tell the user's hooks.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

#: Most targets that are remembered for having no HTTP/2.
MOST_REMEMBERED = 10_000

#: Where a request goes: scheme, host, port.
Target = tuple[bytes, bytes, int | None]


class Pooled:
    """A connection, and what the pool knows of it."""

    __slots__ = ("connection", "idle_since", "requests", "stream", "target", "turns")

    def __init__(self, connection: Any, target: Target) -> None:
        self.connection = connection
        self.target = target
        self.idle_since = 0.0
        #: The stream of an HTTP/2 connection, once a response has come on it. There a thread may send what another is
        #: about to: so nothing is certain not to have been sent once a request has begun, and it must be known before
        #: that the stream is alive.
        self.stream: Any = None
        self.turns = threading.RLock()  # see _http2_turns.py
        self.requests = 0  # begun, and their responses not closed; more than one with HTTP/2


class Place:
    """One request's place in the pool: on a connection, or in the queue for one."""

    __slots__ = ("deadline", "pooled", "ready", "target", "url")

    def __init__(self, url: Any, deadline: float | None) -> None:
        self.url = url
        self.target: Target = (url.scheme, url.host, url.port)
        self.deadline = deadline  # until when it may wait
        self.pooled: Pooled | None = None
        # Only while it waits: released when there is a connection. No Event: those run Python under a lock of
        # their own.
        self.ready: Any = None

    def wait(self) -> None:
        """Have the request wait for a connection."""
        self.ready = threading.Lock()
        self.ready.acquire()

    def take(self, pooled: Pooled) -> None:
        """Put the request on ``pooled``; the pool's lock is held."""
        # No call before the last, where an interrupt could come.
        pooled.requests += 1
        self.pooled = pooled
        ready, self.ready = self.ready, None
        if ready is not None:
            ready.release()


class Connections:
    """Those in use and those idle, and the requests that wait for one.

    ``make_connection``, ``options``: see :class:`HTTPPool`; ``most``, ``most_idle``: of connections. Where a method
    takes ``superfluous``, it adds the connections to it that are to be closed.
    """

    def __init__(
        self, make_connection: Callable[..., Any], most: int, most_idle: int, options: dict[str, Any]
    ) -> None:
        self._make_connection = make_connection
        self._most = most
        self._most_idle = most_idle
        self._http2: bool = options["http2"]
        self._options = options
        self.all: set[Pooled] = set()
        self.idle: OrderedDict[Pooled, None] = OrderedDict()  # the one that was used last is the last
        self._idle_to: dict[Target, OrderedDict[Pooled, None]] = {}  # the same, in the same order
        self.waiting: deque[Place] = deque()  # only while there are ``most`` connections, and none is idle
        self._http1_only: set[Target] = set()

    # -- taking one ------------------------------------------------------------------------------------

    def find(self, place: Place, superfluous: list[Pooled]) -> None:
        """Give ``place`` a connection, or put it into the queue."""
        if not self._take_idle(place, superfluous) and not self._join(place):
            if self.idle and len(self.all) >= self._most:
                superfluous.append(self._drop_oldest())
            if len(self.all) < self._most:
                self._connect(place)
            else:
                place.wait()
                self.waiting.append(place)

    def replace(self, place: Place, ended: Pooled, superfluous: list[Pooled]) -> None:
        """Give ``place`` another connection than the one that has ended; it keeps its turn."""
        superfluous.append(ended)
        ended.requests -= 1
        place.pooled = None
        self.all.discard(ended)
        if not self._take_idle(place, superfluous) and not self._join(place):
            if len(self.all) < self._most:
                self._connect(place)
            else:  # the others that shared it have ended it before
                place.wait()
                self.waiting.appendleft(place)
        self.serve()

    def _take_idle(self, place: Place, superfluous: list[Pooled]) -> bool:
        """Take the idle connection that was used last, if there is one."""
        target = place.target
        while target in self._idle_to:
            found = next(reversed(self._idle_to[target]))
            self.forget_idle(found)
            # Another request may share it at once, so it must be known to be good; no socket is asked with HTTP/2.
            if self.may_share(target) and found.connection.has_expired():
                self.all.remove(found)
                superfluous.append(found)
                continue
            place.take(found)
            return True
        return False

    def may_share(self, target: Target) -> bool:
        """Whether several requests may be on one connection to ``target``, as far as is known."""
        return self._http2 and target not in self._http1_only

    def _join(self, place: Place) -> bool:
        """Share a connection in use that takes more requests, or may do so once it is connected."""
        if self.may_share(place.target):
            for pooled in self.all:
                if pooled.requests and pooled.target == place.target and pooled.connection.is_available():
                    place.take(pooled)
                    return True
        return False

    def learn(self, place: Place, response: Any) -> None:
        """Remember who has no HTTP/2, so that nobody waits for a connection that can't be shared."""
        target = place.target
        if response.extensions.get("http_version") == b"HTTP/2":
            self._http1_only.discard(target)
            stream = response.extensions.get("network_stream")
            if place.pooled is not None and stream is not None:
                stream.is_shared = True
                place.pooled.stream = stream
        elif target not in self._http1_only:
            if len(self._http1_only) >= MOST_REMEMBERED:
                self._http1_only.clear()
            self._http1_only.add(target)

    def _connect(self, place: Place) -> None:
        """Give ``place`` a new connection, which connects at its first request."""
        pooled = Pooled(self._make_connection(place.url.origin, **self._options), place.target)
        place.take(pooled)
        self.all.add(pooled)

    # -- giving it back --------------------------------------------------------------------------------

    def end(self, place: Place, superfluous: list[Pooled]) -> None:
        """The request of ``place`` has ended, on its connection or in the queue."""
        if place.ready is not None:
            place.ready = None
            if place in self.waiting:
                self.waiting.remove(place)
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
        if pooled in self.all and pooled.connection.is_available():
            place = self._next_waiting()
            if place is not None and place.target == pooled.target:
                place.take(pooled)
                self.waiting.popleft()
                self._share(pooled)
                return
            self.keep_idle(pooled)
            if place is not None or len(self.idle) > self._most_idle:
                superfluous.append(self._drop_oldest())
        else:
            self.all.discard(pooled)
            superfluous.append(pooled)
        self.serve()

    def serve(self) -> None:
        """Make connections for those who wait, as far as the limit allows."""
        while len(self.all) < self._most and (place := self._next_waiting()) is not None:
            self._connect(place)
            self.waiting.popleft()
            if place.pooled is not None:
                self._share(place.pooled)

    def _next_waiting(self) -> Place | None:
        """Return the first who waits. It leaves the queue after it was served: so no interrupt loses it."""
        while self.waiting:
            place = self.waiting[0]
            if place.ready is not None:
                return place
            self.waiting.popleft()  # served already, and then there was an interrupt
        return None

    def _share(self, pooled: Pooled) -> None:
        """Let those who wait for the same target share ``pooled``."""
        if (
            self._next_waiting() is not None
            and self.may_share(pooled.target)
            and pooled in self.all
            and pooled.connection.is_available()
        ):
            for place in [place for place in self.waiting if place.ready and place.target == pooled.target]:
                place.take(pooled)
                self.waiting.remove(place)

    def _drop_oldest(self) -> Pooled:
        oldest = next(iter(self.idle))
        self.forget_idle(oldest)
        self.all.remove(oldest)
        return oldest

    def keep_idle(self, pooled: Pooled) -> None:
        """Keep a connection that nobody uses, as the one that was used last."""
        same = self._idle_to.get(pooled.target)
        if same is None:
            same = OrderedDict()
        pooled.idle_since = time.monotonic()
        # No call in between, where an interrupt could come.
        self.idle[pooled] = None
        same[pooled] = None
        self._idle_to[pooled.target] = same

    def forget_idle(self, pooled: Pooled) -> None:
        """Forget that a connection is idle, since it is taken or closed."""
        same = self._idle_to[pooled.target]
        is_last = len(same) == 1
        del self.idle[pooled]
        del same[pooled]
        if is_last:
            del self._idle_to[pooled.target]

    # -- all of them -----------------------------------------------------------------------------------

    def take_lost(self, superfluous: list[Pooled]) -> None:
        """Forget those that an interrupt has lost: nobody uses them, and nobody can take them."""
        lost = [pooled for pooled in self.all if not pooled.requests and pooled not in self.idle]
        self.all.difference_update(lost)
        superfluous += lost

    def take_idle_since(self, before: float, taken: list[Pooled]) -> None:
        """Take those out, oldest first, that have been idle since ``before`` or longer; so nobody else takes them."""
        while self.idle and next(iter(self.idle)).idle_since <= before:
            oldest = next(iter(self.idle))
            self.forget_idle(oldest)
            taken.append(oldest)

    def put_back(self, taken: list[Pooled], ended: set[Pooled], superfluous: list[Pooled]) -> None:
        """Put those back that :meth:`take_idle_since` has taken and that have not ``ended``."""
        for pooled in reversed(taken):
            if pooled in ended:
                self.all.discard(pooled)
                superfluous.append(pooled)
            elif self._next_waiting() is not None:
                self._give_on(pooled, superfluous)
            elif pooled in self.all:
                since = pooled.idle_since
                self.keep_idle(pooled)
                pooled.idle_since = since
                self.idle.move_to_end(pooled, last=False)
                self._idle_to[pooled.target].move_to_end(pooled, last=False)
        self.serve()

    def clear(self) -> None:
        """Forget all connections; who waits for one gets a new one."""
        self.all.clear()
        self.idle.clear()
        self._idle_to.clear()
        self.serve()
