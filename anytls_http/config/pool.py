"""Reading the nine fields of the pool, and the rules between them."""

from __future__ import annotations

import dataclasses
import logging

from .fields import Fields
from .options import PoolOptions

__all__ = ["POOL_NAMES", "read_pool"]

logger = logging.getLogger("anytls_http.config")

POOL_NAMES = frozenset(field.name for field in dataclasses.fields(PoolOptions))

#: What is done at every interval can't be done at every nanosecond, which Go's syntax could ask for.
_SHORTEST_INTERVAL = "1ms"
_MOST_SESSIONS = 2**31 - 1


def read_pool(fields: Fields) -> PoolOptions:
    """Return the pool's options. Raises ``ConfigError``; logs a warning for what can't work as meant."""
    default = PoolOptions()
    options = PoolOptions(
        # Empty and zero: the default here, "off" or "unlimited" below (the table in the design).
        idle_session_check_interval=fields.duration(
            "idle_session_check_interval", at_least=_SHORTEST_INTERVAL
        )
        or default.idle_session_check_interval,
        idle_session_timeout=fields.duration("idle_session_timeout") or default.idle_session_timeout,
        min_idle_session=_sessions(fields, "min_idle_session"),
        ensure_idle_session=_sessions(fields, "ensure_idle_session"),
        ensure_idle_session_create_rate=_sessions(fields, "ensure_idle_session_create_rate"),
        max_connection_lifetime=fields.duration("max_connection_lifetime"),
        connection_lifetime_jitter=fields.duration("connection_lifetime_jitter") or 0.0,
        min_idle_session_for_age=_sessions(fields, "min_idle_session_for_age"),
        heartbeat=fields.duration("heartbeat", at_least=_SHORTEST_INTERVAL),
    )
    _check_jitter(fields, options)
    _warn_of_stopped_rotation(options)
    return options


def _sessions(fields: Fields, name: str) -> int:
    return fields.integer(name, 0, _MOST_SESSIONS) or 0


def _check_jitter(fields: Fields, options: PoolOptions) -> None:
    if not options.connection_lifetime_jitter:
        return
    if options.max_connection_lifetime is None:
        logger.warning("connection_lifetime_jitter has no effect without max_connection_lifetime")
    elif options.connection_lifetime_jitter >= options.max_connection_lifetime:
        fields.fail(
            "connection_lifetime_jitter",
            f'got "{fields.text("connection_lifetime_jitter")}", takes less than max_connection_lifetime'
            f' ("{fields.text("max_connection_lifetime")}")',
        )


def _warn_of_stopped_rotation(options: PoolOptions) -> None:
    """Warn where the sessions that are protected from the age rule would live for ever.

    The age rule closes an idle session only while more than ``protected`` are idle. When nobody sends
    requests, only the refill to ``ensure_idle_session`` brings the pool above that number again, so the
    rotation goes on by itself exactly when ``ensure_idle_session`` is greater. Otherwise the age rule
    closes what a burst left behind, once, and never touches the rest. (0 protected: nothing to warn of.)
    """
    protected = options.min_idle_session_for_age or options.min_idle_session
    if options.max_connection_lifetime is None or protected < max(options.ensure_idle_session, 1):
        return
    name = "min_idle_session_for_age" if options.min_idle_session_for_age else "min_idle_session"
    logger.warning(
        "%s: %d protects as many idle sessions from max_connection_lifetime as ensure_idle_session: %d"
        " maintains, so they are never rotated; set min_idle_session_for_age below ensure_idle_session",
        name,
        protected,
        options.ensure_idle_session,
    )
