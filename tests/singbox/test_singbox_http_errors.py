"""What goes wrong with httpx, httpx2 and requests through the real sing-box server, and what the user gets to see."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anytls_http import (
    AnyTLSTimeout,
    AuthenticationError,
    CertificateError,
    DialError,
    SessionClosed,
    StreamRefused,
)
from anytls_http.testing import Certificate, Site, make_certificate
from anytls_http.testing.site import GREETING
from tests.singbox.http_libraries import Library, Seen
from tests.support.h2site import H2Site
from tests.support.singbox import SingBoxServer, free_port, skip_without_singbox, wait_until

pytestmark = skip_without_singbox

#: How much later than its deadline a request may end (seconds); sing-box works on the same cores.
LATE = 0.3
#: Time-out of the requests that run into it (seconds).
SHORT = 0.3


@contextlib.contextmanager
def raised(kind: type[Exception], cause: type[BaseException], words: str | None = None) -> Iterator[Any]:
    """Expect an exception of the library with ``cause`` under it, and ``words`` (a pattern) in it."""
    with pytest.raises(kind, match=words) as info:
        yield info
    assert type(info.value).__module__.partition(".")[0] in ("httpx", "httpx2", "requests", "anytls_http")
    assert info.value.request is not None  # type: ignore[attr-defined]
    assert cause in causes_of(info.value)


def causes_of(exc: BaseException | None) -> list[type[BaseException]]:
    found: list[type[BaseException]] = []
    while exc is not None:
        found.append(type(exc))
        exc = exc.__cause__ or exc.__context__
    return found


@contextlib.contextmanager
def in_time(seconds: float = 0.0) -> Iterator[None]:
    """Expect that it takes ``seconds``, or up to ``LATE`` longer."""
    begin = time.monotonic()
    yield
    took = time.monotonic() - begin
    assert seconds - 0.01 <= took <= seconds + LATE


def posts(site: Site) -> int:
    return len([method for method, _ in site.log if method == "POST"])


class TestPassword:
    def test_wrong(self, lib: Library, server: SingBoxServer, any_site: Site, ca_file: str) -> None:
        seen = Seen(server)
        requests = any_site.requests
        outbound = server.outbound(password="not the password")
        with lib.open(outbound, ca_file=ca_file, retries=2) as http:
            with raised(lib.wrong_password, AuthenticationError, "wrong password") as error:
                http.get(any_site.url)
            assert isinstance(error.value.__cause__, AuthenticationError)
            assert "not the password" not in f"{error.value!r} {error.value}"
            with raised(lib.wrong_password, AuthenticationError, "wrong password"):
                http.post(f"{any_site.url}/echo-hash", b"x" * 1_000_000)
        assert any_site.requests == requests
        assert seen.targets == []
        assert seen.sessions == 2  # no retries


class TestTargets:
    def test_refused(self, lib: Library, server: SingBoxServer, any_site: Site, ca_file: str) -> None:
        seen = Seen(server)
        port = free_port()
        url = f"{any_site.url.partition(':')[0]}://127.0.0.1:{port}"
        words = rf"open connection to 127\.0\.0\.1:{port} .*connection refused"
        with lib.open(server.outbound(), ca_file=ca_file) as http:
            with raised(lib.refused, StreamRefused, words):
                http.get(url)
            with raised(lib.refused, StreamRefused, words):
                http.post(url, b"x" * 1_000_000)
            assert http.get(any_site.url) == GREETING
        assert seen.sessions == 1

    def test_retries_are_refused_too(self, lib: Library, server: SingBoxServer) -> None:
        port = free_port()
        seen = Seen(server)
        with lib.open(server.outbound(), retries=1) as http, raised(lib.refused, StreamRefused, "refused"):
            http.post(f"http://127.0.0.1:{port}", b"nothing of it was delivered")
        assert seen.targets == [f"127.0.0.1:{port}"] * 2

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_unknown_name(self, lib: Library, server: SingBoxServer, scheme: str) -> None:
        with (
            lib.open(server.outbound()) as http,
            raised(lib.refused, StreamRefused, r"nowhere\.invalid"),
        ):
            http.get(f"{scheme}://nowhere.invalid/")

    @pytest.mark.parametrize("fault", ["not trusted", "wrong name", "expired"])
    def test_bad_certificate(
        self, lib: Library, server: SingBoxServer, tls_site: Site, tmp_path: Any, fault: str
    ) -> None:
        names = ["other.test"] if fault == "wrong name" else ["127.0.0.1"]
        words = {
            "not trusted": "unable to get local issuer certificate",
            "wrong name": r"other\.test|IP address mismatch",
            "expired": "certificate has expired",
        }[fault]
        certificate = make_certificate(*names, expired=fault == "expired")
        trusted = tls_site.ca_pem if fault == "not trusted" else certificate.ca_pem
        (tmp_path / "ca.pem").write_text(trusted)
        with (
            Site(tls=True, certificate=certificate) as origin,
            lib.open(server.outbound(), ca_file=str(tmp_path / "ca.pem"), retries=2) as http,
        ):
            with raised(lib.target_not_trusted, ssl.SSLCertVerificationError, words):
                http.get(origin.url)
            assert origin.requests == 0


@pytest.fixture(scope="module")
def expired() -> Iterator[SingBoxServer]:
    with SingBoxServer(certificate=make_certificate(expired=True)) as running:
        yield running


@pytest.fixture(params=["http", "https"])
def own_site(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[Site]:
    """A site whose slow answers end with the test."""
    with Site(tls=request.param == "https", certificate=certificate) as running:
        yield running


class TestServersCertificate:
    def check(
        self, lib: Library, server: SingBoxServer, outbound: dict[str, Any], site: Site, words: str
    ) -> None:
        seen = Seen(server)
        with (
            lib.open(outbound, retries=2) as http,
            raised(lib.tunnel_not_trusted, CertificateError, words) as error,
        ):
            http.get(site.url)
        assert isinstance(error.value.__cause__, CertificateError)
        # Once, without retries; the handshake failed, and nothing came after it. (What the server makes of
        # OpenSSL's alert is "bad record MAC": it comes unencrypted.)
        wait_until(lambda: "TLS handshake" in seen.log, what="the failed handshake in the log")
        assert (seen.sessions, seen.targets) == (1, [])

    def test_not_trusted(self, lib: Library, server: SingBoxServer, any_site: Site) -> None:
        outbound = server.outbound(tls={"certificate": make_certificate().ca_pem})
        self.check(lib, server, outbound, any_site, "not trusted")

    def test_wrong_name(self, lib: Library, server: SingBoxServer, any_site: Site) -> None:
        outbound = server.outbound(tls={"server_name": "other.test"})
        self.check(lib, server, outbound, any_site, r'not valid for "other\.test"')

    def test_expired(self, lib: Library, expired: SingBoxServer, any_site: Site) -> None:
        self.check(lib, expired, expired.outbound(), any_site, "expired")


class TestUnreachable:
    def test_nobody_listens(self, lib: Library, server: SingBoxServer, any_site: Site) -> None:
        outbound = server.outbound(server_port=free_port())
        with lib.open(outbound) as http, in_time(), raised(lib.unreachable, DialError, "refused"):
            http.get(any_site.url)

    def test_nobody_answers(self, lib: Library, server: SingBoxServer, any_site: Site) -> None:
        # The kernel drops what doesn't fit into the queue of a listener.
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            for _ in range(3):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            outbound = server.outbound(server_port=listener.getsockname()[1])
            with (
                lib.open(outbound, timeout=SHORT) as http,
                in_time(SHORT),
                raised(lib.connect_timeout, AnyTLSTimeout),
            ):
                http.get(any_site.url)

    def test_stopped(self, lib: Library, own: SingBoxServer, any_site: Site, ca_file: str) -> None:
        with (
            lib.open(own.outbound(), timeout=SHORT) as fresh,
            lib.open(own.outbound(), timeout=SHORT, ca_file=ca_file) as http,
        ):
            assert http.get(any_site.url) == GREETING
            with http.stream(f"{any_site.url}/stream?count=1000&pause=0.01", 1000) as body:
                next(body)
                own.pause()
                # What is on its way already may still come.
                with raised(lib.read_timeout, AnyTLSTimeout):
                    late = time.monotonic()
                    for _ in body:
                        late = time.monotonic()
                assert SHORT - 0.01 <= time.monotonic() - late <= SHORT + LATE
            # No new session comes about.
            with in_time(SHORT), raised(lib.connect_timeout, AnyTLSTimeout):
                fresh.get(any_site.url)
            own.resume()
            assert http.get(any_site.url) == GREETING

    def test_stopped_under_a_kept_alive_connection(
        self, lib: Library, own: SingBoxServer, any_site: Site, ca_file: str
    ) -> None:
        with lib.open(own.outbound(), timeout=SHORT, ca_file=ca_file, retries=2) as http:
            assert http.get(any_site.url) == GREETING
            before = posts(any_site)
            own.pause()
            with in_time(SHORT), raised(lib.read_timeout, AnyTLSTimeout):
                http.post(f"{any_site.url}/echo-hash", b"once")
            own.resume()
            assert http.get(any_site.url) == GREETING
            # It was delivered in the end, or not; but not twice.
            assert posts(any_site) - before <= 1

    def test_slow_target(self, lib: Library, server: SingBoxServer, own_site: Site, ca_file: str) -> None:
        with lib.open(server.outbound(), timeout=SHORT, ca_file=ca_file) as http:
            assert http.get(own_site.url) == GREETING
            with in_time(SHORT), raised(lib.read_timeout, AnyTLSTimeout):
                http.get(f"{own_site.url}/slow?seconds=9")
            with http.stream(f"{own_site.url}/stream?pause=9", 1000) as body:
                next(body)
                with in_time(SHORT), raised(lib.read_timeout, AnyTLSTimeout):
                    next(body)
            assert http.get(own_site.url) == GREETING


class TestKilled:
    def test_in_mid_download_and_restarted(
        self, lib: Library, own: SingBoxServer, any_site: Site, ca_file: str
    ) -> None:
        with lib.open(own.outbound(), ca_file=ca_file) as http:
            with http.stream(f"{any_site.url}/stream?count=1000&pause=0.01", 1000) as body:
                next(body)
                own.kill()
                with in_time(), raised(lib.body_broken, SessionClosed):
                    for _ in body:
                        pass
            with in_time(), raised(lib.unreachable, DialError, "refused"):
                http.get(any_site.url)
            own.start()
            assert http.get(any_site.url) == GREETING

    @pytest.mark.parametrize("lib", ["httpx", "httpx2"], indirect=True)
    def test_in_mid_download_by_http2(
        self, lib: Library, own: SingBoxServer, certificate: Any, ca_file: str
    ) -> None:
        with H2Site(certificate) as site:
            with lib.open(own.outbound(), ca_file=ca_file, http2=True) as http:
                with http.stream(f"{site.url}/bytes/50000000") as body:
                    next(body)
                    own.kill()
                    with in_time(), raised(lib.body_broken, SessionClosed):
                        for _ in body:
                            pass
                own.start()
                assert http.get(site.url) == GREETING
            assert site.connections == 2

    def test_while_requests_rest(
        self, lib: Library, own: SingBoxServer, any_site: Site, ca_file: str
    ) -> None:
        before = posts(any_site)
        with lib.open(own.outbound(), ca_file=ca_file) as http:
            for count in range(1, 4):
                answer = http.post(f"{any_site.url}/echo-hash", iter([b"exactly ", b"once"]))
                assert answer["length"] == 12
                assert posts(any_site) - before == count
                own.restart()
            assert http.get(any_site.url) == GREETING

    def test_target_that_ends_in_mid_body(
        self, lib: Library, server: SingBoxServer, own_site: Site, ca_file: str
    ) -> None:
        with lib.open(server.outbound(), ca_file=ca_file) as http:
            with http.stream(f"{own_site.url}/stream?pause=9", 1000) as body:
                next(body)
                own_site.close_connections()
                with pytest.raises(lib.body_cut):
                    next(body)
            assert http.get(own_site.url) == GREETING


class Counter:
    """A plain http origin that takes POST requests whole and answers none: calls ``then`` when one is there."""

    def __init__(self, size: int, then: Callable[[], None]) -> None:
        self.requests = 0
        self._size = size
        self._then = then
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Counter:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                with self._listener.accept()[0] as sock, sock.makefile("rb") as file:
                    if not re.match(rb"POST ", file.readline()):
                        continue
                    self.requests += 1
                    while file.readline().strip():
                        pass
                    file.read(self._size)
                    self._then()


class TestNothingIsSentTwice:
    @pytest.mark.parametrize("back", [True, False], ids=["restarted", "gone"])
    def test_killed_while_the_answer_is_awaited(self, lib: Library, own: SingBoxServer, back: bool) -> None:
        size = 100_000
        with (
            Counter(size, own.restart if back else own.kill) as origin,
            lib.open(own.outbound(), retries=3) as http,
        ):
            with raised(lib.broken, SessionClosed):
                http.post(origin.url, b"x" * size)
            if back:
                wait_until(lambda: own.log().count("sing-box started") == 2)
                time.sleep(0.1)  # a second one would arrive
            assert origin.requests == 1

    def test_killed_in_mid_upload(
        self, lib: Library, own: SingBoxServer, any_site: Site, ca_file: str
    ) -> None:
        before = posts(any_site)

        def body() -> Iterator[bytes]:
            yield b"x" * 100_000
            wait_until(lambda: posts(any_site) == before + 1)
            own.restart()
            for _ in range(100):
                yield b"x" * 100_000

        with lib.open(own.outbound(), ca_file=ca_file, retries=3) as http:
            with raised(lib.broken, SessionClosed):
                http.post(f"{any_site.url}/echo-hash", body())
            assert http.get(any_site.url) == GREETING
        assert posts(any_site) == before + 1
