"""Threads, forks, exits, pickles and signals. ``tests/sockets/test_closing.py`` has the finer cases."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import requests

from anytls_http import AnyTLSAdapter, AnyTLSClient, AnyTLSTransport, ClientClosed, SessionClosed
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING, body_bytes
from tests.faults.libraries import Way
from tests.faults.servers import Server
from tests.support.reliability import Ended
from tests.support.timing import STARVED

posix_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def fetch(client: AnyTLSClient, port: int, path: str = "/") -> bytes:
    with client.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.fault("one thread reads, one writes, a third closes the client")
def test_close_from_a_third_thread(server: Server, ended: Ended) -> None:
    seen: list[BaseException] = []
    with AnyTLSServer() as hole:
        # A target that takes nothing and says nothing.
        hole.freeze()
        client = AnyTLSClient(server.outbound())
        sock = client.create_connection((hole.host, hole.port), timeout=20)

        def until_it_fails(act: Any) -> None:
            try:
                while True:
                    act()
            except OSError as exc:
                seen.append(exc)

        threads = [
            threading.Thread(target=until_it_fails, args=(act,))
            for act in (lambda: sock.recv(100), lambda: sock.sendall(bytes(1 << 20)))
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        begin = time.monotonic()
        client.close()
        for thread in threads:
            thread.join(10)
        assert time.monotonic() - begin < 1.5 + STARVED
        sock.close()
    assert len(seen) == 2 and all(isinstance(exc, ClientClosed) for exc in seen), seen
    ended("both get ClientClosed at once")


@pytest.mark.fault("one client shared by 64 threads, each answer another one")
def test_64_threads(server: Server, site: Site, lib: Way, ended: Ended) -> None:
    sizes = [1000 + 397 * number for number in range(320)]
    with (
        AnyTLSClient(server.outbound(ensure_idle_session=4)) as client,
        ThreadPoolExecutor(64) as threads,
        lib.open(client, 20) as http,
    ):
        bodies = threads.map(lambda size: http.get(f"{site.url}/bytes/{size}"), sizes)
        assert all(body == body_bytes(size) for size, body in zip(sizes, bodies, strict=True))
        stats = client.stats()
    with AnyTLSClient(server.outbound()) as client:
        assert fetch(client, site.port) == GREETING
    ended(f"320 requests, {stats.total} sessions, each answer its own")


@posix_only
@pytest.mark.fault("os.fork() in the middle of a download")
def test_fork_in_mid_download(server: Server, site: Site, ended: Ended) -> None:
    size = 4_000_000
    with AnyTLSClient(server.outbound()) as client:
        with client.create_connection(("127.0.0.1", site.port), timeout=10) as sock:
            sock.sendall(f"GET /bytes/{size} HTTP/1.0\r\n\r\n".encode())
            answer = sock.recv(65536)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    try:
                        sock.recv(1)
                    except SessionClosed:
                        status = 2
                    if status == 2 and fetch(client, site.port) == GREETING:
                        status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            while piece := sock.recv(65536):
                answer += piece
        assert answer.partition(b"\r\n\r\n")[2] == body_bytes(size)
    ended("the parent's goes on; the child's read says whose it is, and its own connections work")


@posix_only
@pytest.mark.parametrize("library", ["httpx", "requests"])
@pytest.mark.fault("os.fork() with live sessions and a kept-alive connection of {library}")
def test_fork(server: Server, site: Site, library: str, ended: Ended) -> None:
    with AnyTLSClient(server.outbound()) as client:
        http: Any = (
            httpx.Client(transport=AnyTLSTransport(client), timeout=10)
            if library == "httpx"
            else requests.Session()
        )
        if library == "requests":
            http.mount("http://", AnyTLSAdapter(client))
        with http:
            assert http.get(site.url).content == GREETING
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    # Its connections are the parent's: stale here, and replaced.
                    good = all(http.get(site.url).content == GREETING for _ in range(3))
                    status = 0 if good and client.stats().total >= 1 else 2
                finally:
                    os._exit(status)
            for _ in range(3):
                assert http.get(site.url).content == GREETING
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert http.get(site.url).content == GREETING
            assert client.stats().total == 1, "the parent's session went on"
    ended("parent and child both go on, with sessions of their own")


def _in_a_process(outbound: dict[str, Any], port: int) -> bool:
    with AnyTLSClient(outbound) as client:
        return fetch(client, port) == GREETING


@posix_only
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.fault("multiprocessing ({method}) with live sessions")
def test_multiprocessing(site: Site, method: str, ended: Ended) -> None:
    code = (
        "import json, multiprocessing, sys\n"
        "from tests.faults.test_threads_and_processes import AnyTLSClient, GREETING, _in_a_process, fetch\n"
        "if __name__ == '__main__':\n"
        "    outbound, port, method = json.loads(sys.argv[1])\n"
        "    with AnyTLSClient(outbound) as client:\n"
        "        assert fetch(client, port) == GREETING\n"
        "        with multiprocessing.get_context(method).Pool(2) as pool:\n"
        "            print(pool.starmap(_in_a_process, [(outbound, port)] * 4), fetch(client, port) == GREETING)\n"
    )
    with AnyTLSServer() as server:
        argument = json.dumps([server.outbound(), site.port, method])
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, timeout=50
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[True, True, True, True] True"
    assert method in multiprocessing.get_all_start_methods()
    ended("all of them go on")


@pytest.mark.fault("interpreter exit with an open client, a busy stream and a dial in flight")
def test_exit(ended: Ended) -> None:
    code = (
        "import json, sys, threading, time\n"
        "from anytls_http import AnyTLSClient\n"
        "client = AnyTLSClient({**json.loads(sys.argv[1]), 'ensure_idle_session': 3, 'heartbeat': '1s'})\n"
        "client.wait_ready(1, timeout=10)\n"
        "sock = client.create_connection(('127.0.0.1', 9), timeout=30)\n"
        "threading.Thread(target=sock.recv, args=(1,), daemon=True).start()\n"
        "print(time.monotonic(), flush=True)\n"
    )
    with AnyTLSServer() as server:
        server.faults.withhold_synack = True
        server.faults.refuse = lambda host, port: None
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, json.dumps(server.outbound())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            begin = time.monotonic()
            process.wait(10)
            took = time.monotonic() - begin
            _, errors = process.communicate()
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors
    assert took < 2 + STARVED
    ended("the process ends at once")


@pytest.mark.fault("a client that is dropped, not closed")
def test_a_dropped_client(server: Server, site: Site, ended: Ended) -> None:
    client = AnyTLSClient(server.outbound(ensure_idle_session=2))
    assert fetch(client, site.port) == GREETING
    (mine,) = [t for t in threading.enumerate() if t.name.startswith("anytls-maintenance")]
    del client
    gc.collect()
    mine.join(5)
    assert not mine.is_alive()
    ended("its thread ends, its sessions are closed")


@pytest.mark.fault("a pickled requests session", library="requests")
def test_a_pickled_session(site: Site, ended: Ended) -> None:
    with AnyTLSServer() as server, requests.Session() as session:
        session.mount("http://", AnyTLSAdapter(server.outbound()))
        assert session.get(site.url).content == GREETING
        with pickle.loads(pickle.dumps(session)) as copy:
            assert copy.get(site.url).content == GREETING
        assert session.get(site.url).content == GREETING
    ended("original and copy work, each with a pool of its own")


@posix_only
@pytest.mark.parametrize("what", ["recv", "connect", "wait_ready", "lookup"])
@pytest.mark.fault("KeyboardInterrupt in {what}")
def test_keyboard_interrupt(site: Site, what: str, ended: Ended) -> None:
    code = (
        "import json, os, signal, socket, sys, threading, time\n"
        "from anytls_http import AnyTLSClient\n"
        "from tests.faults.test_threads_and_processes import GREETING, fetch\n"
        "outbound, port, what = json.loads(sys.argv[1])\n"
        "deaf = socket.create_server(('127.0.0.1', 0))\n"
        "good = AnyTLSClient(outbound)\n"
        "assert fetch(good, port) == GREETING\n"
        "stuck = AnyTLSClient({**outbound, 'server_port': deaf.getsockname()[1]})\n"
        "if what == 'lookup':\n"
        "    stuck = AnyTLSClient({**outbound, 'server': 'slow.test'})\n"
        "    socket.getaddrinfo = lambda *args, **kwargs: threading.Event().wait()\n"
        "threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        "    if what == 'recv':\n"
        "        good.create_connection(deaf.getsockname(), timeout=20).recv(1)\n"
        "    elif what == 'wait_ready':\n"
        "        stuck.wait_ready(1, timeout=20)\n"
        "    else:\n"
        "        stuck.create_connection(('127.0.0.1', port), timeout=20)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
        "print(fetch(good, port) == GREETING, stuck.stats().total)\n"
    )
    with AnyTLSServer() as server:
        argument = json.dumps([server.outbound(), site.port, what])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, argument], capture_output=True, text=True, timeout=30
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["interrupted", "True", "0"]
    ended("it is raised at once, and the pool is usable")
