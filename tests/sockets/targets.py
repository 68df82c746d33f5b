"""What the tests of this folder share: targets whose every byte the test decides, and stop watches."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.support.timing import PATIENCE

#: How much later than its deadline a call may return (seconds; the issue's number).


class Target:
    """A TCP server on loopback without behaviour: :meth:`accept` gives the test its end of each connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(5)
        self._accepted: list[socket.socket] = []
        self.address: tuple[str, int] = self._listener.getsockname()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self._accepted:
            sock.close()
        self._listener.close()

    def accept(self) -> socket.socket:
        """Return the next connection; it is closed with the target."""
        sock, _ = self._listener.accept()
        sock.settimeout(5)
        self._accepted.append(sock)
        return sock


class FullBacklog:
    """A port of loopback on which TCP's handshake gets no answer: nobody accepts, and the queue is full."""

    def __init__(self) -> None:
        self._socks = [socket.socket()]
        self._socks[0].bind(("127.0.0.1", 0))
        self._socks[0].listen(0)

    def __enter__(self) -> int:
        address = self._socks[0].getsockname()
        for _ in range(4):
            sock = socket.socket()
            self._socks.append(sock)
            sock.setblocking(False)
            sock.connect_ex(address)
        time.sleep(0.02)
        port: int = address[1]
        return port

    def __exit__(self, *exc_info: object) -> None:
        for sock in self._socks:
            sock.close()


class Background:
    """Calls a function on a thread; ``result()`` gives what it returned, or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        #: ``time.monotonic()`` of its end.
        self.ended_at = 0.0

        def run() -> None:
            try:
                self._value = function(*args, **kwargs)
            except BaseException as exc:
                self._error = exc
            self.ended_at = time.monotonic()

        self._thread = threading.Thread(target=run, name="test-background", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, timeout: float = PATIENCE) -> Any:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the call hangs"
        if self._error is not None:
            # The traceback would keep alive what the call had in its hands.
            raise self._error.with_traceback(None)
        return self._value

    def error(self, timeout: float = PATIENCE) -> BaseException | None:
        """Return the exception that the call raised."""
        with contextlib.suppress(BaseException):
            self.result(timeout)
        assert not self._thread.is_alive(), "the call hangs"
        return self._error


def read_all(sock: Any) -> bytes:
    """Read to the end of the stream."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def read_exactly(sock: Any, size: int) -> bytes:
    """Read ``size`` bytes, or less at the end of the stream."""
    data = bytearray()
    while len(data) < size and (piece := sock.recv(min(1 << 20, size - len(data)))):
        data += piece
    return bytes(data)


def get(sock: Any, path: str = "/", close: bool = True) -> bytes:
    """Send a GET over ``sock`` and return the whole answer (with ``close``), or nothing yet."""
    connection = "close" if close else "keep-alive"
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: site.test\r\nConnection: {connection}\r\n\r\n".encode())
    return read_all(sock) if close else b""
