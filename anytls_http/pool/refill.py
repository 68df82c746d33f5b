"""When warm sessions are dialled: how many are missing, at what rate, and not for a while after a failure."""

from __future__ import annotations

import math
import random

from anytls_http.config.options import PoolOptions

from . import rules


class Refill:
    """The dials that keep a pool warm; the caller of its methods holds the pool's lock."""

    def __init__(self, options: PoolOptions, rng: random.Random) -> None:
        self._options = options
        self._rng = rng
        self.failed_at = -math.inf  #: when a dial last failed
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what is in flight, and what has failed."""
        self.awaited: list[int] = []  #: how many idle sessions each caller of ``wait_ready`` waits for
        self.dialing = 0  #: dials in flight, those that wait for a thread too
        self.dials_wanted = 0  #: of them, those that no thread has begun
        self.dial_threads = 0
        self.created_this_cycle = 0
        self.failures = 0  #: dials that failed in a row
        self.not_before = 0.0  #: (backoff)

    @property
    def target(self) -> int:
        """The idle sessions that are wanted."""
        return max(self._options.ensure_idle_session, *self.awaited, 0)

    def size(self, idle: int, now: float) -> int:
        """Return how many sessions may be dialled now, where so many are ``idle``."""
        if now < self.not_before:
            return 0
        rate = self._options.ensure_idle_session_create_rate
        return rules.sessions_to_create(idle, self.dialing, self.created_this_cycle, self.target, rate)

    def note_failure(self, now: float) -> None:
        """Count a failed dial and put the next one off.

        Dials that fail together count as one: a row of them says no more about the server than the first.
        """
        self.failed_at = now
        if now < self.not_before:
            return
        self.failures += 1
        self.not_before = now + rules.backoff(
            self.failures, self._options.idle_session_check_interval, self._rng
        )

    def note_success(self) -> None:
        """The server is there again: nothing has to wait."""
        self.failures = 0
        self.not_before = 0.0
