"""Waiting for one descriptor, with one absolute deadline; and the arithmetic of deadlines."""

from __future__ import annotations

import math
import select
import threading
import time
from typing import Any

from anytls_http.errors import AnyTLSTimeout

#: poll() takes an int of milliseconds: wait at most a day at a time (seconds).
LONGEST_WAIT = 86400.0
#: A deadline that has passed already: try once, never wait.
AT_ONCE = 0.0


def valid_timeout(timeout: float | None) -> float | None:
    """Return ``timeout`` in seconds; raises :class:`ValueError` for what is none, in the words of ``socket``."""
    if timeout is None:
        return None
    seconds = float(timeout)
    if math.isnan(seconds):
        raise ValueError("Invalid value NaN (not a number)")
    if seconds < 0:
        raise ValueError("Timeout value out of range")
    return seconds


def deadline_after(timeout: float | None) -> float | None:
    """Return the absolute deadline, in ``time.monotonic()`` seconds, ``timeout`` seconds from now."""
    return None if timeout is None else time.monotonic() + timeout


def earlier(first: float | None, second: float | None) -> float | None:
    """Return the earlier of two deadlines; None is never."""
    if first is None:
        return second
    if second is None:
        return first
    return min(first, second)


def remaining(deadline: float | None) -> float:
    """Return the seconds left until ``deadline``, as ``Lock.acquire(timeout=)`` takes them (-1: no limit)."""
    if deadline is None:
        return -1
    return min(threading.TIMEOUT_MAX, max(0.0, deadline - time.monotonic()))


if hasattr(select, "poll"):
    _IN = select.POLLIN
    _OUT = select.POLLOUT

    def _poller(fd: int, mask: int) -> Any:
        poller = select.poll()
        poller.register(fd, mask)
        return poller

    def _wait(poller: Any, deadline: float | None) -> bool:
        if deadline is None:
            return bool(poller.poll())
        while True:
            left = min(LONGEST_WAIT, deadline - time.monotonic())
            # poll() takes whole milliseconds: rounding down would spin through the last one.
            if poller.poll(math.ceil(left * 1000) if left > 0 else 0):
                return True
            if time.monotonic() >= deadline:
                return False

    def _has_input(poller: Any) -> bool:
        return bool(poller.poll(0))

else:  # Windows
    _IN = 1
    _OUT = 4

    def _poller(fd: int, mask: int) -> Any:
        return fd, mask

    def _wait(poller: Any, deadline: float | None) -> bool:
        fd, mask = poller
        readers = [fd] if mask & _IN else []
        writers = [fd] if mask & _OUT else []
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        # Windows reports a failed connect in the third set only.
        return any(select.select(readers, writers, [fd], timeout))

    def _has_input(poller: Any) -> bool:
        return _wait(poller, AT_ONCE)


class ReadWaiter:
    """Waits for one descriptor's input; for one thread at a time, which must keep the descriptor open."""

    __slots__ = ("_poller",)

    def __init__(self, fd: int) -> None:
        self._poller = _poller(fd, _IN)

    def wait(self, deadline: float | None) -> None:
        """Return when the descriptor can be read, is at its end or broken.

        Raises :class:`AnyTLSTimeout` at ``deadline`` (``time.monotonic()`` seconds, None: never).
        """
        if not _wait(self._poller, deadline):
            raise AnyTLSTimeout("timed out while waiting for data")

    def ready(self) -> bool:
        """Whether the descriptor has input, is at its end or broken, without waiting."""
        return _has_input(self._poller)


def wait_writable(fd: int, deadline: float | None) -> None:
    """Return when ``fd`` can be written or is broken; raises :class:`AnyTLSTimeout` at ``deadline``."""
    if not _wait(_poller(fd, _OUT), deadline):
        raise AnyTLSTimeout("timed out while waiting for the connection to take data")
