"""``AnyTLSAdapter`` and ``requests_session``."""

from __future__ import annotations

import hashlib
import io
import itertools
import pickle
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

requests = pytest.importorskip("requests")

import responses  # noqa: E402
import urllib3  # noqa: E402
from requests.adapters import HTTPAdapter  # noqa: E402

from anytls_http import AnyTLSClient, ConfigError, SessionClosed, StreamRefused  # noqa: E402
from anytls_http.integrations import _urllib3_tls  # noqa: E402
from anytls_http.integrations.requests import (  # noqa: E402
    AnyTLSAdapter,
    BodyBroken,
    BodyTimeout,
    requests_session,
)
from anytls_http.pool import rules  # noqa: E402
from anytls_http.protocol.frames import Command  # noqa: E402
from anytls_http.testing import AnyTLSServer, Certificate, Site, make_certificate  # noqa: E402
from anytls_http.testing.site import GREETING, body_bytes, body_sha256  # noqa: E402
from tests.support.timing import takes  # noqa: E402


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep out what requests takes from the environment: a CA bundle there would replace a session's ``verify``."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as server:
        yield server


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return make_certificate("localhost", "127.0.0.1", "::1")


@pytest.fixture(scope="module")
def ca_file(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_text(certificate.ca_pem)
    return str(path)


@pytest.fixture
def tls_site(certificate: Certificate) -> Iterator[Site]:
    with Site(tls=True, certificate=certificate) as site:
        yield site


@pytest.fixture(params=["http", "https"])
def any_site(request: pytest.FixtureRequest, site: Site, tls_site: Site) -> Site:
    return site if request.param == "http" else tls_site


@pytest.fixture
def http(server: AnyTLSServer, ca_file: str) -> Iterator[Any]:
    """Give a session through the tunnel that trusts the sites."""
    with requests_session(server.outbound()) as session:
        session.verify = ca_file
        yield session


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


def adapter_of(session: Any) -> AnyTLSAdapter:
    adapter = session.get_adapter("http://x")
    assert isinstance(adapter, AnyTLSAdapter)
    return adapter


# -- requests and bodies ------------------------------------------------------------------------------


def test_get(http: Any, server: AnyTLSServer, any_site: Site) -> None:
    response = http.get(any_site.url)
    assert (response.status_code, response.content) == (200, GREETING)
    assert response.connection is adapter_of(http)
    assert server.streams_opened == 1


def test_both_schemes_share_one_client(http: Any, server: AnyTLSServer, site: Site, tls_site: Site) -> None:
    assert http.get(site.url).content == GREETING
    assert http.get(tls_site.url).content == GREETING
    assert http.get_adapter("https://x").client is http.get_adapter("http://x").client
    assert http.get_adapter("https://x").client.stats().total == server.sessions_accepted == 2


def test_mounted_adapters(server: AnyTLSServer, site: Site, tls_site: Site, ca_file: str) -> None:
    with requests.Session() as session:
        session.mount("http://", AnyTLSAdapter(server.outbound()))
        session.mount("https://", AnyTLSAdapter(server.outbound()))
        assert session.get(site.url).content == GREETING
        assert session.get(tls_site.url, verify=ca_file).content == GREETING
    assert server.streams_opened == 2
    server.wait_for(lambda: not server.live_sessions)


def test_given_a_client_the_adapter_leaves_it_open(server: AnyTLSServer, site: Site) -> None:
    with AnyTLSClient(server.outbound()) as client:
        for _ in range(2):
            with requests_session(client) as session:
                assert session.get(site.url).content == GREETING
                assert adapter_of(session).client is client
        assert client.stats().idle == 1
    assert server.sessions_accepted == 1


def test_kept_alive_connections_are_used_again(http: Any, server: AnyTLSServer, any_site: Site) -> None:
    for _ in range(5):
        assert http.get(any_site.url).content == GREETING
    assert (any_site.connections, server.streams_opened) == (1, 1)


def test_large_bodies(http: Any, any_site: Site) -> None:
    size = 8_000_000
    digest = hashlib.sha256()
    with http.get(f"{any_site.url}/bytes/{size}", stream=True) as response:
        for chunk in response.iter_content(65536):
            digest.update(chunk)
    assert digest.hexdigest() == body_sha256(size)
    answer = http.post(f"{any_site.url}/echo-hash", data=body_bytes(size)).json()
    assert answer == {"length": size, "sha256": body_sha256(size)}


def test_files_are_read_in_large_blocks(http: Any, any_site: Site) -> None:
    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            sizes.append(size)
            return super().read(size)

    sizes: list[int | None] = []
    body = b"ab" * 150_000
    expected = {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert http.post(f"{any_site.url}/echo-hash", data=File(body)).json() == expected
    assert len(sizes) == 4  # the last finds the end


def test_files_and_generators_as_bodies(http: Any, any_site: Site) -> None:
    expected = {"length": 300_000, "sha256": hashlib.sha256(b"ab" * 150_000).hexdigest()}
    assert http.post(f"{any_site.url}/echo-hash", data=iter([b"ab" * 50_000] * 3)).json() == expected
    assert http.post(f"{any_site.url}/echo-hash", data=io.BytesIO(b"ab" * 150_000)).json() == expected


def test_lines_arrive_as_they_come(http: Any) -> None:
    more = threading.Event()

    def answer(sock: socket.socket) -> None:
        head_of(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\none\ntwo\nth")
        more.wait(5)
        sock.sendall(b"ree\n")

    with raw_site(answer) as url, http.get(url, stream=True) as response:
        lines = response.iter_lines(chunk_size=1)
        assert [next(lines), next(lines)] == [b"one", b"two"]
        more.set()
        assert list(lines) == [b"three"]


def test_a_body_that_is_left_gives_the_connection_up(http: Any, site: Site) -> None:
    with http.get(f"{site.url}/bytes/50000000", stream=True) as response:
        next(response.iter_content(1000))
    assert http.get(site.url).content == GREETING
    assert site.connections == 2


def test_body_without_length(http: Any, any_site: Site) -> None:
    assert http.get(f"{any_site.url}/close").content == GREETING
    assert http.get(any_site.url).content == GREETING


def test_redirects(http: Any, server: AnyTLSServer, site: Site, tls_site: Site) -> None:
    response = http.get(f"{site.url}/redirect?to={tls_site.url}/headers")
    assert dict(response.json())["Host"] == f"127.0.0.1:{tls_site.port}"
    assert [r.status_code for r in response.history] == [302]
    assert server.streams_opened == 2


def test_cookies(http: Any) -> None:
    seen = []

    def answer(sock: socket.socket) -> None:
        for _ in range(2):
            seen.append(head_of(sock))
            sock.sendall(b"HTTP/1.1 200 OK\r\nSet-Cookie: taste=good; Path=/\r\nContent-Length: 0\r\n\r\n")

    with raw_site(answer) as url:
        http.get(url)
        http.get(url)
    assert b"Cookie" not in seen[0]
    assert b"Cookie: taste=good" in seen[1]


def test_many_threads(http: Any, any_site: Site) -> None:
    def page(number: int) -> bytes:
        content: bytes = http.get(f"{any_site.url}/bytes/{number * 1000}").content
        return content

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(page, range(50))) == [body_bytes(n * 1000) for n in range(50)]


def test_connections_are_limited_as_asked(server: AnyTLSServer, site: Site) -> None:
    with requests.Session() as session:
        session.mount("http://", AnyTLSAdapter(server.outbound(), pool_maxsize=1, pool_block=True))
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(session.get, [site.url] * 8))
    assert site.connections == 1


def test_responses_library_works(http: Any, server: AnyTLSServer, site: Site) -> None:
    with responses.RequestsMock() as mock:
        mock.get("https://example.org/", body="mocked")
        mock.add_passthru(site.url)
        assert http.get("https://example.org/").text == "mocked"
        assert http.get(site.url).content == GREETING
    assert server.streams_opened == 1


# -- certificates of the target -----------------------------------------------------------------------


def test_verify(http: Any, tls_site: Site, certificate: Certificate, tmp_path: Path) -> None:
    http.verify = True
    with pytest.raises(requests.exceptions.SSLError, match="certificate verify failed"):
        http.get(tls_site.url)
    with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        assert http.get(tls_site.url, verify=False).content == GREETING
    with pytest.raises(OSError, match="TLS CA certificate bundle"):
        http.get(tls_site.url, verify=str(tmp_path / "missing.pem"))


def test_wrong_name(http: Any, server: AnyTLSServer, tls_site: Site) -> None:
    server.routes["other.test", 443] = ("127.0.0.1", tls_site.port)
    with pytest.raises(requests.exceptions.SSLError, match=r"other\.test"):
        http.get("https://other.test/")


def test_assert_hostname(server: AnyTLSServer, tls_site: Site, ca_file: str) -> None:
    class Asserting(AnyTLSAdapter):
        name = "localhost"

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, assert_hostname=self.name, **kwargs)

    class Failing(Asserting):
        name = "other.test"

    with requests.Session() as session:
        session.mount("https://", Asserting(server.outbound()))
        assert session.get(tls_site.url, verify=ca_file).content == GREETING
        session.adapters["https://"].close()
        session.mount("https://", Failing(server.outbound()))
        with pytest.raises(requests.exceptions.SSLError, match=r"other\.test"):
            session.get(tls_site.url, verify=ca_file)


def test_targets_and_settings_have_pools_of_their_own(http: Any) -> None:
    pools = adapter_of(http).poolmanager

    def pool(host: str, **settings: Any) -> Any:
        return pools.connection_from_host(host, 443, "https", settings)

    checked = pool("a.test", cert_reqs="CERT_REQUIRED", ca_certs="x")
    assert pool("A.test", cert_reqs="CERT_REQUIRED", ca_certs="x") is checked
    for _ in range(2):  # the second time from memory
        assert pool("b.test", cert_reqs="CERT_REQUIRED", ca_certs="x") is not checked
        assert pool("a.test", cert_reqs="CERT_REQUIRED", ca_certs="y") is not checked
        assert pool("a.test", cert_reqs="CERT_NONE", ca_certs="x") is not checked
        assert pool("a.test", cert_reqs="CERT_REQUIRED", ca_certs="x") is checked
        assert pool("a.test", socket_options=[]) is pool("a.test", socket_options=[])  # lists have no hash


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the calls by which certificate authorities were read for the target's certificate, so far."""
    calls: list[Any] = []
    real = ssl.SSLContext.load_verify_locations

    def load(self: ssl.SSLContext, *args: Any) -> None:
        calls.append(args[0])
        real(self, *args)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", load)
    return calls


def test_authorities_are_read_once(http: Any, server: AnyTLSServer, tls_site: Site, loads: list[Any]) -> None:
    server.routes["127.0.0.1", 443] = ("127.0.0.1", tls_site.port)
    closing = {"Connection": "close"}
    http.get(tls_site.url, headers=closing)  # the tunnel's own are read too
    loads.clear()
    for url in (tls_site.url, "https://127.0.0.1/", tls_site.url):
        assert http.get(url, headers=closing).content == GREETING
    assert server.streams_opened == 4
    assert not loads


def test_each_setting_has_a_context_of_its_own(http: Any, tls_site: Site) -> None:
    closing = {"Connection": "close"}
    assert http.get(tls_site.url, headers=closing).content == GREETING
    with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        assert http.get(tls_site.url, headers=closing, verify=False).content == GREETING
    with pytest.raises(requests.exceptions.SSLError, match="certificate verify failed"):
        http.get(tls_site.url, headers=closing, verify=requests.certs.where())
    assert http.get(tls_site.url, headers=closing).content == GREETING


def test_a_changed_ca_file_counts_from_the_next_connection(
    http: Any, tls_site: Site, ca_file: str, tmp_path: Path
) -> None:
    closing = {"Connection": "close"}
    path = tmp_path / "authorities.pem"
    path.write_text(Path(ca_file).read_text())
    assert http.get(tls_site.url, headers=closing, verify=str(path)).content == GREETING
    path.write_text(make_certificate("localhost").ca_pem)
    with pytest.raises(requests.exceptions.SSLError, match="certificate verify failed"):
        http.get(tls_site.url, headers=closing, verify=str(path))


def test_settings_that_fail_are_not_kept(http: Any, tls_site: Site, tmp_path: Path) -> None:
    path = tmp_path / "authorities.pem"
    path.write_text("no certificate")
    for _ in range(2):
        with pytest.raises(OSError, match="invalid path|X509|NO_CERTIFICATE|PEM"):
            http.get(tls_site.url, verify=str(path))


def test_few_contexts_are_kept(
    http: Any, tls_site: Site, ca_file: str, tmp_path: Path, loads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_urllib3_tls, "MAX_KEPT", 2)
    closing = {"Connection": "close"}
    paths = [tmp_path / f"{number}.pem" for number in range(3)]
    for path in paths:
        path.write_text(Path(ca_file).read_text())

    def get(path: Path) -> int:
        loads.clear()
        assert http.get(tls_site.url, headers=closing, verify=str(path)).content == GREETING
        return loads.count(str(path))

    assert [get(path) for path in paths] == [1, 1, 1]
    assert [get(path) for path in reversed(paths)] == [0, 0, 1]


def test_a_context_can_be_had_by_many_threads_at_once(http: Any, tls_site: Site) -> None:
    def get(_: int) -> bytes:
        return bytes(http.get(tls_site.url, headers={"Connection": "close"}).content)

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(get, range(64))) == {GREETING}


def test_own_ssl_context(server: AnyTLSServer, tls_site: Site, certificate: Certificate) -> None:
    context = certificate.client_context()

    class Own(AnyTLSAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **kwargs)

    with requests.Session() as session:
        session.mount("https://", Own(server.outbound()))
        for _ in range(2):
            assert session.get(tls_site.url, headers={"Connection": "close"}).content == GREETING
    assert context.session_stats()["connect"] == 2


def test_client_certificate(http: Any, certificate: Certificate, tmp_path: Path) -> None:
    key_file = tmp_path / "client.pem"
    key_file.write_text(certificate.key_pem + certificate.pem)
    context = certificate.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=certificate.ca_pem)
    seen = []

    def answer(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            seen.append(tls.getpeercert())
            head_of(tls)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    with raw_site(answer) as url:
        assert http.get(url.replace("http://", "https://"), cert=str(key_file)).text == "ok"
    assert seen[0]


# -- proxies ------------------------------------------------------------------------------------------


@pytest.fixture
def trap() -> Iterator[str]:
    """Give the URL of a proxy that nobody may connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "variable", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "argument", "session"]
)
def test_no_proxy_is_used(
    http: Any, server: AnyTLSServer, any_site: Site, trap: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxies = {"http": trap, "https": trap, "all": trap}
    options: dict[str, Any] = {}
    if variable == "argument":
        options["proxies"] = proxies
    elif variable == "session":
        http.proxies = proxies
    else:
        monkeypatch.setenv(variable, trap)
    url = f"{any_site.url}/redirect?to=/headers"
    response = http.get(url, **options)
    assert "Proxy-Authorization" not in dict(response.json())
    assert any_site.log == [("GET", "/redirect?to=/headers"), ("GET", "/headers")]
    assert server.streams_opened == 1


def test_proxy_credentials_stay_off_the_wire(http: Any, site: Site) -> None:
    headers = http.get(f"{site.url}/headers", headers={"Proxy-Authorization": "Basic x"}).json()
    assert "Proxy-Authorization" not in dict(headers)


def test_what_asks_an_adapter_for_proxies_gets_none(http: Any, site: Site, trap: str) -> None:
    adapter = adapter_of(http)
    request = requests.Request("GET", f"{site.url}/x").prepare()
    assert adapter.request_url(request, {"http": trap}) == "/x"
    assert adapter.proxy_headers(trap) == {}
    assert adapter.proxy_manager_for(trap) is adapter.poolmanager
    pool = adapter.get_connection_with_tls_context(request, True, {"http": trap})
    assert pool.proxy is None
    with pytest.warns(DeprecationWarning, match="get_connection"):
        assert adapter.get_connection(request.url, {"http": trap}) is not None


# -- errors -------------------------------------------------------------------------------------------


def test_refused_target(http: Any, server: AnyTLSServer, any_site: Site) -> None:
    server.faults.refuse = lambda host, port: f"no way to {host}"
    for options in ({}, {"data": iter([b"x" * 100_000] * 20)}):
        with pytest.raises(requests.ConnectionError, match=r"no way to 127\.0\.0\.1") as error:
            http.request("POST" if options else "GET", any_site.url, **options)
        assert type(error.value) is requests.ConnectionError
        assert error.value.request.url.startswith(any_site.url)
    server.faults.refuse = None
    assert http.get(any_site.url).content == GREETING


def test_impossible_target(http: Any) -> None:
    with pytest.raises(requests.ConnectionError, match="can't be a target"):
        http.get("http://" + ".".join(["x" * 60] * 5) + "/")


@pytest.mark.parametrize("data", [None, b"x" * 3_000_000])
def test_wrong_password(server: AnyTLSServer, any_site: Site, data: bytes | None) -> None:
    adapter = AnyTLSAdapter(server.outbound(password="wrong"), max_retries=3)
    with requests.Session() as session:
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        with pytest.raises(requests.exceptions.ProxyError, match="wrong password") as error:
            session.request("POST" if data else "GET", any_site.url, data=data)
    assert error.value.request is not None
    assert server.auth_failures == 1


def test_untrusted_server(server: AnyTLSServer, any_site: Site) -> None:
    other = make_certificate("anytls.test").ca_pem
    with (
        requests_session(server.outbound(tls={"certificate": other})) as http,
        pytest.raises(requests.exceptions.SSLError, match="not trusted"),
    ):
        http.get(any_site.url)
    assert server.unauthenticated_bytes == 0


def test_server_that_is_not_there(server: AnyTLSServer, any_site: Site) -> None:
    outbound = server.outbound()
    server.close()
    with requests_session(outbound) as http, pytest.raises(requests.ConnectionError) as error:
        http.get(any_site.url)
    assert type(error.value) is requests.ConnectionError


def test_closed_client(server: AnyTLSServer, any_site: Site) -> None:
    client = AnyTLSClient(server.outbound())
    with requests_session(client) as http:
        client.close()
        with pytest.raises(requests.ConnectionError, match="closed"):
            http.get(any_site.url)


def test_connect_timeout_of_the_dial(http: Any, server: AnyTLSServer, any_site: Site) -> None:
    server.freeze()
    with takes(0.2), pytest.raises(requests.ConnectTimeout):
        http.get(any_site.url, timeout=(0.2, 5))


def test_timeout_while_the_server_reaches_the_target(http: Any, server: AnyTLSServer, any_site: Site) -> None:
    # An http request is on its way already, so that this is no connect error; a ClientHello is no user data.
    server.faults.withhold_synack = True
    kind = requests.ConnectTimeout if any_site.certificate else requests.ReadTimeout
    with takes(0.2), pytest.raises(kind):
        http.get(any_site.url, timeout=0.2)


def test_read_timeout(http: Any, any_site: Site) -> None:
    http.get(any_site.url)
    with takes(0.2), pytest.raises(requests.ReadTimeout):
        http.get(f"{any_site.url}/slow?seconds=9", timeout=(5, 0.2))


@pytest.mark.parametrize("read", ["iter_content", "iter_lines"])
def test_read_timeout_in_mid_body(http: Any, any_site: Site, read: str) -> None:
    with http.get(f"{any_site.url}/stream?pause=9", stream=True, timeout=(5, 0.2)) as response:
        with takes(0.2), pytest.raises(requests.ReadTimeout) as error:
            list(getattr(response, read)(100))
        assert isinstance(error.value, requests.ConnectionError)  # what requests itself makes of it
        assert isinstance(error.value, BodyTimeout)
        assert error.value.response is response
        assert pickle.loads(pickle.dumps(BodyTimeout("x"))).args == ("x",)


def test_timeout_while_sending(http: Any, server: AnyTLSServer, any_site: Site) -> None:
    def body() -> Iterator[bytes]:
        yield b"first"
        server.freeze()
        while True:
            yield b"x" * 100_000

    with pytest.raises(requests.Timeout, match="Sending timed out"):
        http.post(f"{any_site.url}/echo-hash", data=body(), timeout=0.2)


def test_session_that_ends_in_mid_body(http: Any, server: AnyTLSServer, any_site: Site) -> None:
    with http.get(f"{any_site.url}/stream?pause=5", stream=True) as response:
        chunks = response.iter_content(1000)
        next(chunks)
        server.close_sessions()
        with pytest.raises(requests.ConnectionError) as error:
            list(chunks)
        assert isinstance(error.value, BodyBroken)
        assert isinstance(error.value, requests.exceptions.ChunkedEncodingError)


def test_body_that_is_cut(http: Any) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"
    with (
        raw_site(lambda sock: sock.sendall(cut + head_of(sock)[:0])) as url,
        pytest.raises(requests.exceptions.ChunkedEncodingError),
    ):
        http.get(url)


@pytest.mark.parametrize("end", ["session", "stream"])
def test_end_before_the_target_was_reached(http: Any, server: AnyTLSServer, any_site: Site, end: str) -> None:
    server.faults.withhold_synack = True
    with ThreadPoolExecutor(1) as thread:
        post = thread.submit(http.post, f"{any_site.url}/echo-hash", data=b"once")
        server.wait_for(lambda: server.streams_opened == 1)
        if end == "session":
            server.send_frame(Command.ALERT, 0, b"enough")
        else:
            server.send_frame(Command.FIN, 1)
        with pytest.raises((requests.ConnectionError, requests.exceptions.SSLError)) as error:
            post.result(5)
    if end == "session":
        assert "enough" in str(error.value)


def test_early_answer_is_read_though_the_upload_fails(http: Any) -> None:
    def answer(sock: socket.socket) -> None:
        head_of(sock)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")

    def body() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000
            time.sleep(0.001)

    with raw_site(answer) as url:
        response = http.post(url, data=body())
    assert (response.status_code, response.content) == (413, b"no!")


def test_errors_keep_their_cause(http: Any, server: AnyTLSServer, site: Site) -> None:
    server.faults.refuse = lambda host, port: "no"
    with pytest.raises(requests.ConnectionError) as error:
        http.get(site.url)
    chain = []
    seen: BaseException | None = error.value
    while seen is not None:
        chain.append(type(seen))
        seen = seen.__cause__ or seen.__context__
    assert StreamRefused in chain


def test_retries_switched_off_leak_nothing_of_urllib3(server: AnyTLSServer, site: Site) -> None:
    server.faults.refuse = lambda host, port: "no"
    adapter = AnyTLSAdapter(server.outbound(), max_retries=urllib3.Retry(False))
    with requests.Session() as session:
        session.mount("http://", adapter)
        with pytest.raises(requests.ConnectionError, match="no"):
            session.get(site.url)
        server.freeze()
        adapter.client._pool.close()
        adapter.client.close()
    with requests.Session() as session:
        session.mount("http://", AnyTLSAdapter(server.outbound(), max_retries=urllib3.Retry(False)))
        with pytest.raises(requests.ConnectTimeout):
            session.get(site.url, timeout=0.1)


# -- retries ------------------------------------------------------------------------------------------


def refuse_first(server: AnyTLSServer, count: int) -> None:
    tries = itertools.count(1)
    server.faults.refuse = lambda host, port: "not yet" if next(tries) <= count else None


@pytest.fixture
def retrying(server: AnyTLSServer, ca_file: str) -> Iterator[Any]:
    adapter = AnyTLSAdapter(server.outbound(), max_retries=2)
    with requests.Session() as session:
        session.verify = ca_file
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        yield session


def test_retries_count_refusals(retrying: Any, server: AnyTLSServer, any_site: Site) -> None:
    refuse_first(server, 2)
    assert retrying.post(f"{any_site.url}/echo-hash", data=b"again").json()["length"] == 5
    assert server.streams_opened == 3
    refuse_first(server, 1)
    adapter_of(retrying).poolmanager.clear()
    assert retrying.post(f"{any_site.url}/echo-hash", data=io.BytesIO(b"rewound")).json()["length"] == 7


def test_a_generator_is_not_sent_again(retrying: Any, server: AnyTLSServer, site: Site) -> None:
    refuse_first(server, 1)
    with pytest.raises(requests.ConnectionError, match="not yet"):
        retrying.post(f"{site.url}/echo-hash", data=iter([b"once"]))
    assert (server.streams_opened, site.requests) == (1, 0)


# -- kept-alive connections whose session died -------------------------------------------------------


@pytest.fixture
def silent_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sessions count as silent at once, and proofs of life wait for 0.1 s only."""
    monkeypatch.setattr(rules, "SILENT_AFTER", 0.0)
    monkeypatch.setattr(rules, "SHORTEST_PROOF", 0.1)


@pytest.mark.usefixtures("silent_soon")
def test_silent_session_proves_its_life(http: Any, server: AnyTLSServer, any_site: Site) -> None:
    for _ in range(3):
        assert http.get(any_site.url).content == GREETING
    assert (server.heartbeats_received, server.streams_opened) == (2, 1)


@pytest.mark.usefixtures("silent_soon")
def test_dead_session_is_replaced_before_the_first_byte(
    http: Any, server: AnyTLSServer, any_site: Site
) -> None:
    http.get(any_site.url)
    server.freeze(new_sessions=False)
    answer = http.post(f"{any_site.url}/echo-hash", data=iter([b"only ", b"once"])).json()
    assert answer["length"] == 9
    assert adapter_of(http).client.stats().closed["proof_of_life"] == 1
    server.thaw()
    server.close()
    assert len([entry for entry in any_site.log if entry[0] == "POST"]) == 1


@pytest.mark.usefixtures("silent_soon")
def test_proof_of_life_is_part_of_the_connect_timeout(
    http: Any, server: AnyTLSServer, any_site: Site
) -> None:
    http.get(any_site.url)
    server.freeze()
    # The proof ends after 0.1 s, and the new session never comes.
    with takes(0.3), pytest.raises(requests.ConnectTimeout):
        http.get(any_site.url, timeout=(0.3, 5))


def test_connection_that_the_target_ended_is_not_used_again(
    http: Any, server: AnyTLSServer, any_site: Site
) -> None:
    for end in (any_site.close_connections, server.close_sessions):
        http.get(any_site.url)
        pool = next(iter(adapter_of(http).poolmanager.pools._container.values()))
        connection = pool.pool.queue[-1]
        assert connection.is_connected
        end()
        deadline = time.monotonic() + 5
        while connection.is_connected:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert http.get(any_site.url).content == GREETING


# -- the class ----------------------------------------------------------------------------------------


def test_pickles_with_its_config(server: AnyTLSServer, site: Site) -> None:
    with requests.Session() as session:
        session.mount("http://", AnyTLSAdapter(server.outbound(), max_retries=2, pool_maxsize=3))
        session.get(site.url)
        with pickle.loads(pickle.dumps(session)) as copy:
            assert copy.get(site.url).content == GREETING
            assert adapter_of(copy).max_retries.total == 2
            assert adapter_of(copy)._pool_maxsize == 3
            assert adapter_of(copy).client is not adapter_of(session).client
            response = pickle.loads(pickle.dumps(copy.get(site.url)))
            assert response.content == GREETING
    assert server.sessions_accepted == 2


def test_does_not_pickle_with_a_client(server: AnyTLSServer) -> None:
    with AnyTLSClient(server.outbound()) as client, pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(AnyTLSAdapter(client))


def test_wrong_config_is_told() -> None:
    with pytest.raises(ConfigError, match="server"):
        AnyTLSAdapter({"type": "anytls"})


def test_repr_is_readable_and_keeps_the_password(http: Any, server: AnyTLSServer, site: Site) -> None:
    http.get(site.url)
    text = repr(adapter_of(http))
    assert "AnyTLSAdapter over <AnyTLSClient to 127.0.0.1" in text
    assert "1 targets" in text
    assert server.password not in text


def test_is_a_http_adapter(http: Any) -> None:
    assert isinstance(adapter_of(http), HTTPAdapter)


def test_socket_options_are_refused_in_words(server: AnyTLSServer, site: Site) -> None:
    class Options(AnyTLSAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 1000)]
            super().init_poolmanager(*args, socket_options=options, **kwargs)

    with requests.Session() as session:
        session.mount("http://", Options(server.outbound()))
        with pytest.raises(requests.ConnectionError, match="no socket options"):
            session.get(site.url)


def test_session_closed_is_named(http: Any, server: AnyTLSServer, site: Site) -> None:
    with ThreadPoolExecutor(1) as thread:
        get = thread.submit(http.get, f"{site.url}/slow?seconds=9")
        server.wait_for(lambda: site.requests == 1 or server.streams_opened == 1)
        deadline = time.monotonic() + 5
        while not site.requests and time.monotonic() < deadline:
            time.sleep(0.005)
        server.close_sessions()
        with pytest.raises(requests.ConnectionError, match=SessionClosed.__name__):
            get.result(5)


class _Kept(AnyTLSAdapter):
    """Answers from what it has, as adapters with a cache do."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        raw = urllib3.HTTPResponse(
            io.BytesIO(b"abc"), {"Content-Length": "3"}, 200, preload_content=False, decode_content=False
        )
        return self.build_response(request, raw)


def test_a_response_over_another_file(server: AnyTLSServer) -> None:
    """Such a file doesn't close itself at its end."""
    with requests.Session() as session:
        adapter = _Kept(server.outbound())
        session.mount("http://", adapter)
        assert session.get("http://target.test/").content == b"abc"


def test_a_mock_of_a_response_that_is_cut_short(server: AnyTLSServer) -> None:
    with responses.RequestsMock() as mock, requests_session(server.outbound()) as session:
        mock.get(
            "http://target.test/",
            body=b"abc",
            headers={"Content-Length": "10"},
            auto_calculate_content_length=False,
        )
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="7 more expected"):
            session.get("http://target.test/")
