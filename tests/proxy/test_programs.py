"""Real programs through the proxy, and the real sing-box behind it."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anytls_http.proxy import LocalProxy
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING, body_sha256
from tests.proxy.conftest import PASSWORD, USER
from tests.support.singbox import SingBoxServer, skip_without_singbox
from tests.support.uot import UDPEcho

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


def curl(proxy_url: str, *arguments: str) -> bytes:
    """Return what curl prints."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--proxy", proxy_url, *arguments]
    done = subprocess.run(command, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def singbox() -> Iterator[SingBoxServer]:
    with SingBoxServer() as running:
        yield running


@needs_curl
@skip_without_singbox
@pytest.mark.parametrize("scheme", ["http", "socks5h", "socks5", "socks4a", "socks4"])
def test_curl_through_sing_box(singbox: SingBoxServer, scheme: str) -> None:
    with Site() as site, Site(tls=True) as secure, LocalProxy(singbox.outbound()) as proxy:
        url = f"{scheme}://127.0.0.1:{proxy.port}"
        assert curl(url, site.url + "/") == GREETING
        for one in (site, secure):
            body = curl(url, "--insecure", one.url + "/bytes/3000000", one.url + "/bytes/10")
            assert hashlib.sha256(body[:3_000_000]).hexdigest() == body_sha256(3_000_000)
        assert json.loads(curl(url, "--data-binary", "x" * 3000, site.url + "/echo-hash"))["length"] == 3000
        command = ["curl", "-s", "--proxy", url, "-p", "http://127.0.0.1:1/"]
        assert subprocess.run(command, capture_output=True, timeout=30).returncode in (7, 56, 97)
        assert proxy.client.stats().streams_opened >= 4


@needs_curl
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_curl_with_a_password(server: AnyTLSServer, site: Site, guarded: LocalProxy, scheme: str) -> None:
    url = guarded.url if scheme == "http" else guarded.socks_url
    assert (
        curl(url, "http://plain.test/", "--next", "--proxy", url, "--silent", "http://plain.test/")
        == GREETING * 2
    )
    bare = url.replace(url.partition("://")[2].partition("@")[0] + "@", "")
    done = subprocess.run(
        ["curl", "-s", "-f", "--proxy", bare, "http://plain.test/"], timeout=30, capture_output=True
    )
    assert done.returncode != 0
    if scheme == "http":
        assert (
            curl(bare, "--proxy-user", f"{USER}:{PASSWORD}", "--proxy-anyauth", "http://plain.test/")
            == GREETING
        )


@skip_without_singbox
def test_udp_through_sing_box(singbox: SingBoxServer) -> None:
    socks = pytest.importorskip("socks")
    with LocalProxy(singbox.outbound()) as proxy, UDPEcho() as echo, UDPEcho("::1") as echo6:
        sock: Any = socks.socksocket(type=socks.socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(5)
            sock.set_proxy(socks.SOCKS5, "127.0.0.1", proxy.port, rdns=True)
            for address in (echo.address, echo6.address):
                sock.sendto(b"hello", address)
                assert sock.recvfrom(100) == (b"hello", address)


# -- programs that take HTTP_PROXY -----------------------------------------------------------------------


class Files:
    """A static site of one folder, at ``files.test`` behind the test server."""

    def __init__(self, folder: Path) -> None:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
        )
        self.address = self._server.server_address[:2]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def files(server: AnyTLSServer, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    site = Files(folder)
    server.routes["files.test", 80] = (str(site.address[0]), int(site.address[1]))
    yield folder
    site.close()


def run(server: AnyTLSServer, folder: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    """``anytls-http run -c ... -- command``."""
    config = folder / "outbound.json"
    config.write_text(json.dumps(server.outbound()))
    return subprocess.run(
        [sys.executable, "-m", "anytls_http", "run", "-c", str(config), "--", *command],
        capture_output=True,
        timeout=50,
        cwd=Path(__file__).parents[2],
    )


@needs_curl
def test_run_curl(server: AnyTLSServer, site: Site, tmp_path: Path) -> None:
    done = run(server, tmp_path, "curl", "--silent", "http://plain.test/")
    assert (done.returncode, done.stdout) == (0, GREETING)


@needs_git
def test_run_git(server: AnyTLSServer, files: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(work)]
    subprocess.run(["git", "init", "--quiet", str(work)], check=True)
    (work / "file").write_bytes(b"content\n" * 50_000)
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "first"], check=True)
    subprocess.run(["git", "clone", "--quiet", "--bare", str(work), str(files / "it.git")], check=True)
    subprocess.run(["git", "-C", str(files / "it.git"), "update-server-info"], check=True)
    done = run(
        server, tmp_path, "git", "clone", "--quiet", "http://files.test/it.git", str(tmp_path / "copy")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy" / "file").read_bytes() == b"content\n" * 50_000


def test_run_pip_download(server: AnyTLSServer, files: Path, tmp_path: Path) -> None:
    pytest.importorskip("pip")
    name = "tunnelled_thing-1.0-py3-none-any.whl"
    index = files / "simple" / "tunnelled-thing"
    index.mkdir(parents=True)
    with zipfile.ZipFile(index / name, "w") as wheel:
        info = "tunnelled_thing-1.0.dist-info"
        wheel.writestr("tunnelled_thing.py", "x = 1\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tunnelled-thing\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (index / "index.html").write_text(f'<a href="{name}">{name}</a>')
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--isolated"]
    options = ["--disable-pip-version-check", "--index-url", "http://files.test/simple/"]
    done = run(
        server,
        tmp_path,
        *command,
        *options,
        "--trusted-host",
        "files.test",
        "--dest",
        str(tmp_path / "got"),
        "tunnelled-thing",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got" / name).read_bytes() == (index / name).read_bytes()
