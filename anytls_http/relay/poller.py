"""Events of many descriptors, each told once: a descriptor that became ready isn't told again before it is used up.

So whoever doesn't want to read now (its other side takes nothing) needs no system call to say so, and an
end or an error that can't be dealt with yet doesn't spin. With ``epoll`` that is its edge-triggered mode;
elsewhere a ``selectors`` object is told what to wait for before each wait.
"""

from __future__ import annotations

import math
import select
import selectors
from typing import Protocol

#: What an event says: it can be read (or is at its end), it can be written, both directions are over.
READABLE, WRITABLE, GONE = 1, 2, 4


class Poller(Protocol):
    """For the relay's thread alone."""

    #: Whether it tells GONE; else the next read or write does.
    tells_gone: bool

    def add(self, fd: int) -> None: ...

    def remove(self, fd: int) -> None: ...

    def rearm(self, fd: int, readable: bool, writable: bool) -> None:
        """Reading from (or writing to) ``fd`` would block: tell when it no longer does."""

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Return (descriptor, events) pairs; ``timeout`` in seconds."""

    def close(self) -> None: ...


class EpollPoller:
    """``epoll``, edge-triggered: :meth:`rearm` costs nothing."""

    tells_gone = True

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)

    def remove(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def rearm(self, fd: int, readable: bool, writable: bool) -> None:
        """Nothing to do: the next edge is told."""

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        # Milliseconds are rounded up: else a due time is met early, and the thread spins until it is.
        seconds = -1 if timeout is None else math.ceil(timeout * 1000) / 1000
        return [(fd, _EPOLL_EVENTS[bits & _EPOLL_ALL]) for fd, bits in self._epoll.poll(seconds)]

    def close(self) -> None:
        self._epoll.close()


class SelectorPoller:
    """Any ``selectors`` object."""

    tells_gone = False

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wanted: dict[int, int] = {}

    def add(self, fd: int) -> None:
        self._set(fd, READABLE | WRITABLE)

    def remove(self, fd: int) -> None:
        self._set(fd, 0)
        del self._wanted[fd]

    def rearm(self, fd: int, readable: bool, writable: bool) -> None:
        self._set(fd, (READABLE if readable else 0) | (WRITABLE if writable else 0))

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        events = []
        for key, bits in self._selector.select(timeout):
            told = (READABLE if bits & selectors.EVENT_READ else 0) | (
                WRITABLE if bits & selectors.EVENT_WRITE else 0
            )
            events.append((key.fd, told))
            self._set(key.fd, self._wanted[key.fd] & ~told)
        return events

    def close(self) -> None:
        self._selector.close()

    def _set(self, fd: int, wanted: int) -> None:
        before = self._wanted.get(fd, 0)
        self._wanted[fd] = wanted
        if before == wanted:
            return
        bits = (selectors.EVENT_READ if wanted & READABLE else 0) | (
            selectors.EVENT_WRITE if wanted & WRITABLE else 0
        )
        if not before:
            self._selector.register(fd, bits)
        elif not wanted:
            self._selector.unregister(fd)
        else:
            self._selector.modify(fd, bits)


def make_poller() -> Poller:
    """Return the best one of this platform."""
    return EpollPoller() if hasattr(select, "epoll") else SelectorPoller()


if hasattr(select, "epoll"):
    _EPOLL_ALL = (
        select.EPOLLIN
        | select.EPOLLOUT
        | select.EPOLLRDHUP
        | select.EPOLLHUP
        | select.EPOLLERR
        | select.EPOLLPRI
    )

    class _Events(dict[int, int]):
        """What epoll's bits mean, computed once for each combination."""

        def __missing__(self, bits: int) -> int:
            over = bits & (select.EPOLLHUP | select.EPOLLERR)
            told = READABLE if over or bits & (select.EPOLLIN | select.EPOLLRDHUP) else 0
            told |= WRITABLE if over or bits & select.EPOLLOUT else 0
            told |= GONE if over else 0
            self[bits] = told
            return told

    _EPOLL_EVENTS = _Events()
