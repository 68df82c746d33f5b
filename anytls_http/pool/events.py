"""What the pool tells of itself: frozen events, handed to the user's hooks and to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from anytls_http.errors import ConfigError

logger = logging.getLogger("anytls_http.pool")

#: The names that ``event_hooks`` takes.
EVENT_NAMES = (
    "session_created",
    "session_closed",
    "stream_opened",
    "stream_closed",
    "stream_failed",
    "padding_updated",
    "alert",
    "heartbeat",
)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in the pool.

    ``name``: one of :data:`EVENT_NAMES`. ``session``: the session's number within its client, from 1.
    ``reason``: for ``session_created`` what it was made for (``demand``, ``ensure_idle``); for
    ``session_closed`` why (the keys of ``PoolStats.closed``). ``target``: ``host:port`` of a stream.
    ``detail``: the server's words, or an error's. ``seconds``: how long a dial, a session's life or a
    heartbeat's round trip took.
    """

    name: str
    session: int
    reason: str = ""
    target: str = ""
    detail: str = ""
    seconds: float | None = None


EventHooks = Mapping[str, Iterable[Callable[[Event], object]]]


class EventDispatcher:
    """Calls the user's hooks, from any thread, never under a lock; a hook that fails is logged.

    Raises :class:`ConfigError` for a name that isn't in :data:`EVENT_NAMES`, or a hook that can't be called.
    """

    def __init__(self, hooks: EventHooks | None) -> None:
        self._hooks: dict[str, tuple[Callable[[Event], object], ...]] = {}
        if hooks is None:
            return
        if not isinstance(hooks, Mapping):
            raise ConfigError("event_hooks: takes a dict of names to lists of callables")
        for name, callables in hooks.items():
            if name not in EVENT_NAMES:
                raise ConfigError(f"event_hooks: got {name!r}, takes {', '.join(EVENT_NAMES)}")
            listed = tuple(callables) if isinstance(callables, Iterable) else (None,)
            if not all(callable(hook) for hook in listed):
                raise ConfigError(f"event_hooks[{name!r}]: takes a list of callables")
            self._hooks[name] = listed

    def wants(self, name: str) -> bool:
        """Whether anybody listens to this event; saves making it."""
        return name in self._hooks

    def emit(self, event: Event) -> None:
        """Call the hooks of ``event.name``, in their order."""
        for hook in self._hooks.get(event.name, ()):
            try:
                hook(event)
            except (Exception, SystemExit):  # a user's hook may raise anything; the pool goes on
                logger.exception("an event hook for %s failed", event.name)
