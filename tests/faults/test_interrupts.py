"""``KeyboardInterrupt`` before every single line of the package that a connection executes."""

from __future__ import annotations

import linecache
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

import anytls_http
from anytls_http import AnyTLSClient, AnyTLSError
from anytls_http.pool import maintenance
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING
from tests.support.reliability import Ended
from tests.support.timing import wait_until

pytestmark = [
    pytest.mark.usefixtures("impatient"),
    # A socket whose closing was interrupted is left to its finalizer.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PACKAGE = str(Path(anytls_http.__file__).parent)
DESCRIPTORS = Path("/proc/self/fd")
NOT_OURS = str(Path(PACKAGE, "testing"))


def takes_no_signal(code: types.CodeType, line: int, offset: int) -> bool:
    """Whether the interpreter looks at no signal here: where a trace function raises, ``with`` would leave its lock."""
    text = linecache.getline(code.co_filename, line)
    if text.strip() == "try:":  # an instruction that does nothing, and is no part of the body of ``with``
        above = (linecache.getline(code.co_filename, number) for number in range(line - 1, 0, -1))
        depth = len(text) - len(text.lstrip())
        around = next(other for other in above if other.strip() and len(other) - len(other.lstrip()) < depth)
        return around.lstrip().startswith("with ")
    if text.lstrip().startswith("with "):
        return offset != min(
            start for start, _, at in code.co_lines() if at == line
        )  # on its way to __exit__
    return False


class Interrupt:
    """Raises ``KeyboardInterrupt`` in this thread before the ``number``-th line of the package; 0 only counts."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lines = 0
        self.where = ""

    def __enter__(self) -> Self:
        sys.settrace(self._call)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(None)

    def _call(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) or name.startswith(NOT_OURS):
            return None
        # What a finalizer or a weakref's callback raises, an interrupt too, Python prints and forgets.
        return None if frame.f_code.co_name in ("__del__", "_died") else self._line

    def _line(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        if event != "line":
            return self._line
        code, line = frame.f_code, frame.f_lineno
        if takes_no_signal(code, line, frame.f_lasti):
            return self._line
        self.lines += 1
        if self.lines == self.number:
            self.where = f"{Path(code.co_filename).name}:{line} ({code.co_name})"
            sys.settrace(None)
            raise KeyboardInterrupt
        return self._line


def fetch(client: AnyTLSClient, port: int) -> bytes:
    with client.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while piece := sock.recv(65536):
            data += piece
    return data.partition(b"\r\n\r\n")[2]


def open_descriptors() -> int:
    return len(list(DESCRIPTORS.iterdir()))


def interrupt_each_line(
    work: Callable[[], Any], check: Callable[[], None], step: int
) -> tuple[int, list[str]]:
    """Do ``work`` for each ``step``-th of its lines, interrupted there; return their number, and what went wrong."""
    work()
    with Interrupt(0) as dry:
        work()
    wrong: list[str] = []
    for number in range(1, dry.lines + 1, step):
        interrupt = Interrupt(number)
        try:
            with interrupt:
                work()
        except KeyboardInterrupt:
            pass
        try:
            check()
        except (AssertionError, TimeoutError, AnyTLSError) as exc:
            wrong.append(f"{interrupt.where}: {exc!r}")
    return dry.lines, wrong


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor whose last user was interrupted is closed soon."""
    monkeypatch.setattr(maintenance, "ROLE_PATIENCE", 0.05)


@pytest.mark.fault("KeyboardInterrupt before each line of a connection on a warm session")
def test_on_a_warm_session(site: Site, in_earnest: bool, ended: Ended) -> None:
    with AnyTLSServer() as server, AnyTLSClient(server.outbound()) as client:

        def is_quiet() -> bool:
            stats = client.stats()
            return stats.active == 0 and len(server.live_sessions) == stats.total

        def check() -> None:
            wait_until(is_quiet)
            assert fetch(client, site.port) == GREETING
            wait_until(lambda: client.stats().idle == client.stats().total == 1)

        lines, wrong = interrupt_each_line(lambda: fetch(client, site.port), check, 1 if in_earnest else 2)
        assert lines > 200
        assert not wrong, "\n".join(wrong)
    ended(f"no session is lost, the next connection works ({lines} lines)")


@pytest.mark.skipif(
    not DESCRIPTORS.is_dir(), reason="the system doesn't list the descriptors of a process there"
)
@pytest.mark.fault("KeyboardInterrupt before each line of a first connection")
def test_on_a_new_session(site: Site, in_earnest: bool, ended: Ended) -> None:
    with AnyTLSServer() as server:
        outbound = server.outbound()
        clients: list[AnyTLSClient] = []

        def work() -> None:
            clients.append(AnyTLSClient(outbound))
            assert fetch(clients[-1], site.port) == GREETING

        def check() -> None:
            for client in clients:  # none where it was its constructor that was interrupted
                wait_until(lambda client=client: client.stats().active == 0)
                assert fetch(client, site.port) == GREETING
                client.close()
            clients.clear()
            wait_until(lambda: not server.live_sessions)
            wait_until(lambda: open_descriptors() <= before)

        work()
        clients.pop().close()
        wait_until(lambda: not server.live_sessions)
        before = open_descriptors()
        lines, wrong = interrupt_each_line(work, check, 1 if in_earnest else 7)
        assert lines > 500
        assert not wrong, "\n".join(wrong)
    ended(f"no session and no descriptor is lost ({lines} lines)")
