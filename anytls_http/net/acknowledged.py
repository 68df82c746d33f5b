"""Waiting until the peer's TCP has acknowledged all that was sent, so that the next bytes are another segment."""

from __future__ import annotations

import time

from ..errors import AnyTLSTimeout
from .tcp_info import unacknowledged
from .waiting import ReadWaiter, earlier

__all__ = ["wait_acknowledged"]

#: Seconds between two looks; nothing tells when an acknowledgement comes in.
_FIRST_LOOK, _LATER_LOOKS = 0.001, 0.01


def wait_acknowledged(fd: int, readable: ReadWaiter, fallback_delay: float, deadline: float | None) -> None:
    """Return when all that was sent on ``fd`` is acknowledged, or after ``fallback_delay`` where nobody can tell.

    Returns at once when there is something to read: an answer, or the end of the connection.
    Raises :class:`AnyTLSTimeout` at ``deadline`` (``time.monotonic()`` seconds).
    """
    if unacknowledged(fd) is None:
        _pause(readable, fallback_delay, deadline)
        return
    pause = _FIRST_LOOK
    while unacknowledged(fd):
        if _pause(readable, pause, deadline):
            return
        pause = min(2 * pause, _LATER_LOOKS)


def _pause(readable: ReadWaiter, seconds: float, deadline: float | None) -> bool:
    """Wait; True as soon as there is something to read. Raises :class:`AnyTLSTimeout` at ``deadline``."""
    try:
        readable.wait(earlier(time.monotonic() + seconds, deadline))
    except AnyTLSTimeout:
        if deadline is not None and time.monotonic() >= deadline:
            raise
        return False
    return True
