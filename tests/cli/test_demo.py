"""The command line, and the demo: run whole, and made to fail."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

import anytls_http
from anytls_http.cli import demo, main
from anytls_http.testing import AnyTLSServer


@pytest.fixture(params=[[], ["--plain"]], ids=["rich", "plain"])
def style(request: pytest.FixtureRequest) -> list[str]:
    if not request.param:
        pytest.importorskip("rich")
    return list(request.param)


def test_demo_shows_each_step_and_the_pool(style: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--size", "300000", *style]) == 0
    out = capsys.readouterr().out
    assert out.count("300,000 bytes, SHA-256 as sent") == 4
    for words in ("httpx ", "requests ", "http://plain.demo.test", "https://secure.demo.test", "ms", "idle"):
        assert words in out
    assert "OK: 4 bodies arrived intact" in out
    assert AnyTLSServer().password not in out


def test_demo_without_requests(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "requests" else find_spec(name)
    )
    assert main(["demo", "--plain", "--size", "1000"]) == 0
    out = capsys.readouterr().out
    assert "python -m pip install 'anytls_http[requests]'" in out
    assert "OK: 2 bodies arrived intact through the tunnel; requests was not tried" in out


def test_demo_without_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["demo", "--size", "1000"]) == 0
    assert "OK: 4 bodies" in capsys.readouterr().out


def test_a_body_that_is_not_what_was_sent_fails(
    style: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "body_sha256", lambda size: "0" * 64)
    assert main(["demo", "--size", "1000", *style]) == 1
    out = capsys.readouterr().out
    assert "not what the site sent" in out
    assert "FAILED: 4 of" in out


def test_a_tunnel_that_refuses_fails(
    style: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Refusing(AnyTLSServer):
        def start(self) -> None:
            super().start()
            self.faults.refuse = lambda host, port: "no [red]way[/red]"

    monkeypatch.setattr(demo, "AnyTLSServer", Refusing)
    assert main(["demo", "--size", "1000", *style]) == 1
    out = capsys.readouterr().out
    assert "no [red]way[/red]" in out
    assert "FAILED: 4 of" in out


def test_a_server_that_takes_nobody_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Closing(AnyTLSServer):
        def start(self) -> None:
            super().start()
            self.faults.close_on_accept = True

    monkeypatch.setattr(demo, "AnyTLSServer", Closing)
    monkeypatch.setattr(demo, "TIMEOUT", 0.3)
    assert main(["demo", "--plain"]) == 1
    assert "FAILED: 1 of 2 steps failed: pool" in capsys.readouterr().out


def test_servers_that_cannot_start_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(AnyTLSServer):
        def start(self) -> None:
            raise OSError("no port for you")

    monkeypatch.setattr(demo, "AnyTLSServer", Broken)
    assert main(["demo", "--plain"]) == 1
    assert "no port for you" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["demo", "--size", "-1"], ["demo", "--size", "x"]])
def test_bad_command_lines(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "usage: anytls-http" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"anytls-http {anytls_http.__version__}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (anytls_http.ConfigError("tls.enabled: must be true"), 2),
        (anytls_http.DialError("nobody there"), 1),
        (OSError("disk full"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr(demo, "run", fail)
    assert main(["demo"]) == code
    if str(error):
        assert capsys.readouterr().err == f"anytls-http: {error}\n"


def test_as_a_module_into_a_closed_pipe() -> None:
    command = [sys.executable, "-m", "anytls_http", "demo", "--plain", "--size", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
