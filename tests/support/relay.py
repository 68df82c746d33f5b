"""A TCP relay between a client and a server, to be a bad network: slow, deaf, or cut."""

from __future__ import annotations

import collections
import contextlib
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

#: Most bytes that wait in one direction before the relay stops reading there (back-pressure).
MAX_WAITING = 1 << 20


@dataclass(eq=False)
class _Way:
    """One direction of one connection: what was read, when it may go on, and whether the end was seen."""

    source: socket.socket
    target: socket.socket
    upwards: bool
    waiting: collections.deque[tuple[float, bytes]] = field(default_factory=collections.deque)
    size: int = 0
    ended: bool = False
    ended_at: float = 0.0
    passed_end: bool = False
    deaf: bool = False
    sent_until: float = 0.0


class Relay:
    """Passes TCP connections on to ``target``; one thread for all of them.

    ``delay`` (seconds, per direction), ``swallow`` (take everything, pass nothing on, close nothing),
    ``hold`` (read nothing: the kernel's buffers fill up), ``rate`` (bytes per second of each direction of each
    connection) and ``target`` (of new connections) can be set at any time.
    """

    def __init__(self, target: tuple[str, int], delay: float = 0.0) -> None:
        self.target = target
        self.delay = delay
        self.rate: float | None = None
        self.swallow = False
        self.hold = False
        #: Refuse new connections by closing them at once.
        self.refuse = False
        #: Connections taken; bytes passed on to the target and back.
        self.connections = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._ways: list[_Way] = []
        self._lock = threading.Lock()
        self._stop = False
        self._cut: list[bool] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="test-relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return len(self._ways) // 2

    def outbound(self, outbound: dict[str, Any]) -> dict[str, Any]:
        """Return ``outbound`` with this relay in front of its server."""
        return {**outbound, "server": "127.0.0.1", "server_port": self.port}

    def cut(self, reset: bool = True) -> None:
        """End every connection, on both sides: by a TCP reset, or orderly. Done when this returns."""
        with self._lock:
            self._cut.append(reset)
        self._wake()
        deadline = time.monotonic() + 5
        while self._cut and time.monotonic() < deadline:
            time.sleep(0.001)

    def swallow_present(self) -> None:
        """Swallow from now on what comes on the connections of this moment; later ones work."""
        for way in list(self._ways):
            way.deaf = True

    def close(self) -> None:
        """End everything, and wait for the thread."""
        self._stop = True
        self._wake()
        self._thread.join(5)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_out.send(b"x")

    def _run(self) -> None:
        try:
            while not self._stop:
                self._step()
        finally:
            self._end_all(reset=False)
            for sock in (self._listener, self._wake_in, self._wake_out):
                sock.close()

    def _step(self) -> None:
        """Wait for whatever can go on, and do it. Few connections, so the selector is built anew each time."""
        now = time.monotonic()
        timeout = 0.02  # settings are changed by other threads without a wake-up
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_in, selectors.EVENT_READ)
            wanted: dict[socket.socket, int] = {}
            for way in self._ways:
                if not way.ended and not self.hold and way.size < MAX_WAITING:
                    wanted[way.source] = wanted.get(way.source, 0) | selectors.EVENT_READ
                if self.swallow or way.deaf:
                    continue
                if way.waiting and way.sent_until > now:
                    timeout = min(timeout, way.sent_until - now)
                elif way.waiting and way.waiting[0][0] <= now:
                    wanted[way.target] = wanted.get(way.target, 0) | selectors.EVENT_WRITE
                elif way.waiting:
                    timeout = min(timeout, way.waiting[0][0] - now)
            for sock, events in wanted.items():
                selector.register(sock, events)
            ready = {key.fileobj: events for key, events in selector.select(max(0.0, timeout))}
        if self._wake_in in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_in.recv(4096)
        if self._listener in ready:
            self._accept()
        for way in list(self._ways):
            if ready.get(way.source, 0) & selectors.EVENT_READ and not way.ended:
                self._read(way)
        for way in list(self._ways):
            self._write(way)
        self._drop_finished()
        with self._lock:
            if self._cut:
                self._end_all(any(self._cut))
                self._cut.clear()

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        if self.refuse:
            near.close()
            return
        try:
            far = socket.create_connection(self.target, timeout=5)
        except OSError:
            near.close()
            return
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        self._ways += [_Way(near, far, True), _Way(far, near, False)]

    def _read(self, way: _Way) -> None:
        try:
            data = way.source.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            way.ended = True
            way.ended_at = time.monotonic() + self.delay
        elif not (self.swallow or way.deaf):
            way.waiting.append((time.monotonic() + self.delay, data))
            way.size += len(data)

    def _write(self, way: _Way) -> None:
        now = time.monotonic()
        try:
            while (
                way.waiting
                and way.waiting[0][0] <= now
                and way.sent_until <= now
                and not (self.swallow or way.deaf)
            ):
                due, data = way.waiting[0]
                rate = self.rate
                count = way.target.send(data if rate is None else data[: max(1, int(rate * 0.01))])
                if rate is not None:
                    way.sent_until = max(way.sent_until, now - 0.05) + count / rate
                way.size -= count
                if way.upwards:
                    self.bytes_up += count
                else:
                    self.bytes_down += count
                if count < len(data):
                    way.waiting[0] = (due, data[count:])
                else:
                    way.waiting.popleft()
            if (
                way.ended
                and not way.waiting
                and way.ended_at <= now
                and not way.passed_end
                and not (self.swallow or way.deaf)
            ):
                way.passed_end = True
                way.target.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            way.waiting.clear()
            way.size = 0
            way.ended = way.passed_end = True

    def _drop_finished(self) -> None:
        for way in list(self._ways):
            back = next((other for other in self._ways if other.source is way.target), None)
            if back is not None and way.passed_end and back.passed_end:
                self._ways = [other for other in self._ways if other is not way and other is not back]
                way.source.close()
                way.target.close()

    def _end_all(self, reset: bool) -> None:
        for way in self._ways:
            if reset:
                with contextlib.suppress(OSError):
                    way.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            way.source.close()
        self._ways = []
