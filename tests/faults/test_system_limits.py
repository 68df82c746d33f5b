"""What the system may refuse: descriptors, threads, a steady clock, IPv6, an answer of its resolver."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import anytls_http
from anytls_http import AnyTLSClient, AnyTLSTimeout
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING
from tests.faults.libraries import Way
from tests.support.reliability import Ended
from tests.support.timing import STARVED

_NO_DESCRIPTORS = """
import json, netrc, os, resource, sys  # netrc: requests imports it at its first request
from anytls_http import AnyTLSClient
from tests.faults.libraries import way_of
outbound, url, library = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
way = way_of(library)

with AnyTLSClient(outbound) as client, way.open(client, 5) as http:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []
    while True:
        try:
            taken.append(os.dup(0))
        except OSError:
            break
    try:
        http.get(url)
    except way.errors as exc:
        words = [type(exc).__name__, str(exc)]
    for fd in taken:
        os.close(fd)
    print(json.dumps([*words, http.get(url).decode()]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
@pytest.mark.fault("no file descriptor is left (EMFILE)")
def test_no_descriptors(lib: Way, ended: Ended) -> None:
    with AnyTLSServer() as server, Site() as site:
        done = subprocess.run(
            [sys.executable, "-c", _NO_DESCRIPTORS, json.dumps(server.outbound()), f"{site.url}/", lib.name],
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 0, done.stderr
    kind, words, answer = json.loads(done.stdout)
    assert "open files" in words.lower() or "descriptor" in words.lower()
    assert answer == GREETING.decode()
    ended(f"{kind} in plain words, and it works again when there are some")


@pytest.mark.fault("no thread can be started")
def test_no_threads(monkeypatch: pytest.MonkeyPatch, ended: Ended, caplog: pytest.LogCaptureFixture) -> None:
    with AnyTLSServer() as server, Site() as site:
        real = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if thread.name.startswith("anytls-m") or thread.name.startswith("anytls-d"):
                raise RuntimeError("can't start new thread")
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", start)
        with AnyTLSClient(server.outbound(ensure_idle_session=2)) as client:
            for _ in range(3):
                assert get(client, site).endswith(GREETING)
            assert client.stats().created["demand"] == 1, "sessions are reused all the same"
        assert "no background thread" in caplog.text
    ended("requests work, sessions are reused; a warning says that the pool is not maintained")


@pytest.mark.fault("the clock is set by hours, to and fro")
def test_clock_steps(monkeypatch: pytest.MonkeyPatch, ended: Ended) -> None:
    with AnyTLSServer() as server, Site() as site, AnyTLSClient(server.outbound()) as client:
        assert get(client, site).endswith(GREETING)
        for step in (7200, -7200):
            now = time.time()
            monkeypatch.setattr(time, "time", lambda now=now, step=step: now + step)
            assert get(client, site).endswith(GREETING)
        assert client.stats().total == 1
    ended("nothing happens: time is measured by the monotonic clock")


def test_no_rule_looks_at_the_wall_clock() -> None:
    root = Path(anytls_http.__file__).parent
    files = [*root.glob("*.py"), *(root / "pool").glob("*.py"), *(root / "sockets").glob("*.py")]
    files += [*(root / "net").glob("*.py"), *(root / "relay").glob("*.py"), *(root / "protocol").glob("*.py")]
    assert len(files) > 30
    assert [file.name for file in files if "time.time(" in file.read_text()] == []


@pytest.mark.fault("IPv6 is switched off, and the server's name has an IPv6 address")
def test_no_ipv6(monkeypatch: pytest.MonkeyPatch, ended: Ended) -> None:
    real_socket, real_lookup = socket.socket, socket.getaddrinfo

    class NoIPv6(real_socket):  # type: ignore[misc, valid-type]
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *args, **kwargs)

    def both(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host != "both.test":
            return real_lookup(host, port, *args, **kwargs)
        kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(socket.AF_INET6, *kind, ("::1", port, 0, 0)), (socket.AF_INET, *kind, ("127.0.0.1", port))]

    with AnyTLSServer() as server, Site() as site:
        monkeypatch.setattr(socket, "socket", NoIPv6)
        monkeypatch.setattr(socket, "getaddrinfo", both)
        with AnyTLSClient(server.outbound(server="both.test")) as client:
            begin = time.monotonic()
            assert get(client, site).endswith(GREETING)
            assert time.monotonic() - begin < 2 + STARVED
        monkeypatch.undo()
    ended("the IPv4 address is tried at once")


@pytest.mark.fault("a name lookup that hangs")
def test_a_lookup_that_hangs(monkeypatch: pytest.MonkeyPatch, ended: Ended) -> None:
    release = threading.Event()

    def hanging(*args: Any, **kwargs: Any) -> Any:
        release.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    with AnyTLSServer() as server:
        monkeypatch.setattr(socket, "getaddrinfo", hanging)
        with AnyTLSClient(server.outbound(server="slow.test")) as client:
            begin = time.monotonic()
            with pytest.raises(AnyTLSTimeout, match="lookup"):
                client.create_connection(("example.org", 80), timeout=0.3)
            assert time.monotonic() - begin < 0.8 + STARVED
        release.set()
    ended("AnyTLSTimeout at the caller's deadline")


def get(client: AnyTLSClient, site: Site) -> bytes:
    with client.create_connection((site.host, site.port), timeout=5) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer
