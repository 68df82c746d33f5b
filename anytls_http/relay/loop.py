"""The relay's thread: a loop over the descriptors of all pairs of the process.

It is started by the first pair and ends when none is left. A forked child begins anew, with none of
the parent's pairs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from .pair import IDLE, SOON, Pair, Stream
from .poller import Poller, make_poller

logger = logging.getLogger("anytls_http.relay")

#: Bytes moved in one step, in either direction.
STEP = 64 * 1024
#: Seconds that the thread stays when no pair is left: the next often comes soon.
STAY = 0.1
#: Seconds after which a pair that met another thread in its session tries again.
RETRY = 0.001


class Relay:
    """Any thread may :meth:`join` a socket and a stream; from then on both are the relay's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._poller: Poller | None = None
        self._wake_reader: socket.socket | None = None
        self._wake_writer: socket.socket | None = None
        self._new: deque[Pair] = deque()
        self._poked: deque[Pair] = deque()
        self._pairs: set[Pair] = set()
        self._timed: set[Pair] = set()  # those with a deadline
        self._by_fd: dict[int, Pair] = {}

    def __repr__(self) -> str:
        return f"<Relay of {len(self._pairs) + len(self._new)} pairs>"

    def join(
        self,
        local: socket.socket,
        stream: Stream,
        on_end: Callable[[Pair], None] | None = None,
        head: bytes = b"",
    ) -> Pair:
        """Relay between ``local`` and ``stream`` until either ends, and close both.

        ``on_end`` is called by the relay's thread with the pair when it is over; it must not wait.
        ``head`` was read from ``local`` already and goes up first. Raises :class:`OSError` or
        :class:`RuntimeError` where the system gives no thread or descriptor.
        """
        local.setblocking(False)
        pair = Pair(local, stream, on_end, head)
        pair.remote_fd = stream._attach_relay(lambda: self._poke(pair))
        try:
            with self._lock:
                if self._thread is None:
                    self._start()
                self._new.append(pair)
        except BaseException:
            stream._detach_relay()
            raise
        self._wake()
        return pair

    def end(self, pair: Pair) -> None:
        """End a pair from another thread; ``on_end`` tells when it is over."""
        pair.unwanted = True
        self._poke(pair)

    def _start(self) -> None:
        self._poller = make_poller()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._poller.add(self._wake_reader.fileno())
        thread = threading.Thread(target=self._run, name="anytls-relay", daemon=True)
        try:
            thread.start()
        except BaseException:
            self._close_own()
            raise
        self._thread = thread

    def _poke(self, pair: Pair) -> None:
        self._poked.append(pair)
        if threading.current_thread() is not self._thread:
            self._wake()

    def _wake(self) -> None:
        with self._lock:  # else the number may be somebody else's descriptor by now
            if self._wake_writer is not None:
                with contextlib.suppress(BlockingIOError):  # full: it is going to wake
                    self._wake_writer.send(b"\0")

    # -- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller, wake_reader = self._poller, self._wake_reader
        assert poller is not None
        assert wake_reader is not None
        try:
            self._loop(poller, wake_reader)
        except Exception:
            logger.exception("the relay's thread failed")
            while not self._end(poller, force=True):
                pass

    def _loop(self, poller: Poller, wake_reader: socket.socket) -> None:
        buffer = memoryview(bytearray(STEP))
        ready: set[Pair] = set()
        idle_since: float | None = None
        while True:
            while self._new:
                pair = self._new.popleft()
                self._begin(pair, poller)
                ready.add(pair)
            while self._poked:
                pair = self._poked.popleft()
                if pair in self._pairs:  # else it is over: another has its numbers
                    pair.poked()
                    ready.add(pair)
            now = time.monotonic()
            self._expire(now, ready)
            again: set[Pair] = set()
            timeout: float | None = None
            for pair in ready:
                outcome = self._pump(pair, buffer)
                if pair.over:
                    self._finish(pair, poller)
                    continue
                if outcome != IDLE:
                    again.add(pair)
                    timeout = RETRY if outcome == SOON and timeout != 0.0 else 0.0
                poller.rearm(pair.local_fd, not pair.local_readable, not pair.local_writable)
                if pair.remote_fd >= 0:
                    poller.rearm(pair.remote_fd, not pair.remote_readable, not pair.remote_writable)
                if pair.deadline is not None:
                    self._timed.add(pair)
            if self._pairs:
                idle_since = None
            elif idle_since is None:
                idle_since = now
            elif now - idle_since >= STAY and self._end(poller):
                return
            if timeout is None:
                timeout = self._until_due(now, idle_since)
            if self._new or self._poked:
                timeout = 0.0
            ready = again
            self._wait(poller, timeout, wake_reader, ready)

    def _pump(self, pair: Pair, buffer: memoryview) -> int:
        if pair.over:
            return IDLE
        try:
            return pair.pump(buffer)
        except Exception as exc:  # ends its pair, not the thread
            logger.exception("relaying failed")
            pair.error = exc
            pair.over = True
            return IDLE

    def _until_due(self, now: float, idle_since: float | None) -> float | None:
        if idle_since is not None:
            return max(0.0, idle_since + STAY - now)
        due = min((pair.deadline for pair in self._timed if pair.deadline is not None), default=None)
        return None if due is None else max(0.0, due - now)

    def _wait(
        self, poller: Poller, timeout: float | None, wake_reader: socket.socket, ready: set[Pair]
    ) -> None:
        """Wait for events, note them in their pairs, and add those to ``ready``."""
        for fd, events in poller.wait(timeout):
            pair = self._by_fd.get(fd)
            if pair is not None:
                pair.told(fd, events)
                ready.add(pair)
            elif fd == wake_reader.fileno():
                with contextlib.suppress(BlockingIOError):
                    while wake_reader.recv(4096):
                        pass
                poller.rearm(fd, True, False)

    def _begin(self, pair: Pair, poller: Poller) -> None:
        self._pairs.add(pair)
        pair.tells_gone = poller.tells_gone
        poller.add(pair.local_fd)
        self._by_fd[pair.local_fd] = pair
        fd = pair.remote_fd
        if fd >= 0:
            poller.add(fd)
            self._by_fd[fd] = pair

            def stop_watching() -> None:
                del self._by_fd[fd]
                poller.remove(fd)

            pair.on_release = stop_watching  # type: ignore[method-assign]
        if pair.unwanted:
            pair.poked()

    def _expire(self, now: float, ready: set[Pair]) -> None:
        for pair in list(self._timed):
            if pair.deadline is not None and pair.deadline <= now:
                pair.expire()
                ready.add(pair)
            if pair.deadline is None or pair.over:
                self._timed.discard(pair)

    def _finish(self, pair: Pair, poller: Poller) -> None:
        self._pairs.discard(pair)
        self._timed.discard(pair)
        if self._by_fd.pop(pair.local_fd, None) is not None:
            poller.remove(pair.local_fd)
        try:
            pair.finish()
        except Exception:
            logger.exception("ending a relayed stream failed")

    def _end(self, poller: Poller, force: bool = False) -> bool:
        """End the thread's time; False where a pair has just come (``force``: end that, and all others)."""
        with self._lock:
            new = list(self._new)
            if not new and not (force and self._pairs):
                self._thread = None
                self._close_own()
                return True
            if force:
                self._new.clear()
        if force:
            for pair in (*self._pairs, *new):
                self._finish(pair, poller)
        return False

    def _close_own(self) -> None:
        for own in (self._poller, self._wake_reader, self._wake_writer):
            if own is not None:
                own.close()
        self._poller = self._wake_reader = self._wake_writer = None

    # -- fork ------------------------------------------------------------------------------------------

    def forget_in_child(self) -> None:
        """In a forked child: close its copies of the descriptors; the parent's pairs go on."""
        for pair in (*self._pairs, *self._new):
            if pair.stream is not None:
                pair.stream._forget()
            fd = pair.local.detach()
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._close_own()


_relay = Relay()


def shared_relay() -> Relay:
    """Return the relay of this process."""
    return _relay


def _after_fork_in_child() -> None:
    global _relay
    inherited, _relay = _relay, Relay()
    inherited.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
