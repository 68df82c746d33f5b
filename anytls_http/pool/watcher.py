"""Watching many idle sessions for what their servers send, without a thread for each.

``select.epoll`` where there is one: descriptors are added and removed from any thread, at the price
of one system call, while another thread waits. Elsewhere a ``selectors`` object, changed only by the
waiting thread.
"""

from __future__ import annotations

import contextlib
import math
import select
import selectors
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import Session


#: Pollers take a limited number of milliseconds; waking once a day costs nothing (seconds).
LONGEST_WAIT = 86400.0


class Watcher:
    """The descriptors of the idle sessions, and one to wake who waits.

    ``wait`` is for the maintenance thread alone, the other methods for any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[int, Session] = {}
        self._descriptors: dict[Session, int] = {}
        self._wake_reader, self.wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self.wake_writer.setblocking(False)
        self._poller: _Epoll | _Selector = (
            _Epoll() if hasattr(select, "epoll") else _Selector(self.wake_writer)
        )
        self._wake_fd = self._wake_reader.fileno()
        self._poller.add(self._wake_fd)

    def watch(self, session: Session) -> None:
        """Report the session when something arrives on it."""
        with self._lock:
            # A session is marked closed before it is taken off here, and its descriptor lives until then.
            if session.closed or session in self._descriptors or self._poller.closed:
                return
            fd = session.fileno()
            self._sessions[fd] = session
            self._descriptors[session] = fd
            self._poller.add(fd)

    def unwatch(self, session: Session) -> None:
        """Report it no longer; a report that is under way may still come."""
        with self._lock:
            fd = self._descriptors.pop(session, None)
            if fd is None:
                return
            del self._sessions[fd]
            self._poller.remove(fd)

    def wait(self, timeout: float | None) -> list[Session]:
        """Wait until something arrives, somebody wakes, or for ``timeout`` seconds; return the sessions with input."""
        ready = self._poller.wait(LONGEST_WAIT if timeout is None else min(timeout, LONGEST_WAIT))
        if self._wake_fd in ready:
            with contextlib.suppress(BlockingIOError):
                while self._wake_reader.recv(4096):
                    pass
        with self._lock:
            return [self._sessions[fd] for fd in ready if fd in self._sessions]

    def close(self) -> None:
        """Close its own descriptors; the sessions' stay."""
        with self._lock:
            self._sessions.clear()
            self._descriptors.clear()
            self._poller.close()
        self._wake_reader.close()
        self.wake_writer.close()

    def close_inherited(self) -> None:
        """In a forked child: no unregistering, since that would reach into the parent's epoll set."""
        self._lock = threading.Lock()
        self._poller.close()
        self._wake_reader.close()
        self.wake_writer.close()


class _Epoll:
    def __init__(self) -> None:
        self._epoll = select.epoll()

    @property
    def closed(self) -> bool:
        return self._epoll.closed

    # A signal may have struck between a change here and that of the tables: then it is done already, or never was.

    def add(self, fd: int) -> None:
        with contextlib.suppress(FileExistsError):
            self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._epoll.unregister(fd)

    def wait(self, timeout: float) -> list[int]:
        # Milliseconds are rounded up: else a due time is met early, and the thread spins until it is.
        return [fd for fd, _ in self._epoll.poll(math.ceil(timeout * 1000) / 1000)]

    def close(self) -> None:
        self._epoll.close()


class _Selector:
    """Changes are queued for the waiting thread: a selector's tables can't be changed under its feet."""

    def __init__(self, wake: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._changes: deque[tuple[bool, int]] = deque()
        self._wake = wake
        self.closed = False

    def add(self, fd: int) -> None:
        self._change(True, fd)

    def remove(self, fd: int) -> None:
        self._change(False, fd)

    def _change(self, wanted: bool, fd: int) -> None:
        self._changes.append((wanted, fd))
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")

    def wait(self, timeout: float) -> list[int]:
        while self._changes:
            wanted, fd = self._changes.popleft()
            with contextlib.suppress(KeyError, ValueError, OSError):
                if wanted:
                    self._selector.register(fd, selectors.EVENT_READ)
                else:
                    self._selector.unregister(fd)
        try:
            return [key.fd for key, _ in self._selector.select(timeout)]
        except (OSError, ValueError):
            # select() alone takes offence at a descriptor closed meanwhile; its removal is queued already.
            return []

    def close(self) -> None:
        self.closed = True
        self._selector.close()
