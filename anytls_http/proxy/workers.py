"""The threads that serve the proxy's clients: as many as there is work for, of which some stay for the next client."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from .incoming import Incoming

logger = logging.getLogger("anytls_http.proxy")

#: Threads for greetings and plain HTTP requests; further ones wait for a free one.
MAX_THREADS = 512
#: Threads that stay for the next greeting, and for how many seconds: starting one costs more than the greeting.
SPARE_THREADS = 8
SPARE_SECONDS = 5.0


class Workers:
    """Calls ``serve(client)`` on a thread for each client, and after it, under ``lock``, ``served(client, result)``.

    ``lock`` is the owner's, reentrant; ``changed`` is a condition on it, which is told when a thread ends.
    """

    def __init__(
        self,
        name: str,
        lock: threading.RLock,
        changed: threading.Condition,
        serve: Callable[[Incoming], bool],
        served: Callable[[Incoming, bool], None],
    ) -> None:
        self._name = name
        self._lock = lock
        self._changed = changed
        self._work_waits = threading.Condition(lock)
        self._serve = serve
        self._served = served
        self._spare = 0  # threads that wait for work
        self._stopped = False
        self._waiting: deque[Incoming] = deque()
        self._serving: set[Incoming] = set()
        self.threads = 0

    @property
    def clients(self) -> list[Incoming]:
        """Those that are served, and those that wait for it. The caller holds the lock."""
        return [*self._serving, *self._waiting]

    def __len__(self) -> int:
        """Return how many clients there are. The caller holds the lock."""
        return len(self._serving) + len(self._waiting)

    def start(self, client: Incoming) -> None:
        """Serve ``client``, which is closed where no thread can be had."""
        with self._lock:
            if self._stopped:
                client.close()
                return
            if self._spare > len(self._waiting) or self.threads >= MAX_THREADS:
                self._waiting.append(client)
                self._work_waits.notify()
                return
            self.threads += 1
            self._serving.add(client)
        try:
            threading.Thread(target=self._work, args=(client,), name=self._name, daemon=True).start()
        except RuntimeError as exc:
            logger.warning("no thread for a client: %s", exc)
            client.close()
            with self._lock:
                self.threads -= 1
                self._serving.discard(client)

    def hand_over(self, client: Incoming) -> None:
        """Somebody else counts ``client`` from now on, whose thread isn't done yet. The caller holds the lock."""
        self._serving.discard(client)

    def stop(self) -> None:
        """Take no more clients, and let the threads end. The caller holds the lock."""
        self._stopped = True
        self._work_waits.notify_all()

    def close_waiting(self) -> None:
        """Close the clients that nobody serves yet. The caller holds the lock."""
        for client in self._waiting:
            client.close()
        self._waiting.clear()

    def _work(self, client: Incoming | None) -> None:
        while client is not None:
            result = self._serve(client)
            with self._lock:
                self._serving.discard(client)
                self._served(client, result)
                client = self._next_client()
                if client is None:
                    self.threads -= 1
                    self._changed.notify_all()

    def _next_client(self) -> Incoming | None:
        """Return one that waits for a thread, None when this one has nothing to do. The caller holds the lock."""
        if not self._waiting and self._spare < SPARE_THREADS and not self._stopped:
            self._spare += 1
            self._work_waits.wait_for(lambda: self._waiting or self._stopped, SPARE_SECONDS)
            self._spare -= 1
        if not self._waiting or self._stopped:
            return None
        client = self._waiting.popleft()
        self._serving.add(client)
        return client
