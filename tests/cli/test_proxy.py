"""``anytls-http proxy`` as a process: what it says, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anytls_http.cli import main
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING
from tests.sockets.targets import read_all

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as running:
        yield running


@pytest.fixture
def config(server: AnyTLSServer, tmp_path: Path) -> str:
    path = tmp_path / "outbound.json"
    path.write_text(json.dumps(server.outbound()))
    return str(path)


@contextlib.contextmanager
def running(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command, and the port on which it listens."""
    command = [sys.executable, "-m", "anytls_http", "proxy", "--listen", "127.0.0.1:0", *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "socks5h://127.0.0.1:" in line, process.communicate()
            yield process, int(line.partition("http://127.0.0.1:")[2].split()[0])
        finally:
            process.kill()


def fetch(port: int, site: Site, *fields: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        head = "\r\n".join((f"GET {site.url}/ HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""))
        sock.sendall(head.encode())
        return read_all(sock)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_a_signal(config: str, number: signal.Signals) -> None:
    with Site() as site, running("-c", config) as (process, port):
        assert fetch(port, site).endswith(GREETING)
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (0, "", "")


def test_by_uri(server: AnyTLSServer) -> None:
    uri = f"anytls://{server.password}@127.0.0.1:{server.port}/?sni=anytls.test&insecure=1"
    with Site() as site, running("--uri", uri) as (_, port):
        assert fetch(port, site).endswith(GREETING)


def test_with_a_password(config: str) -> None:
    with Site() as site, running("-c", config, "-v", ANYTLS_HTTP_PROXY_USER="me:hunter2") as (process, port):
        assert b" 407 " in fetch(port, site)
        assert fetch(port, site, "Proxy-Authorization: Basic bWU6aHVudGVyMg==").endswith(GREETING)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert "proxy started at" in err
        assert "hunter2" not in out + err


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals")
def test_status_line_on_a_terminal(config: str) -> None:
    main_end, terminal = os.openpty()
    command = [sys.executable, "-m", "anytls_http", "proxy", "-c", config, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=terminal, cwd=ROOT) as process:
        os.close(terminal)
        seen = b""
        try:
            while b"sessions:" not in seen:
                seen += os.read(main_end, 1000)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
        finally:
            process.kill()
            os.close(main_end)
    assert b"0 open of 0 connections, 0 failed; sessions: 0 busy, 0 idle; 0 B up, 0 B down" in seen


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--listen", "0.0.0.0:0"], 2, "user name and a password"),
        (["--listen", "nonsense"], 2, "not HOST:PORT"),
        (["--listen", "127.0.0.1:70000"], 2, "not HOST:PORT"),
        (["--user", "nocolon"], 2, "NAME:PASSWORD"),
        (["--user", ":x"], 2, "both are needed"),
    ],
)
def test_bad_command_lines(
    config: str, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["proxy", "-c", config, *arguments]) == code
    assert words in capsys.readouterr().err


def test_a_port_in_use(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["proxy", "-c", config, "--listen", where]) == 1
        assert f"can't listen on {where}" in capsys.readouterr().err


def test_no_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["proxy"]) == 2
    assert main(["proxy", "-c", str(tmp_path / "nothing.json")]) == 2
