"""``anytls-http run``: the command's environment, its signals, its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anytls_http.cli import main
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING
from tests.support.singbox import SingBoxServer, skip_without_singbox

ROOT = Path(__file__).parents[2]

FETCH = "import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen(sys.argv[1]).read())"


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as running:
        yield running


@pytest.fixture
def config(server: AnyTLSServer, tmp_path: Path) -> str:
    path = tmp_path / "outbound.json"
    path.write_text(json.dumps(server.outbound()))
    return str(path)


def test_what_urllib_fetches_goes_through_the_tunnel(
    server: AnyTLSServer, config: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with Site() as site:
        server.routes["plain.test", 80] = (site.host, site.port)
        assert main(["run", "-c", config, "--", sys.executable, "-c", FETCH, "http://plain.test/"]) == 0
    assert capfdbinary.readouterr().out == GREETING


@skip_without_singbox
def test_through_sing_box(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "outbound.json"
    with SingBoxServer() as singbox, Site() as site:
        path.write_text(json.dumps(singbox.outbound()))
        assert main(["run", "-c", str(path), "--", sys.executable, "-c", FETCH, site.url]) == 0
        assert f"inbound connection to {site.host}:{site.port}" in singbox.log()
    assert capfdbinary.readouterr().out == GREETING


def test_environment(config: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "not-this")
    show = "import os, json; print(json.dumps(dict(os.environ)))"
    assert main(["run", "-c", config, sys.executable, "-c", show]) == 0
    seen = json.loads(capfd.readouterr().out)
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    urls = {seen[name] for name in names} | {seen[name.lower()] for name in names}
    assert len(urls) == 1
    assert urls.pop().startswith("http://127.0.0.1:")
    assert "not-this" not in seen.values()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ([sys.executable, "-c", "raise SystemExit(7)"], 7),
        (["no-such-command-here"], 127),
        (["/"], 126),
    ],
)
def test_exit_codes(config: str, command: list[str], code: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-c", config, "--", *command]) == code


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ended_by_a_signal(config: str) -> None:
    suicide = "import os; os.kill(os.getpid(), 9)"
    assert main(["run", "-c", config, "--", sys.executable, "-c", suicide]) == 137


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(config: str, number: signal.Signals) -> None:
    script = (
        "import os, signal, sys, time\n"
        # No print(): the signal may come while the main program is still in its own.
        "def took(n, f): os.write(1, b'took %d\\n' % n); os._exit(40 + n)\n"
        f"signal.signal({int(number)}, took)\n"
        "print('ready', flush=True)\n"
        "time.sleep(30)\n"
    )
    command = [sys.executable, "-m", "anytls_http", "run", "-c", config, "--", sys.executable, "-c", script]
    # Without a terminal, as under a supervisor.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"took {int(number)}\n"
        assert process.wait(10) == 40 + number


def test_handlers_are_put_back(config: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(["run", "-c", config, "--", sys.executable, "-c", "pass"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert not [name for name in os.environ if name == "NO_SUCH"]


@pytest.mark.parametrize("arguments", [["--"], [], ["--nonsense"]])
def test_bad_command_lines(config: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-c", config, *arguments]) == 2
    assert "anytls-http" in capsys.readouterr().err
