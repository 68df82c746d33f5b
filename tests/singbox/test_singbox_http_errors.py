"""What goes wrong with httpx, httpx2 and requests through the real sing-box server, and what the user gets to see."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest

from anytls_http import (
    AnyTLSTimeout,
    AuthenticationError,
    CertificateError,
    DialError,
    StreamRefused,
)
from anytls_http.testing import Site, make_certificate
from anytls_http.testing.site import GREETING
from tests.singbox.http_libraries import Library, Seen, posts, raised
from tests.support.buffers import OVERFLOW
from tests.support.singbox import SingBoxServer, free_port, skip_without_singbox
from tests.support.timing import LATE, takes, wait_until

pytestmark = skip_without_singbox

#: Time-out of the requests that run into it (seconds).
SHORT = 0.3


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
        with lib.open(outbound) as http, takes(0), raised(lib.unreachable, DialError, "refused"):
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
                takes(SHORT),
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
            with takes(SHORT), raised(lib.connect_timeout, AnyTLSTimeout):
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
            with takes(SHORT), raised(lib.read_timeout, AnyTLSTimeout):
                http.post(f"{any_site.url}/echo-hash", b"once")
            own.resume()
            assert http.get(any_site.url) == GREETING
            # It was delivered in the end, or not; but not twice.
            assert posts(any_site) - before <= 1

    def test_a_target_that_takes_nothing(self, lib: Library, server: SingBoxServer) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as mute,
            lib.open(server.outbound(), timeout=SHORT) as http,
        ):
            url = f"http://127.0.0.1:{mute.getsockname()[1]}/"
            words = "waiting for the connection to take data"
            with takes(SHORT), raised(lib.write_timeout, AnyTLSTimeout, words):
                http.post(url, bytes(OVERFLOW))

    def test_slow_target(self, lib: Library, server: SingBoxServer, own_site: Site, ca_file: str) -> None:
        with lib.open(server.outbound(), timeout=SHORT, ca_file=ca_file) as http:
            assert http.get(own_site.url) == GREETING
            with takes(SHORT), raised(lib.read_timeout, AnyTLSTimeout):
                http.get(f"{own_site.url}/slow?seconds=9")
            with http.stream(f"{own_site.url}/stream?pause=9", 1000) as body:
                next(body)
                with takes(SHORT), raised(lib.read_timeout, AnyTLSTimeout):
                    next(body)
            assert http.get(own_site.url) == GREETING
