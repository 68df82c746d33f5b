"""What each choice of the hot path gains: the work is done with it and without it, interleaved.

``python benchmarks/ablation.py [--rounds N] [--only TEXT]`` prints a Markdown table for ``docs/performance.md``.
A choice is taken back by patching the package in this process; the other end is the real sing-box server.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import http.client
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))

import httpx
import requests
from origin import Origin
from singbox import SingBox
from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.connectionpool import HTTPConnectionPool
from variants import Variants, timed

import anytls_http
from anytls_http.integrations import _httpx
from anytls_http.integrations._http_response import TunnelResponse
from anytls_http.integrations._urllib3 import TunnelHTTPConnection
from anytls_http.integrations._urllib3_headers import PlainHeaders
from anytls_http.integrations._urllib3_plain import PlainHTTPResponse
from anytls_http.integrations._urllib3_pool import OneTryPool
from anytls_http.net import scratch as scratch_module
from anytls_http.net.tcp_info import Arrivals
from anytls_http.net.tls import TLSConnection
from anytls_http.pool import session_reading
from anytls_http.pool.session import Session
from anytls_http.protocol.session import ClientSession
from anytls_http.sockets import tls as tls_module

SIZE = 128 << 20


@contextlib.contextmanager
def buffer_of(purpose: int, size: int) -> Iterator[None]:
    """Make the thread's buffer for ``purpose`` smaller."""
    sizes = list(scratch_module.SIZES)
    sizes[purpose] = size
    local = type(scratch_module._per_thread)()
    with (
        mock.patch.object(scratch_module, "SIZES", tuple(sizes)),
        mock.patch.object(scratch_module, "_per_thread", local),
    ):
        yield


@contextlib.contextmanager
def small_reads() -> Iterator[None]:
    """Read the connection 16 KiB at a time."""
    with (
        mock.patch.object(scratch_module, "CIPHERTEXT_SIZE", 16384),
        mock.patch.object(scratch_module, "_spare", []),
    ):
        yield


def small_reads_of_tls() -> Any:
    """Read the ciphertext of TLS in the tunnel 16 KiB at a time."""
    return mock.patch.object(tls_module, "TLS_READ_SIZE", 16384)


@contextlib.contextmanager
def asking_for_cut_records() -> Iterator[None]:
    """Ask OpenSSL for records that may not be whole, and begin the next step where little room is left for it."""
    with (
        mock.patch.object(session_reading, "WHOLE_RECORD", 1),
        mock.patch.object(tls_module, "WHOLE_RECORD", 1),
        mock.patch.object(tls_module, "ROOM_FOR_STEP", session_reading.MIN_ROOM),
    ):
        yield


def without_held_fin() -> Any:
    """Send each FIN at once."""
    real = ClientSession.end_stream
    return mock.patch.object(ClientSession, "end_stream", lambda self, hold_fin=False: real(self))


def _no(self: object, about: object) -> bool:
    return False  # a Mock would take its time


def without_quick_look() -> Any:
    """Take the stale check's long way each time."""
    return mock.patch.object(Session, "_nothing_has_come", _no)


def without_counting() -> Any:
    """Poll where the kernel's count of what has come would do."""
    return mock.patch.object(Arrivals, "none_beyond", _no)


def with_http_clients_parser() -> Any:
    """Leave each head to http.client."""
    return mock.patch.object(TunnelHTTPConnection, "response_class", http.client.HTTPResponse)


def with_requests_way_to_the_pool() -> Any:
    """Let requests find out anew where each request goes."""
    names = ("build_connection_pool_key_attributes", "get_connection_with_tls_context", "request_url")
    theirs = {name: getattr(requests.adapters.HTTPAdapter, name) for name in names}
    return mock.patch.multiple(anytls_http.AnyTLSAdapter, **theirs)


@contextlib.contextmanager
def with_urllib3s_ways() -> Iterator[None]:
    """Leave to urllib3 the way through its pool, its headers and its decoder's buffer."""

    def headers(items: list[tuple[str, str]], values: dict[str, str]) -> HTTPHeaderDict:
        return HTTPHeaderDict(items)

    with (
        mock.patch.object(OneTryPool, "urlopen", HTTPConnectionPool.urlopen),
        mock.patch.object(PlainHeaders, "of_plain", headers),
        mock.patch.object(PlainHTTPResponse, "read", HTTPResponse.read),
        mock.patch.object(TunnelResponse, "read", http.client.HTTPResponse.read),
    ):
        yield


def without_reading_first() -> Any:
    """Ask whether data is there before each read."""
    real = TLSConnection.receive

    def receive(self: TLSConnection, deadline: float | None) -> int:
        count = real(self, deadline)
        self._polls = 1
        return count

    return mock.patch.object(TLSConnection, "receive", receive)


def with_httpcores_pool() -> Any:
    """Leave httpx's connections to httpcore, and each exchange on them."""

    def pool(core: Any, make_connection: Any, **options: Any) -> Any:
        return core.ConnectionPool(**options)

    return mock.patch.object(_httpx, "HTTPPool", pool)


def with_httpcores_http() -> Any:
    """Leave each exchange to httpcore and h11."""

    def connection(core: Any, bytes_class: Any, origin: Any, **options: Any) -> Any:
        return core.HTTPConnection(origin, **options)

    return mock.patch.object(_httpx, "HTTP1Connection", connection)


def download(variants: Variants, scheme: str) -> tuple[Callable[[], None], float]:
    """128 MiB by httpx."""
    url = variants.origin.url(scheme, "large")

    def work() -> None:
        with (
            variants.httpx_client("anytls_http", True) as client,
            client.stream("GET", url, headers={"Range": f"bytes=0-{SIZE - 1}"}) as response,
        ):
            for _ in response.iter_raw():
                pass

    return work, SIZE / 1e6


def download_by_requests(variants: Variants) -> tuple[Callable[[], None], float]:
    """128 MiB by requests, https, in pieces of 64 KiB."""
    url = variants.origin.url("https", "large")

    def work() -> None:
        with (
            variants.requests_session("anytls_http", True) as session,
            session.get(url, headers={"Range": f"bytes=0-{SIZE - 1}"}, stream=True) as response,
        ):
            for _ in response.iter_content(65536):
                pass

    return work, SIZE / 1e6


def gets(
    variants: Variants, keep_alive: bool, threads: int, count: int, what: str = "small"
) -> tuple[Callable[[], None], float]:
    """``count`` GETs by httpx."""
    url = variants.origin.url("http", what)

    def work() -> None:
        # Here it is the client that closes, so that there is a FIN to send.
        limits = httpx.Limits() if keep_alive else httpx.Limits(max_keepalive_connections=0)
        transport = anytls_http.AnyTLSTransport(variants.tunnel, limits=limits)
        with (
            httpx.Client(transport=transport, timeout=60) as client,
            concurrent.futures.ThreadPoolExecutor(threads) as pool,
        ):
            list(pool.map(lambda _: [client.get(url) for _ in range(count // threads)], range(threads)))

    return work, count


def gets_by_requests(variants: Variants, threads: int, count: int) -> tuple[Callable[[], None], float]:
    """``count`` small GETs by requests, on kept-alive connections."""
    url = variants.origin.url("http", "small")

    def work() -> None:
        with (
            variants.requests_session("anytls_http", True) as session,
            concurrent.futures.ThreadPoolExecutor(threads) as pool,
        ):
            list(pool.map(lambda _: [session.get(url) for _ in range(count // threads)], range(threads)))

    return work, count


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="only choices whose name holds this text")
    options = parser.parse_args()
    rounds = options.rounds
    origin, singbox = Origin(1 << 30), SingBox()
    variants = Variants(origin, singbox)
    new = gets(variants, False, 1, 400)
    rows: list[tuple[str, str, Callable[[], Any], tuple[Callable[[], None], float]]] = [
        (
            "up to 144 KiB decrypted in one step, not a record",
            "download, http",
            lambda: buffer_of(scratch_module.DECRYPTED, 16384),
            download(variants, "http"),
        ),
        (
            "the same",
            "download, https",
            lambda: buffer_of(scratch_module.DECRYPTED, 16384),
            download(variants, "https"),
        ),
        ("1 MiB of ciphertext a read, not 16 KiB", "download, http", small_reads, download(variants, "http")),
        (
            "288 KiB a read of TLS in the tunnel, not 16",
            "download, https",
            small_reads_of_tls,
            download(variants, "https"),
        ),
        (
            "a step is decrypted at once, and no record is asked for that isn't whole",
            "download, https",
            asking_for_cut_records,
            download(variants, "https"),
        ),
        (
            "the same",
            "download, https, by requests",
            asking_for_cut_records,
            download_by_requests(variants),
        ),
        (
            "read first where data tends to be there, not poll first",
            "download, http",
            without_reading_first,
            download(variants, "http"),
        ),
        ("the same", "small, kept-alive, 32 threads", without_reading_first, gets(variants, True, 32, 2560)),
        *(
            (
                "plain HTTP in few steps, not by httpcore and h11" if not number else "the same",
                what,
                with_httpcores_http,
                work,
            )
            for number, (what, work) in enumerate(
                [
                    ("small, kept-alive", gets(variants, True, 1, 1000)),
                    ("small, new connection each", new),
                    ("small, kept-alive, 32 threads", gets(variants, True, 32, 2560)),
                    ("page of 100 KiB, kept-alive", gets(variants, True, 1, 1000, "page")),
                    ("download, http", download(variants, "http")),
                    ("download, https", download(variants, "https")),
                ]
            )
        ),
        (
            "that, and a pool of connections of our own, not httpcore's",
            "small, kept-alive",
            with_httpcores_pool,
            gets(variants, True, 1, 1000),
        ),
        (
            "the same",
            "page of 100 KiB, kept-alive",
            with_httpcores_pool,
            gets(variants, True, 1, 1000, "page"),
        ),
        ("the same", "small, kept-alive, 32 threads", with_httpcores_pool, gets(variants, True, 32, 2560)),
        (
            "quick stale check",
            "small, kept-alive, 32 threads",
            without_quick_look,
            gets(variants, True, 32, 2560),
        ),
        (
            "whether anything has come is asked of the kernel's count, not of poll",
            "small, kept-alive, 32 threads",
            without_counting,
            gets(variants, True, 32, 2560),
        ),
        *(
            (choice, what, without, gets_by_requests(variants, threads, count))
            for choice, without in (
                ("a plain head is read in one step, not by http.client", with_http_clients_parser),
                ("requests' way to the pool is remembered", with_requests_way_to_the_pool),
                ("short ways through urllib3's pool, headers and reads", with_urllib3s_ways),
            )
            for what, threads, count in (
                ("small, kept-alive, by requests", 1, 1000),
                ("small, kept-alive, 32 threads, by requests", 32, 2560),
            )
        ),
        (
            "short ways through urllib3's pool, headers and reads",
            "download, https, by requests",
            with_urllib3s_ways,
            download_by_requests(variants),
        ),
        ("the FIN leaves with the next SYN", "small, new connection each", without_held_fin, new),
    ]
    try:
        print("| choice | work | speed with it | CPU with it |\n| --- | --- | ---: | ---: |")
        for choice, what, without, (work, size) in rows:
            if options.only not in choice:
                continue
            rates: dict[bool, list[float]] = {True: [], False: []}
            cpus: dict[bool, list[float]] = {True: [], False: []}
            for number in range(rounds):
                for chosen in (True, False) if number % 2 else (False, True):
                    with contextlib.nullcontext() if chosen else without():
                        seconds, cpu = timed(variants, "anytls_http", work)
                    rates[chosen].append(size / seconds)
                    cpus[chosen].append(cpu)
            speed = statistics.median(rates[True]) / statistics.median(rates[False])
            cost = statistics.median(cpus[True]) / statistics.median(cpus[False])
            print(f"| {choice} | {what} | {speed:.2f}x | {cost:.2f}x |", flush=True)
    finally:
        variants.close()
        singbox.close()
        origin.close()


if __name__ == "__main__":
    main()
