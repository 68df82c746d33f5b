"""``AnyTLSTransport`` for httpx and httpx2: every test runs for both."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import itertools
import pickle
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from anytls_http import (
    AnyTLSClient,
    AnyTLSOutbound,
    AnyTLSTimeout,
    AuthenticationError,
    CertificateError,
    ClientClosed,
    ConfigError,
    DialError,
    SessionClosed,
    StreamRefused,
)
from anytls_http.integrations._httpcore import asked
from anytls_http.pool import rules
from anytls_http.protocol.frames import Command
from anytls_http.testing import AnyTLSServer, Site, make_certificate
from anytls_http.testing.site import GREETING, body_bytes, body_sha256
from tests.support.h2site import H2Site
from tests.support.timing import takes, wait_until


class Library:
    """httpx or httpx2, with its transport."""

    def __init__(self, name: str) -> None:
        self.module: ModuleType = pytest.importorskip(name)
        self.core: ModuleType = importlib.import_module(name.replace("httpx", "httpcore"))
        self.transport = importlib.import_module(f"anytls_http.integrations.{name}").AnyTLSTransport

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def through(self, config_or_client: Any, **options: Any) -> Any:
        """Return a client of the library over a transport; ``timeout`` is for the client."""
        timeout = options.pop("timeout", 5)
        return self.module.Client(transport=self.transport(config_or_client, **options), timeout=timeout)


@pytest.fixture(params=["httpx", "httpx2"])
def lib(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as server:
        yield server


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def certificate() -> Any:
    return make_certificate("localhost", "127.0.0.1", "::1")


@pytest.fixture
def tls_site(certificate: Any) -> Iterator[Site]:
    with Site(tls=True, certificate=certificate) as site:
        yield site


@pytest.fixture(params=["http", "https"])
def any_site(request: pytest.FixtureRequest, site: Site, tls_site: Site) -> Site:
    return site if request.param == "http" else tls_site


@pytest.fixture
def trusts(certificate: Any) -> ssl.SSLContext:
    return certificate.client_context()


@contextmanager
def raw_site(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection with ``answer(sock)``, on a thread; gives the URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener.accept()[0] as sock:
            answer(sock)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join(5)
        listener.close()


def head_of(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    return data


# -- requests and bodies ------------------------------------------------------------------------------


def test_get(lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext) -> None:
    with lib.through(server.outbound(), verify=trusts) as http:
        response = http.get(any_site.url)
        assert response.status_code == 200
        assert response.content == GREETING
        assert response.http_version == "HTTP/1.1"
    assert server.streams_opened == 1


def test_given_a_client_the_transport_leaves_it_open(lib: Library, server: AnyTLSServer, site: Site) -> None:
    with AnyTLSClient(server.outbound()) as client:
        for _ in range(2):
            with lib.through(client) as http:
                assert http.get(site.url).content == GREETING
        assert client.stats().idle == 1
        assert http._transport.client is client
    assert server.sessions_accepted == 1


def test_given_a_config_the_transport_closes_its_client(
    lib: Library, server: AnyTLSServer, site: Site
) -> None:
    http = lib.through(AnyTLSOutbound.from_dict(server.outbound()))
    http.get(site.url)
    transport = http._transport
    http.close()
    transport.close()
    assert transport.client.stats().total == 0
    with pytest.raises(ClientClosed):
        transport.client.create_connection(("127.0.0.1", 80))


def test_with_starts_the_pool_of_an_own_client(lib: Library, server: AnyTLSServer) -> None:
    with lib.through(server.outbound(ensure_idle_session=2)):
        server.wait_for(lambda: server.sessions_accepted == 2)


def test_kept_alive_connections_are_used_again(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext
) -> None:
    with lib.through(server.outbound(), verify=trusts) as http:
        for _ in range(5):
            assert http.get(any_site.url).content == GREETING
    assert (any_site.connections, server.streams_opened) == (1, 1)


def test_sessions_are_used_again_by_new_connections(lib: Library, server: AnyTLSServer, site: Site) -> None:
    with lib.through(server.outbound(), limits=lib.Limits(max_keepalive_connections=0)) as http:
        for _ in range(3):
            http.get(site.url)
    assert (server.sessions_accepted, site.connections) == (1, 3)


def test_large_bodies(lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext) -> None:
    size = 8_000_000
    with lib.through(server.outbound(), verify=trusts) as http:
        digest = hashlib.sha256()
        with http.stream("GET", f"{any_site.url}/bytes/{size}") as response:
            for chunk in response.iter_bytes():
                digest.update(chunk)
        assert digest.hexdigest() == body_sha256(size)
        answer = http.post(f"{any_site.url}/echo-hash", content=body_bytes(size)).json()
        assert answer == {"length": size, "sha256": body_sha256(size)}


def test_a_generator_is_sent_as_it_comes(lib: Library, server: AnyTLSServer, site: Site) -> None:
    with lib.through(server.outbound()) as http:
        answer = http.post(f"{site.url}/echo-hash", content=iter([b"ab" * 50_000] * 3)).json()
    assert answer == {"length": 300_000, "sha256": hashlib.sha256(b"ab" * 150_000).hexdigest()}


def test_a_body_that_is_left_gives_the_connection_up(lib: Library, server: AnyTLSServer, site: Site) -> None:
    with lib.through(server.outbound()) as http:
        with http.stream("GET", f"{site.url}/bytes/50000000") as response:
            next(response.iter_bytes())
        assert http.get(site.url).content == GREETING
    assert site.connections == 2


def test_http2(lib: Library, server: AnyTLSServer) -> None:
    with H2Site() as site, lib.through(server.outbound(), verify=site.ssl_context(), http2=True) as http:
        response = http.get(site.url)
        assert (response.http_version, response.content) == ("HTTP/2", GREETING)
        assert http.get(f"{site.url}/bytes/3000000").content == body_bytes(3_000_000)
        answer = http.post(f"{site.url}/echo-hash", content=body_bytes(1_000_000)).json()
        assert answer["sha256"] == body_sha256(1_000_000)
        # Interleaved by one thread; test_http2_with_many_threads does it with several.
        with (
            http.stream("GET", f"{site.url}/bytes/200000") as first,
            http.stream("GET", f"{site.url}/bytes/5") as second,
        ):
            assert second.read() == body_bytes(5)
            assert first.read() == body_bytes(200_000)
        assert (site.connections, server.streams_opened) == (1, 1)


def test_http2_with_many_threads(lib: Library, server: AnyTLSServer) -> None:
    """httpcore's own mixes up requests that begin at once: here the log of its steps leaves it time to."""
    steps: list[str] = []
    with (
        H2Site() as site,
        lib.through(server.outbound(), verify=site.ssl_context(), http2=True) as http,
        ThreadPoolExecutor(8) as threads,
    ):
        together = threading.Barrier(8)

        def post(number: int) -> int:
            together.wait(10)
            extensions = {"trace": lambda step, info: steps.append(step)} if number == 5 else {}
            url = f"{site.url}/echo-hash"
            answer = http.post(url, content=bytes(1000 * number), extensions=extensions)
            length: int = answer.json()["length"]
            return length

        for _ in range(5):
            assert list(threads.map(post, range(8))) == [1000 * number for number in range(8)]
        assert site.connections == 1
    assert steps.count("http2.send_request_headers.started") == 5
    assert steps.count("http2.response_closed.complete") == 5


def test_an_idle_http2_connection_whose_session_has_ended(lib: Library, server: AnyTLSServer) -> None:
    with H2Site() as site, lib.through(server.outbound(), verify=site.ssl_context(), http2=True) as http:
        for _ in range(3):
            assert http.get(site.url).content == GREETING
            server.close_sessions()
            server.wait_for(lambda: server.live_sessions == [])
            assert http.post(f"{site.url}/echo-hash", content=b"once").json()["length"] == 4
        assert site.connections == 4


def test_only_the_proof_of_life_counts_as_connecting(lib: Library, server: AnyTLSServer) -> None:
    with lib.through(server.outbound()) as http:
        stream = http._transport.backend_class.stream_class(mock.Mock())
        asked.connect_timeout, asked.proof_took = 0.3, 0.0
        assert stream.prove_alive()
        time.sleep(0.1)  # for a connection that comes free, or an answer
        assert asked.left_to_connect(0.3) == pytest.approx(0.3, abs=0.05)
        stream._sock._prove_alive = lambda deadline: time.sleep(0.1)
        assert not stream.prove_alive()
        assert asked.left_to_connect(0.3) <= 0.2
        assert asked.left_to_connect(None) is None


def test_what_another_thread_may_have_sent_is_not_sent_again(lib: Library, server: AnyTLSServer) -> None:
    """With HTTP/2 a thread sends what others are about to send, and they get the error that it meets."""
    with lib.through(server.outbound()) as http:
        transport: Any = http._transport
        tried: list[bool] = []

        def fail(request: Any) -> Any:
            tried.append(asked.new_request)
            raise transport.core.ReadError("another thread's")

        with mock.patch.object(transport._pool, "handle_request", fail):
            with pytest.raises(lib.ReadError):
                http.post("http://x.test/", content=b"once")
            assert tried == [True]

            def find_dead(request: Any) -> Any:
                asked.found_dead = len(tried) < 3
                return fail(request)

            transport._pool.handle_request = find_dead
            with pytest.raises(lib.ReadError):
                http.post("http://x.test/", content=b"once")
            assert tried == [True] * 4


def test_a_request_has_begun_although_nothing_is_left_to_write(lib: Library, server: AnyTLSServer) -> None:
    with lib.through(server.outbound()) as http:
        stream = http._transport.backend_class.stream_class(mock.Mock())
        asked.new_request = True
        stream.write(b"")  # another thread has sent it along
        assert not asked.new_request


def test_many_threads(lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext) -> None:
    with lib.through(server.outbound(), verify=trusts) as http, ThreadPoolExecutor(16) as threads:
        pages = list(threads.map(lambda n: http.get(f"{any_site.url}/bytes/{n * 1000}").content, range(64)))
    assert pages == [body_bytes(n * 1000) for n in range(64)]


def test_more_threads_than_connections_that_may_be_kept(
    lib: Library, server: AnyTLSServer, site: Site
) -> None:
    limits = lib.Limits(max_connections=None, max_keepalive_connections=2)
    together = threading.Barrier(8)

    def work(_: int) -> None:
        for _ in range(5):
            together.wait(10)
            assert http.get(f"{site.url}/slow?seconds=0.05").status_code == 200

    with lib.through(server.outbound(), limits=limits) as http, ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
        kept = http._transport._pool.connections
        assert [connection.is_idle() for connection in kept] == [True, True]
        before = site.connections
        assert before < 40
        assert http.get(site.url).content == GREETING
        assert site.connections == before


def test_redirects_and_headers(
    lib: Library, server: AnyTLSServer, site: Site, tls_site: Site, trusts: Any
) -> None:
    with lib.through(server.outbound(), verify=trusts) as http:
        response = http.get(f"{site.url}/redirect?to={tls_site.url}/headers", follow_redirects=True)
        assert dict(response.json())["Host"] == f"127.0.0.1:{tls_site.port}"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_transport_is_not_bypassed_by_proxy_variables(
    lib: Library,
    server: AnyTLSServer,
    any_site: Site,
    trusts: Any,
    variable: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        monkeypatch.setenv(variable, f"http://user:secret@127.0.0.1:{trap.getsockname()[1]}")
        with lib.through(server.outbound(), verify=trusts) as http:
            headers = dict(http.get(f"{any_site.url}/headers").json())
        assert "Proxy-Authorization" not in headers
        with pytest.raises(BlockingIOError):
            trap.accept()
    assert server.streams_opened == 1


# -- extensions ---------------------------------------------------------------------------------------


def test_network_stream_extension(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext
) -> None:
    with lib.through(server.outbound(), verify=trusts) as http, http.stream("GET", any_site.url) as response:
        stream = response.extensions["network_stream"]
        assert isinstance(stream, lib.core.NetworkStream)
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", any_site.port)
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"
        assert stream.get_extra_info("socket") is None
        assert stream.get_extra_info("is_readable") in (True, False)
        ssl_object = stream.get_extra_info("ssl_object")
        if any_site.certificate:
            assert ssl_object.version() == "TLSv1.3"
            assert ssl_object.getpeercert()["subjectAltName"]
            with pytest.raises(TypeError, match="TLS has been started"):
                stream.start_tls(trusts)
        else:
            assert ssl_object is None
        response.read()


def test_trace_extension(lib: Library, server: AnyTLSServer, tls_site: Site, trusts: ssl.SSLContext) -> None:
    seen = []
    with lib.through(server.outbound(), verify=trusts) as http:
        http.get(tls_site.url, extensions={"trace": lambda name, info: seen.append(name)})
    assert {"connection.connect_tcp.complete", "connection.start_tls.complete"} <= set(seen)
    assert "http11.receive_response_body.complete" in seen


def test_sni_hostname_extension(lib: Library, server: AnyTLSServer) -> None:
    other = make_certificate("other.test")
    with (
        Site(tls=True, certificate=other) as site,
        lib.through(server.outbound(), verify=other.client_context()) as http,
    ):
        assert http.get(site.url, extensions={"sni_hostname": "other.test"}).content == GREETING


def test_upgrade_gives_the_stream(
    lib: Library, server: AnyTLSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(sock: socket.socket) -> None:
        head_of(sock)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nearly")
        while data := sock.recv(1000):
            sock.sendall(data.upper())

    with raw_site(answer) as url, lib.through(server.outbound()) as http:
        headers = {"Connection": "upgrade", "Upgrade": "echo"}
        with http.stream("GET", url, headers=headers) as response:
            assert response.status_code == 101
            stream = response.extensions["network_stream"]
            assert stream.read(100) == b"early"
            # What follows is no request: nothing waits for a proof of life here.
            monkeypatch.setattr(rules, "SILENT_AFTER", -1)
            stream.write(b"hello")
            assert stream.read(100, timeout=2) == b"HELLO"
            with pytest.raises(lib.core.ReadTimeout):
                stream.read(100, timeout=0.02)
    assert server.heartbeats_received == 0


# -- errors -------------------------------------------------------------------------------------------


def check(error: pytest.ExceptionInfo[Any], cause: type[BaseException], *words: str) -> None:
    """The words of the cause are the error's; httpx has set its request; the cause is there."""
    assert isinstance(error.value.__cause__, cause)
    assert error.value.request.method in ("GET", "POST")
    assert str(error.value) == str(error.value.__cause__)
    for word in words:
        assert word in str(error.value)


def test_refused_target(lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext) -> None:
    server.faults.refuse = lambda host, port: f"no way to {host}"
    with lib.through(server.outbound(), verify=trusts) as http:
        with pytest.raises(lib.ConnectError) as error:
            http.get(any_site.url)
        check(error, StreamRefused, "no way to 127.0.0.1")
        with pytest.raises(lib.ConnectError) as error:
            http.post(any_site.url, content=iter([b"x" * 100_000] * 20))
        check(error, StreamRefused, "no way to 127.0.0.1")
        server.faults.refuse = None
        assert http.get(any_site.url).content == GREETING


def test_impossible_target(lib: Library, server: AnyTLSServer) -> None:
    with lib.through(server.outbound()) as http:
        with pytest.raises(lib.ConnectError) as error:
            http.get(f"http://{'x' * 300}.test/")
        check(error, StreamRefused, "can't be a target")


@pytest.mark.parametrize("content", [None, b"x" * 3_000_000])
def test_wrong_password(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext, content: bytes | None
) -> None:
    with lib.through(server.outbound(password="wrong"), verify=trusts, retries=3) as http:
        with pytest.raises(lib.ConnectError) as error:
            http.request("POST" if content else "GET", any_site.url, content=content)
        check(error, AuthenticationError, "wrong password")
    assert server.auth_failures == 1


def test_untrusted_server(lib: Library, server: AnyTLSServer, site: Site) -> None:
    other = make_certificate("anytls.test").ca_pem
    with lib.through(server.outbound(tls={"certificate": other}), retries=3) as http:
        with pytest.raises(lib.ConnectError) as error:
            http.get(site.url)
        check(error, CertificateError)
    assert len(server.connections) == 1
    assert server.unauthenticated_bytes == 0


def test_untrusted_target(lib: Library, server: AnyTLSServer, tls_site: Site) -> None:
    with lib.through(server.outbound(), retries=3) as http:
        with pytest.raises(lib.ConnectError) as error:
            http.get(tls_site.url)
        check(error, ssl.SSLCertVerificationError, "certificate verify failed")
    assert server.streams_opened == 1
    with lib.through(server.outbound(), verify=False) as http:
        assert http.get(tls_site.url).content == GREETING


def test_target_without_tls(lib: Library, server: AnyTLSServer, site: Site) -> None:
    with lib.through(server.outbound()) as http:
        with pytest.raises(lib.ConnectError) as error:
            http.get(site.url.replace("http://", "https://"))
        check(error, ssl.SSLError)


def test_server_that_is_not_there(lib: Library, server: AnyTLSServer, any_site: Site) -> None:
    outbound = server.outbound()
    server.close()
    with lib.through(outbound) as http:
        with pytest.raises(lib.ConnectError) as error:
            http.get(any_site.url)
        check(error, DialError)


def test_closed_client(lib: Library, server: AnyTLSServer, any_site: Site) -> None:
    client = AnyTLSClient(server.outbound())
    with lib.through(client) as http:
        client.close()
        with pytest.raises(lib.ConnectError) as error:
            http.get(any_site.url)
        check(error, ClientClosed)


def test_client_closed_in_mid_body(lib: Library, server: AnyTLSServer, site: Site) -> None:
    client = AnyTLSClient(server.outbound())
    with lib.through(client) as http, http.stream("GET", f"{site.url}/stream?pause=5") as response:
        chunks = response.iter_bytes()
        next(chunks)
        client.close()
        with pytest.raises(lib.ReadError) as error:
            next(chunks)
        check(error, ClientClosed)


def test_connect_timeout_of_the_dial(lib: Library, server: AnyTLSServer, any_site: Site) -> None:
    server.freeze()
    with lib.through(server.outbound(), timeout=lib.Timeout(5, connect=0.2)) as http:
        with takes(0.2), pytest.raises(lib.ConnectTimeout) as error:
            http.get(any_site.url)
        check(error, AnyTLSTimeout)


def test_timeout_while_the_server_reaches_the_target(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext
) -> None:
    # An http request is on its way already, so that this is no connect error; a ClientHello is no user data.
    server.faults.withhold_synack = True
    kind = lib.ConnectTimeout if any_site.certificate else lib.ReadTimeout
    with lib.through(server.outbound(), verify=trusts, timeout=0.2) as http:
        with takes(0.2), pytest.raises(kind) as error:
            http.get(any_site.url)
        check(error, AnyTLSTimeout)


def test_read_timeout(lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext) -> None:
    with lib.through(server.outbound(), verify=trusts, timeout=lib.Timeout(5, read=0.2)) as http:
        http.get(any_site.url)
        with takes(0.2), pytest.raises(lib.ReadTimeout) as error:
            http.get(f"{any_site.url}/slow?seconds=9")
        check(error, AnyTLSTimeout)
        with http.stream("GET", f"{any_site.url}/stream?pause=9") as response:
            chunks = response.iter_bytes()
            next(chunks)
            with takes(0.2), pytest.raises(lib.ReadTimeout) as error:
                next(chunks)
            check(error, AnyTLSTimeout)


def test_write_timeout(lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext) -> None:
    def body() -> Iterator[bytes]:
        yield b"first"
        server.freeze()
        while True:
            yield b"x" * 100_000

    with lib.through(server.outbound(), verify=trusts, timeout=lib.Timeout(5, write=0.2)) as http:
        with pytest.raises(lib.WriteTimeout) as error:
            http.post(f"{any_site.url}/echo-hash", content=body())
        check(error, AnyTLSTimeout)


def test_session_that_ends_in_mid_body(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext
) -> None:
    with (
        lib.through(server.outbound(), verify=trusts) as http,
        http.stream("GET", f"{any_site.url}/stream?pause=5") as response,
    ):
        chunks = response.iter_bytes()
        next(chunks)
        server.close_sessions()
        with pytest.raises(lib.ReadError) as error:
            next(chunks)
        check(error, SessionClosed)


@pytest.mark.parametrize("end", ["session", "stream"])
def test_end_before_the_target_was_reached(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext, end: str
) -> None:
    # The request may have been delivered: a connect error would invite sending it again.
    server.faults.withhold_synack = True
    kind = lib.ConnectError if any_site.certificate else lib.ReadError
    with lib.through(server.outbound(), verify=trusts, retries=0) as http, ThreadPoolExecutor(1) as thread:
        post = thread.submit(http.post, f"{any_site.url}/echo-hash", content=b"once")
        server.wait_for(lambda: server.streams_opened == 1)
        if end == "session":
            server.send_frame(Command.ALERT, 0, b"enough")
        else:
            server.send_frame(Command.FIN, 1)
        with pytest.raises(kind) as error:
            post.result(5)
        if end == "session":
            check(error, SessionClosed, "enough")


def test_early_answer_is_read_though_the_upload_fails(lib: Library, server: AnyTLSServer) -> None:
    def answer(sock: socket.socket) -> None:
        head_of(sock)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")

    def body() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000
            time.sleep(0.001)

    with raw_site(answer) as url, lib.through(server.outbound()) as http:
        response = http.post(url, content=body())
        assert (response.status_code, response.content) == (413, b"no!")


def test_other_exceptions_of_httpcore_become_httpx_ones(
    lib: Library, server: AnyTLSServer, site: Site
) -> None:
    with lib.through(server.outbound(), limits=lib.Limits(max_connections=1)) as http:
        with pytest.raises(lib.UnsupportedProtocol):
            http.get("ftp://127.0.0.1/")
        with pytest.raises(lib.LocalProtocolError):
            http.get(site.url, headers={"bad header": "x"})
        with http.stream("GET", f"{site.url}/bytes/1000"), pytest.raises(lib.PoolTimeout):
            http.get(site.url, timeout=lib.Timeout(5, pool=0.05))
    with (
        raw_site(lambda sock: sock.sendall(b"nonsense\r\n\r\n" + head_of(sock)[:0])) as url,
        lib.through(server.outbound()) as http,
        pytest.raises(lib.RemoteProtocolError),
    ):
        http.get(url)
    with (
        raw_site(lambda sock: sock.sendall(head_of(sock)[:0])) as url,
        lib.through(server.outbound()) as http,
        pytest.raises(lib.RemoteProtocolError, match="without sending"),
    ):
        http.get(url)


def test_body_that_is_cut(lib: Library, server: AnyTLSServer) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"
    with (
        raw_site(lambda sock: sock.sendall(cut + head_of(sock)[:0])) as url,
        lib.through(server.outbound()) as http,
        pytest.raises(lib.RemoteProtocolError),
    ):
        http.get(url)


def test_errors_of_the_users_own_code_pass_unchanged(lib: Library, server: AnyTLSServer, site: Site) -> None:
    def body() -> Iterator[bytes]:
        yield b"x"
        raise OSError("the user's own file")

    with lib.through(server.outbound()) as http, pytest.raises(OSError, match="the user's own file"):
        http.post(f"{site.url}/echo-hash", content=body())


def test_broken_http2_frames(lib: Library, server: AnyTLSServer, certificate: Any) -> None:
    context = certificate.server_context(["h2"])

    def answer(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(65536)
            tls.sendall(b"\x00\x00\x05\x04\x00\x00\x00\x00\x00" + b"wrong")
            tls.recv(65536)

    with (
        raw_site(answer) as url,
        lib.through(server.outbound(), verify=certificate.client_context(), http2=True) as http,
        pytest.raises(lib.ProtocolError),
    ):
        http.get(url.replace("http://", "https://"))


# -- retries ------------------------------------------------------------------------------------------


@pytest.fixture
def waits(lib: Library, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Take the place of the waits between two tries."""
    taken: list[float] = []
    fake = type("time", (), {"sleep": taken.append, "monotonic": time.monotonic})
    monkeypatch.setattr("anytls_http.integrations._httpx.time", fake)
    return taken


def refuse_first(server: AnyTLSServer, count: int) -> None:
    tries = itertools.count(1)
    server.faults.refuse = lambda host, port: "not yet" if next(tries) <= count else None


def test_retries_count_refusals(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext, waits: list[float]
) -> None:
    refuse_first(server, 3)
    with lib.through(server.outbound(), verify=trusts, retries=3) as http:
        answer = http.post(f"{any_site.url}/echo-hash", content=b"again and again").json()
    assert answer["length"] == 15
    assert server.streams_opened == 4
    assert waits == [0, 0.5, 1.0]


def test_retries_end(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext, waits: list[float]
) -> None:
    refuse_first(server, 99)
    with (
        lib.through(server.outbound(), verify=trusts, retries=2) as http,
        pytest.raises(lib.ConnectError, match="not yet"),
    ):
        http.get(any_site.url)
    assert server.streams_opened == 3


def test_failed_dials_are_tried_again_as_often(
    lib: Library, server: AnyTLSServer, any_site: Site, waits: list[float]
) -> None:
    server.faults.close_on_accept = True
    with lib.through(server.outbound(), retries=2) as http, pytest.raises(lib.ConnectError):
        http.post(any_site.url, content=iter([b"never sent, so it may be a generator"]))
    assert waits == [0, 0.5]


def test_a_generator_is_not_sent_again(
    lib: Library, server: AnyTLSServer, site: Site, waits: list[float]
) -> None:
    refuse_first(server, 1)
    with lib.through(server.outbound(), retries=3) as http, pytest.raises(lib.ConnectError, match="not yet"):
        http.post(f"{site.url}/echo-hash", content=iter([b"once"]))
    assert server.streams_opened == 1
    assert site.requests == 0


def test_what_may_have_been_delivered_is_not_sent_again(
    lib: Library, server: AnyTLSServer, site: Site
) -> None:
    with lib.through(server.outbound(), retries=3, timeout=0.1) as http, pytest.raises(lib.ReadTimeout):
        http.get(f"{site.url}/slow?seconds=9")
    assert site.requests == 1


# -- kept-alive connections whose session died -------------------------------------------------------


@pytest.fixture
def silent_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sessions count as silent at once, and proofs of life wait for 0.1 s only."""
    monkeypatch.setattr(rules, "SILENT_AFTER", 0.0)
    monkeypatch.setattr(rules, "SHORTEST_PROOF", 0.1)


@pytest.mark.usefixtures("silent_soon")
def test_silent_session_proves_its_life(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext
) -> None:
    with lib.through(server.outbound(), verify=trusts) as http:
        for _ in range(3):
            assert http.get(any_site.url).content == GREETING
    assert server.heartbeats_received == 2
    assert server.streams_opened == 1


@pytest.mark.usefixtures("silent_soon")
def test_dead_session_is_replaced_before_the_first_byte(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext
) -> None:
    with lib.through(server.outbound(), verify=trusts) as http:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(http.get, [f"{any_site.url}/slow?seconds=0.1"] * 3))
        server.freeze(new_sessions=False)
        answer = http.post(f"{any_site.url}/echo-hash", content=iter([b"only ", b"once"])).json()
        assert answer["length"] == 9
        assert http._transport.client.stats().closed["proof_of_life"] >= 1
    assert [entry for entry in any_site.log if entry[0] == "POST"] == [("POST", "/echo-hash")]
    server.thaw()
    server.close()
    assert len([entry for entry in any_site.log if entry[0] == "POST"]) == 1


@pytest.mark.usefixtures("silent_soon")
def test_dead_session_under_http2(lib: Library, server: AnyTLSServer) -> None:
    with H2Site() as site, lib.through(server.outbound(), verify=site.ssl_context(), http2=True) as http:
        http.get(site.url)
        server.freeze(new_sessions=False)
        assert http.get(site.url).content == GREETING
        assert site.connections == 2


@pytest.mark.usefixtures("silent_soon")
def test_proof_of_life_is_part_of_the_connect_timeout(
    lib: Library, server: AnyTLSServer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lib.through(server.outbound()) as http:
        http.get(site.url)
        server.freeze()
        # The proof ends after 0.1 s, and the new session never comes.
        with takes(0.3), pytest.raises(lib.ConnectTimeout):
            http.get(site.url, timeout=lib.Timeout(5, connect=0.3))
    monkeypatch.setattr(rules, "SHORTEST_PROOF", 5.0)
    server.thaw()
    with lib.through(server.outbound()) as http:
        http.get(site.url)
        server.freeze()
        with takes(0.2), pytest.raises(lib.ConnectTimeout):
            http.get(site.url, timeout=lib.Timeout(5, connect=0.2))


def test_connection_that_the_target_ended_is_not_used_again(
    lib: Library, server: AnyTLSServer, any_site: Site, trusts: ssl.SSLContext
) -> None:
    with lib.through(server.outbound(), verify=trusts) as http:
        stream = http.get(any_site.url).extensions["network_stream"]
        assert not stream.get_extra_info("is_readable")
        any_site.close_connections()
        wait_until(lambda: stream.get_extra_info("is_readable"))
        response = http.get(any_site.url)
        assert response.content == GREETING
        server.close_sessions()
        stream = response.extensions["network_stream"]
        wait_until(lambda: stream.get_extra_info("is_readable"))
        assert http.get(any_site.url).content == GREETING


# -- the class ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        {"local_address": "127.0.0.1"},
        {"socket_options": [(1, 2, 3)]},
        {"uds": "/s"},
        {"proxy": "http://localhost"},
    ],
)
def test_what_makes_no_sense_is_refused(lib: Library, server: AnyTLSServer, option: dict[str, Any]) -> None:
    name = next(iter(option))
    with pytest.raises(TypeError, match=f"{name} must be None: "):
        lib.transport(server.outbound(), **option)


def test_wrong_config_is_told(lib: Library) -> None:
    with pytest.raises(ConfigError, match="server"):
        lib.transport({"type": "anytls"})


def test_http2_without_h2(lib: Library, server: AnyTLSServer, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "h2" else find_spec(name))
    with pytest.raises(ImportError, match=re.escape("anytls_http[http2]")):
        lib.transport(server.outbound(), http2=True)


def test_repr_is_readable_and_keeps_the_password(lib: Library, server: AnyTLSServer, site: Site) -> None:
    with lib.through(server.outbound()) as http:
        http.get(site.url)
        text = repr(http._transport)
    assert "AnyTLSTransport over <AnyTLSClient to 127.0.0.1" in text
    assert "1 connections" in text
    assert server.password not in text


def test_transport_belongs_to_its_process(lib: Library, server: AnyTLSServer) -> None:
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(lib.transport(server.outbound()))


def test_async_client_is_told_what_to_do(lib: Library, server: AnyTLSServer) -> None:
    async def enter() -> None:
        async with lib.AsyncClient(transport=lib.transport(server.outbound())):
            pass

    async def get() -> None:
        client = lib.AsyncClient(transport=lib.transport(server.outbound()))
        try:
            await client.get("http://127.0.0.1/")
        finally:
            await client.aclose()

    for use in (enter, get):
        with pytest.raises(TypeError, match="LocalProxy"):
            asyncio.run(use())


def test_every_public_exception_of_httpcore_is_mapped(lib: Library) -> None:
    internal = {"ConnectionNotAvailable"}
    for name in dir(lib.core):
        kind = getattr(lib.core, name)
        if isinstance(kind, type) and issubclass(kind, Exception) and name not in internal:
            assert lib.transport.exceptions[kind] is getattr(lib.module, name)
