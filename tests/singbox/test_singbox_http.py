"""What works with httpx, httpx2 and requests through the real sing-box server."""

from __future__ import annotations

import functools
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from anytls_http.testing import Certificate, Site
from anytls_http.testing.site import GREETING, body_blocks, body_bytes, body_sha256
from tests.singbox.http_libraries import Library, Seen
from tests.support.h2site import H2Site
from tests.support.relay import Relay
from tests.support.singbox import SingBoxServer, skip_without_singbox
from tests.support.timing import wait_until

pytestmark = skip_without_singbox

#: Bytes of the long transfers.
LONG = 100_000_000
sha256_of_body = functools.cache(body_sha256)


class TestConnections:
    def test_kept_alive(self, lib: Library, server: SingBoxServer, any_site: Site, ca_file: str) -> None:
        seen = Seen(server)
        connections = any_site.connections
        with lib.open(server.outbound(), ca_file=ca_file) as http:
            for _ in range(5):
                assert http.get(any_site.url) == GREETING
            answer = http.post(f"{any_site.url}/echo-hash", body_bytes(300_000))
        assert answer == {"length": 300_000, "sha256": body_sha256(300_000)}
        assert any_site.connections - connections == 1
        assert seen.targets == [f"127.0.0.1:{any_site.port}"]
        assert seen.sessions == 1

    def test_sessions_are_used_again(
        self, lib: Library, server: SingBoxServer, any_site: Site, ca_file: str
    ) -> None:
        seen = Seen(server)
        connections = any_site.connections
        with lib.open(server.outbound(), ca_file=ca_file) as http:
            for _ in range(6):
                assert http.get(f"{any_site.url}/close") == GREETING
            stats = http.tunnel.stats()
        assert (stats.created["demand"], stats.streams_opened) == (1, 6)
        assert any_site.connections - connections == 6
        assert len(seen.targets) == 6
        assert seen.sessions == 1

    def test_targets_share_sessions(
        self, lib: Library, server: SingBoxServer, site: Site, tls_site: Site, ca_file: str
    ) -> None:
        seen = Seen(server)
        with lib.open(server.outbound(), ca_file=ca_file) as http:
            for _ in range(3):
                for target in (site, tls_site):
                    assert http.get(f"{target.url}/close") == GREETING
        assert len(seen.targets) == 6
        assert seen.sessions == 1

    def test_warm_sessions_are_used(self, lib: Library, server: SingBoxServer, site: Site) -> None:
        seen = Seen(server)
        with lib.open(server.outbound(ensure_idle_session=2)) as http:
            http.tunnel.wait_ready(2, timeout=5)
            assert http.get(site.url) == GREETING
            created = http.tunnel.stats().created
        assert created["demand"] == 0
        wait_until(lambda: seen.sessions >= 2)

    def test_32_threads_on_one_client(
        self, lib: Library, server: SingBoxServer, any_site: Site, ca_file: str
    ) -> None:
        seen = Seen(server)
        gate = threading.Barrier(32)

        def work(number: int) -> list[bytes]:
            gate.wait(10)
            return [http.get(f"{any_site.url}/bytes/{number * 1000 + turn}") for turn in range(5)]

        with (
            lib.open(server.outbound(), ca_file=ca_file, timeout=20) as http,
            ThreadPoolExecutor(32) as threads,
        ):
            pages = list(threads.map(work, range(32)))
        for number, answers in enumerate(pages):
            assert answers == [body_bytes(number * 1000 + turn) for turn in range(5)]
        # A few more than threads: httpcore closes what it holds for superfluous while others make new ones; from
        # 20 connections on that may be each one after its request.
        assert 1 < seen.sessions < 50
        assert len(seen.targets) <= 160


class TestTargets:
    @pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
    def test_addresses_and_names(
        self,
        lib: Library,
        server: SingBoxServer,
        site: Site,
        tls_site: Site,
        certificate: Certificate,
        ca_file: str,
        host: str,
        tls: bool,
    ) -> None:
        seen = Seen(server)
        if host == "::1":
            origin = Site(tls, certificate=certificate, host="::1")
            try:
                origin.start()
            except OSError as exc:
                pytest.skip(f"no ::1 here: {exc}")
        else:
            origin = tls_site if tls else site
        try:
            authority = f"[{host}]" if ":" in host else host
            url = f"{'https' if tls else 'http'}://{authority}:{origin.port}"
            with lib.open(server.outbound(), ca_file=ca_file) as http:
                assert http.get(url) == GREETING
                assert f'["Host", "{authority}:{origin.port}"]' in http.get(f"{url}/headers").decode()
        finally:
            if host == "::1":
                origin.close()
        # A name goes to the server as a name.
        assert seen.targets == [f"{authority}:{origin.port}"]


@pytest.mark.parametrize("lib", ["httpx", "httpx2"], indirect=True)
def test_http2(lib: Library, server: SingBoxServer, certificate: Certificate, ca_file: str) -> None:
    seen = Seen(server)
    with H2Site(certificate) as site:
        # By one thread: httpcore's own HTTP/2 isn't safe for several that begin requests at once.
        with lib.open(server.outbound(), ca_file=ca_file, http2=True) as http:
            assert http.get(site.url) == GREETING
            assert http.get(f"{site.url}/bytes/10000000") == body_bytes(10_000_000)
            answer = http.post(f"{site.url}/echo-hash", body_blocks(10_000_000))
            assert answer == {"length": 10_000_000, "sha256": body_sha256(10_000_000)}
            with (
                http.stream(f"{site.url}/bytes/200000") as first,
                http.stream(f"{site.url}/bytes/5") as second,
            ):
                assert b"".join(second) == body_bytes(5)
                assert b"".join(first) == body_bytes(200_000)
        assert (site.connections, site.requests) == (1, 5)
    assert (seen.sessions, len(seen.targets)) == (1, 1)


class TestLongTransfers:
    def test_down(self, lib: Library, server: SingBoxServer, any_site: Site, ca_file: str) -> None:
        digest = hashlib.sha256()
        largest = length = 0
        with (
            lib.open(server.outbound(), ca_file=ca_file) as http,
            http.stream(f"{any_site.url}/bytes/{LONG}") as body,
        ):
            for piece in body:
                digest.update(piece)
                length += len(piece)
                largest = max(largest, len(piece))
        assert (length, digest.hexdigest()) == (LONG, sha256_of_body(LONG))
        assert largest < 1 << 20  # it was streamed

    def test_up(self, lib: Library, server: SingBoxServer, any_site: Site, ca_file: str) -> None:
        with lib.open(server.outbound(), ca_file=ca_file, timeout=20) as http:
            answer = http.post(f"{any_site.url}/echo-hash", body_blocks(LONG))
            assert http.tunnel.stats().bytes_sent > LONG
        assert answer == {"length": LONG, "sha256": sha256_of_body(LONG)}


class TestStreaming:
    def test_chunks_arrive_as_they_are_sent(
        self, lib: Library, server: SingBoxServer, any_site: Site, ca_file: str
    ) -> None:
        with lib.open(server.outbound(), ca_file=ca_file) as http:
            came = []
            with http.stream(f"{any_site.url}/stream?count=4&pause=0.1&size=1000", 1000) as body:
                for number, piece in enumerate(body):
                    assert piece == bytes([number]) * 1000
                    came.append(time.monotonic())
        assert len(came) == 4
        # The first one came while the origin still waited with the last.
        assert came[-1] - came[0] > 0.1

    def test_a_generator_is_sent_as_it_comes(self, lib: Library, server: SingBoxServer) -> None:
        """The next piece of the upload is made only when the origin has the one before."""
        arrived = threading.Semaphore(0)

        def serve() -> None:
            with listener.accept()[0] as sock, sock.makefile("rb") as file:
                while file.readline().strip():
                    pass
                for _ in range(5):
                    assert file.read(int(file.readline(), 16) + 2)[:-2] == b"piece"
                    arrived.release()
                assert file.read(5) == b"0\r\n\r\n"
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n42")

        def body() -> Iterator[bytes]:
            for _ in range(5):
                yield b"piece"
                assert arrived.acquire(timeout=5), "the piece didn't reach the origin"

        with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
            serving = thread.submit(serve)
            with lib.open(server.outbound()) as http:
                assert http.post(f"http://127.0.0.1:{listener.getsockname()[1]}/", body()) == 42
            serving.result(5)


def test_a_padding_scheme_that_the_server_pushes_is_used_by_the_next_session(
    lib: Library, site: Site
) -> None:
    # By the default scheme, a first small request takes less than 5,000 bytes; by this one, more than 20,000.
    scheme = ["stop=3", "0=50-50", "1=9000-9000", "2=11000-11000"]
    with (
        SingBoxServer(padding_scheme=scheme) as server,
        Relay(("127.0.0.1", server.port)) as relay,
        lib.open(relay.outbound(server.outbound())) as http,
    ):
        with http.stream(f"{site.url}/stream?count=2&pause=0.1", 1000) as body:
            next(body)
            by_default = relay.bytes_up
            assert by_default < 5_000
            # The first session is busy.
            assert http.get(site.url) == GREETING
            assert relay.bytes_up - by_default > 20_000
            assert relay.connections == 2
            assert len(b"".join(body)) == 1000
        answer = http.post(f"{site.url}/echo-hash", body_blocks(1_000_000))
        assert answer["sha256"] == body_sha256(1_000_000)
