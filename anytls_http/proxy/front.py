"""Clients that say nothing, and the listener, in one selector: no thread for any of them."""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import time

from .incoming import Incoming

logger = logging.getLogger("anytls_http.proxy")

#: Seconds for a greeting, the first byte included, without the time that the target needs.
GREETING_TIMEOUT = 8.0
#: Seconds that accepting pauses where the system has no descriptors left.
PAUSE = 0.2

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Front:
    """The listener and the clients that say nothing, in one selector; for the front's thread alone."""

    def __init__(self, listener: socket.socket, wake: socket.socket) -> None:
        self._listener = listener
        self._wake = wake
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake, selectors.EVENT_READ)
        self._due: dict[Incoming, float] = {}
        self._accepting = False
        self._pause_until = 0.0

    @property
    def watched(self) -> int:
        """How many clients it watches."""
        return len(self._due)

    def _says_something(self, client: Incoming) -> bool:
        """Whether its first bytes are there already, as with most clients; an end or an error counts too."""
        try:
            client.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def watch(self, client: Incoming, patience: float) -> None:
        """Report ``client`` when it says something; close it when it doesn't within ``patience`` seconds."""
        client.sock.setblocking(False)
        self._due[client] = time.monotonic() + patience
        self._selector.register(client.sock, selectors.EVENT_READ, client)

    def wait(self, full: bool) -> tuple[int, list[Incoming]]:
        """Wait for something to happen; return how many were accepted, and who has something to say."""
        now = time.monotonic()
        self._accept_if(not full and now >= self._pause_until)
        # In the order of their coming, but for those that wait for a next request: so look at all now and then.
        timeout = 1.0 if self._due else None
        if not self._accepting:
            timeout = PAUSE
        accepted = 0
        ready: list[Incoming] = []
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._listener:
                accepted = self._accept(ready)
            elif key.fileobj is self._wake:
                with contextlib.suppress(BlockingIOError):
                    while self._wake.recv(4096):
                        pass
            else:
                self._forget(key.data)
                ready.append(key.data)
        self._close_overdue(time.monotonic())
        return accepted, ready

    def _accept_if(self, wanted: bool) -> None:
        if wanted and not self._accepting:
            self._selector.register(self._listener, selectors.EVENT_READ)
        elif self._accepting and not wanted:
            self._selector.unregister(self._listener)
        self._accepting = wanted

    def _accept(self, ready: list[Incoming]) -> int:
        for count in range(64):
            try:
                sock, peer = self._listener.accept()
            except OSError as exc:
                if exc.errno in _NO_DESCRIPTORS:
                    logger.warning("no more clients for now: %s", exc.strerror)
                    self._pause_until = time.monotonic() + PAUSE
                return count  # nobody is there any more, or left already
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = Incoming(sock, peer)
            sock.setblocking(False)
            if self._says_something(client):
                ready.append(client)
            else:
                self.watch(client, GREETING_TIMEOUT)
        return 64

    def _forget(self, client: Incoming) -> None:
        del self._due[client]
        self._selector.unregister(client.sock)

    def _close_overdue(self, now: float) -> None:
        for client in [client for client, due in self._due.items() if due <= now]:
            self._forget(client)
            client.close()

    def close(self) -> None:
        """Close the listener and everything that is watched."""
        for client in self._due:
            client.close()
        self._due.clear()
        self._selector.close()
        self._listener.close()
        self._wake.close()
