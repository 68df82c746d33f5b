"""The real sing-box server dies under httpx, httpx2 and requests: the error, the next request, nothing sent twice."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from anytls_http import DialError, SessionClosed
from anytls_http.testing import Site
from anytls_http.testing.site import GREETING
from tests.singbox.http_libraries import Library, posts, raised
from tests.support.h2site import H2Site
from tests.support.singbox import SingBoxServer, skip_without_singbox
from tests.support.timing import takes, wait_until

pytestmark = skip_without_singbox


class TestKilled:
    def test_in_mid_download_and_restarted(
        self, lib: Library, own: SingBoxServer, any_site: Site, ca_file: str
    ) -> None:
        with lib.open(own.outbound(), ca_file=ca_file) as http:
            with http.stream(f"{any_site.url}/stream?count=1000&pause=0.01", 1000) as body:
                next(body)
                own.kill()
                with takes(0), raised(lib.body_broken, SessionClosed):
                    for _ in body:
                        pass
            with takes(0), raised(lib.unreachable, DialError, "refused"):
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
                    with takes(0), raised(lib.body_broken, SessionClosed):
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

    def __enter__(self) -> Self:
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
