"""Each script in examples/ runs as it is, as a program of its own, against the embedded server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import anytls_http
from anytls_http.testing import AnyTLSServer, Site

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
HOST = "only.the.server.knows.test"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A configuration of a server that knows HOST: port 80 is a plain site, 443 one with TLS."""
    folder = tmp_path_factory.mktemp("examples")
    with AnyTLSServer() as server, Site() as plain, Site(tls=True, names=[HOST]) as secure:
        server.routes[HOST, 80] = (plain.host, plain.port)
        server.routes[HOST, 443] = (secure.host, secure.port)
        (folder / "roots.pem").write_text(secure.ca_pem)
        (folder / "config.json").write_text(json.dumps({"outbounds": [server.outbound()]}))
        yield folder / "config.json"


def environment(config: Path) -> dict[str, str]:
    roots = str(config.parent / "roots.pem")
    variables = {"SSL_CERT_FILE": roots, "REQUESTS_CA_BUNDLE": roots, "PYTHONWARNINGS": "error"}
    if Path(anytls_http.__file__).is_relative_to(ROOT):  # not installed
        variables["PYTHONPATH"] = str(ROOT)
    return {**os.environ, **variables}


def run(config: Path, name: str, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, str(EXAMPLES / name), str(config), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(config), timeout=30, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "test-password" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_httpx_client(config: Path, scheme: str) -> None:
    assert run(config, "httpx_client.py", f"{scheme}://{HOST}/bytes/5000").count("200 5000 bytes") == 3


def test_requests_session(config: Path) -> None:
    pytest.importorskip("requests")
    out = run(config, "requests_session.py", f"https://{HOST}/bytes/5000")
    assert out.count("200, 5000 bytes") == 8
    assert "8 streams over" in out


def test_plain_socket(config: Path) -> None:
    assert "HTTP/1.1 200 OK" in run(config, "plain_socket.py", HOST, "443")
    assert "HTTP/1.1 200 OK" in run(config, "plain_socket.py", HOST, "80")
    assert "refused" in run(config, "plain_socket.py", "127.0.0.1", "1", code=1)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_standard_library(config: Path, scheme: str) -> None:
    assert "200 OK 5000 bytes" in run(config, "standard_library.py", f"{scheme}://{HOST}/bytes/5000")


def test_warm_pool(config: Path) -> None:
    out = run(config, "warm_pool.py", f"http://{HOST}/")
    assert out.startswith("200 after 0.")
    assert f"busy, 0.0 s old, {HOST}:80" in re.sub(r"0\.\d s", "0.0 s", out)


def test_events(config: Path) -> None:
    out = run(config, "events.py", f"http://{HOST}/")
    for words in (
        "event: session_created session 1 demand",
        f"event: stream_opened session 1 {HOST}:80",
        "closed",
    ):
        assert words in out
    assert "anytls_http.pool: " in out


def test_trace(config: Path) -> None:
    first, _, second = run(config, "request_trace.py", f"https://{HOST}/").partition("The second")
    assert "anytls.tls complete" in first
    assert "anytls" not in second
    assert "http11.receive_response_headers complete" in second


def test_prometheus_exporter(config: Path) -> None:
    pytest.importorskip("prometheus_client")
    command = [sys.executable, "-u", str(EXAMPLES / "prometheus_exporter.py"), str(config), "0", "1.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(config)) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as response:
            text = response.read().decode()
        assert process.wait(20) == 0
    assert 'anytls_pool_sessions{client="main",state="idle"}' in text


def test_all_of_them_are_run_and_listed() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".json")}
    assert len(files) > 7
    for name in files:
        assert f"({name})" in listed
        assert name in here or name.endswith(".json")
