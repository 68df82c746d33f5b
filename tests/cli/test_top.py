"""``anytls-http top``, and the panel that it shares with ``proxy``."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anytls_http import AnyTLSClient, SessionInfo
from anytls_http.cli import main, top
from anytls_http.cli.panel import COLUMNS, event_line, render, render_text
from anytls_http.config import PoolOptions
from anytls_http.pool.events import Event
from anytls_http.pool.stats import PoolStats
from anytls_http.testing import AnyTLSServer, Site
from tests.support.singbox import SingBoxServer, free_port, skip_without_singbox

Config = Callable[[dict[str, Any]], str]


@pytest.fixture(scope="module")
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as server:
        yield server


STATS = PoolStats(1, 1, 2, 4000.0, 1, 5, 6, 7_000, {"demand": 3, "ensure_idle": 0}, {"peer": 1})
SESSIONS = [
    SessionInfo(12, "idle", 4000.0, 100.0, "", 1, 2, 3, 0.12, 2),
    SessionInfo(13, "busy", 40.0, None, "www.example.org:443", 134_567, 2_000_000_000, 3, 0.0012, 0),
]
OPTIONS = PoolOptions(ensure_idle_session=2, heartbeat=5.0, max_connection_lifetime=60.0)


def test_the_plain_panel() -> None:
    assert render_text(STATS, SESSIONS, title="mine", options=OPTIONS).splitlines() == [
        "mine",
        "sessions  1 idle, 1 busy, 2 in all; oldest 1h06m",
        "wanted    2 kept warm, renewed after 60 s, heartbeat every 5 s; 1 are missing",
        "so far    created 3 demand; closed 1 peer",
        "traffic   5 streams, 6 B sent, 7.0 kB received",
        " #  state         age    sent  received  streams       rtt  v  target",
        "12  idle 1m40s  1h06m     1 B       2 B        3  120.0 ms  2  -",
        "13  busy          40s  135 kB    2.0 GB        3    1.2 ms  ?  www.example.org:443",
    ]
    empty = PoolStats(0, 0, 0, None, 0, 0, 0, 0, {}, {})
    assert "oldest none" in render_text(empty, [])
    assert render_text(STATS, SESSIONS, most=1).endswith("... and 1 older ones")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_rich_panel(width: int) -> None:
    console_module = pytest.importorskip("rich.console")
    console = console_module.Console(file=io.StringIO(), width=width)
    event = Event("session_created", 3, reason="demand", seconds=0.01)
    title = "[red]mine[/red]"
    console.print(render(STATS, SESSIONS * 2, title=title, options=OPTIONS, events=[event], most=3))
    shown = console.file.getvalue()
    assert all(len(line) == width for line in shown.splitlines())
    for words in (
        "[red]mine[/red]",
        "2 kept warm",
        "busy",
        "135 kB",
        "... and 1 older ones",
        "#3  created  (demand)",
    ):
        assert words in shown
    if width > 60:
        assert all(name in shown for name in COLUMNS)


def test_event_lines() -> None:
    closed = Event("session_closed", 7, reason="peer", detail="the server closed the session", seconds=61.2)
    assert event_line(closed) == "session #7  closed  (peer)  the server closed the session  61.2 s"
    assert (
        event_line(Event("stream_failed", 7, target="a:1", detail="no"))
        == "session #7  stream failed  a:1  no"
    )


def test_what_a_client_says_of_its_sessions(server: AnyTLSServer) -> None:
    with Site() as site, AnyTLSClient(server.outbound(ensure_idle_session=2)) as client:
        assert AnyTLSClient(server.outbound()).sessions() == []
        client.wait_ready(2, timeout=5)
        with client.create_connection((site.host, site.port), timeout=5) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert sock.recv(1000)
            infos = client.sessions()
            assert [info.sequence for info in infos] == sorted(info.sequence for info in infos)
            (busy,) = [info for info in infos if info.state == "busy"]
            assert busy.target == f"{site.host}:{site.port}"
            assert busy.idle_for is None
            assert (busy.bytes_sent, busy.streams_opened, busy.server_version) == (18, 1, 2)
            assert busy.bytes_received > 0
            assert 0 < busy.round_trip < 1
            assert busy.age >= 0
            (idle, *_) = [info for info in infos if info.state == "idle"]
            assert idle.target == ""
            assert idle.idle_for is not None
            assert 0 <= idle.idle_for <= idle.age
    assert client.sessions() == []


@skip_without_singbox
def test_snapshots_without_a_terminal(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    with SingBoxServer() as singbox:
        path = config(singbox.outbound(heartbeat="100ms"))
        assert main(["top", "-c", path, "--seconds", "0.6", "--interval", "0.5", "--warm", "3"]) == 0
    out, err = capsys.readouterr()
    assert not err
    snapshots = out.split("\n\n")
    assert len(snapshots) == 3
    assert "sessions  3 idle, 0 busy, 3 in all" in snapshots[-1]
    assert "wanted    3 kept warm, heartbeat every 0.1 s\n" in snapshots[-1]
    lines = snapshots[-1].splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert all(line.split()[-2] == "2" for line in lines)  # heartbeats have told the version


def test_a_configuration_without_targets_gets_some(server: AnyTLSServer) -> None:
    plain = AnyTLSClient(server.outbound()).outbound
    pool = top._watchable(plain, None).pool
    assert (pool.ensure_idle_session, pool.heartbeat) == (top.WARM_SESSIONS, top.HEARTBEAT)
    own = AnyTLSClient(server.outbound(ensure_idle_session=4, heartbeat="9s")).outbound
    assert top._watchable(own, None).pool == own.pool
    assert top._watchable(own, 1).pool.ensure_idle_session == 1


def test_a_server_that_is_not_there(
    server: AnyTLSServer, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(server.outbound(server_port=free_port()))
    assert main(["top", "-c", path, "--seconds", "0.2", "--plain"]) == 1
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["--seconds", "0"], ["--interval", "nan"], ["--warm", "0"], ["--warm", "x"]]
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--uri", "anytls://x@127.0.0.1:1"] if arguments else []
    assert main(["top", *options, *arguments]) == 2
    assert capsys.readouterr().err


def test_live_on_a_terminal_until_ctrl_c(server: AnyTLSServer, config: Config) -> None:
    pytest.importorskip("rich")
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "anytls_http",
        "top",
        "-c",
        config(server.outbound()),
        "--interval",
        "0.05",
    ]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                shown.extend(data)
        except OSError:  # Linux: everybody has closed the other end
            pass

    reader = threading.Thread(target=read)
    try:
        with subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        ) as process:
            os.close(theirs)
            reader.start()
            deadline = time.monotonic() + 20
            while b"2 idle" not in shown and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
        reader.join(10)
    finally:
        os.close(ours)
    text = shown.decode()
    assert "2 kept warm, heartbeat every 5 s" in text
    assert "created  (ensure_idle)" in text
    assert "Traceback" not in text
    assert "\x1b[?25h" in text  # the cursor is back
