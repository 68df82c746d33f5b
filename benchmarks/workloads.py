"""The rows of the benchmark: what is done, how often, and in what unit it is told."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from variants import NAMES, Variants

MIB = 1 << 20
LARGE = 1 << 30


@dataclass(frozen=True)
class Workload:
    """One row. ``work(variants, name, scale)`` prepares, and gives the work that is timed and its size in units."""

    name: str
    unit: str
    group: str  #: of the CPU summary: bulk, kept-alive, new connections
    work: Callable[
        [Variants, str, float], contextlib.AbstractContextManager[tuple[Callable[[], None], float]]
    ]
    variants: tuple[str, ...] = NAMES


def _client(variants: Variants, library: str, name: str, keep_alive: bool) -> Any:
    if library == "requests":
        return variants.requests_session(name, keep_alive)
    return variants.httpx_client(name, keep_alive)


def download(library: str, scheme: str) -> Workload:
    """1 GiB, streamed."""

    @contextlib.contextmanager
    def run(variants: Variants, name: str, scale: float) -> Iterator[tuple[Callable[[], None], float]]:
        url = variants.origin.url(scheme, "large")
        size = int(LARGE * scale) // MIB * MIB
        headers = {"Range": f"bytes=0-{size - 1}", "Accept-Encoding": "identity"}
        with _client(variants, library, name, True) as client:
            client.get(variants.origin.url(scheme, "small"))

            def work() -> None:
                total = 0
                if library == "requests":
                    with client.get(url, headers=headers, stream=True) as response:
                        for chunk in response.iter_content(65536):
                            total += len(chunk)
                else:
                    with client.stream("GET", url, headers=headers) as response:
                        for chunk in response.iter_raw():
                            total += len(chunk)
                assert total == size, (total, size)

            yield work, size / 1e6

    return Workload(f"{library} download 1 GiB, {scheme}", "MB/s", "bulk", run)


def upload(library: str) -> Workload:
    """256 MiB of bytes in one body."""

    @contextlib.contextmanager
    def run(variants: Variants, name: str, scale: float) -> Iterator[tuple[Callable[[], None], float]]:
        body = bytes(int(256 * MIB * scale))
        url = variants.origin.url("http", "sink")
        with _client(variants, library, name, True) as client:
            client.post(url, data=b"x") if library == "requests" else client.post(url, content=b"x")

            def work() -> None:
                response = (
                    client.post(url, data=body) if library == "requests" else client.post(url, content=body)
                )
                assert response.status_code == 200

            yield work, len(body) / 1e6

    return Workload(f"{library} upload 256 MiB", "MB/s", "bulk", run)


def fetch(library: str, scheme: str, path: str, keep_alive: bool, count: int, threads: int = 1) -> Workload:
    """``count`` GETs of a small file or a page."""

    @contextlib.contextmanager
    def run(variants: Variants, name: str, scale: float) -> Iterator[tuple[Callable[[], None], float]]:
        url = variants.origin.url(scheme, path)
        number = max(threads, int(count * scale))
        with _client(variants, library, name, keep_alive) as client:

            def get(times: int) -> None:
                for _ in range(times):
                    assert client.get(url).status_code == 200

            if threads == 1:
                get(3)
                yield lambda: get(number), number
                return
            with concurrent.futures.ThreadPoolExecutor(threads) as pool:

                def work() -> None:
                    list(pool.map(get, [number // threads] * threads))

                list(pool.map(get, [1] * threads))
                yield work, number // threads * threads

    what = "page of 100 KiB" if path == "page" else "small request"
    many = f"{threads} threads, " if threads > 1 else ""
    how = "kept-alive" if keep_alive else "new connection each"
    group = "kept-alive" if keep_alive else "new connections"
    return Workload(f"{library} {many}{what}, {scheme}, {how}", "req/s", group, run)


def socket_download() -> Workload:
    """``recv_into`` of 1 GiB: the tunnel's socket, and a plain ``ssl.SSLSocket`` to a TLS server."""

    @contextlib.contextmanager
    def run(variants: Variants, name: str, scale: float) -> Iterator[tuple[Callable[[], None], float]]:
        size = int(LARGE * scale) // MIB * MIB
        origin = variants.origin
        request = b"GET /large HTTP/1.1\r\nHost: x\r\nRange: bytes=0-%d\r\nConnection: close\r\n\r\n" % (
            size - 1
        )
        buffer = bytearray(65536)
        tls = ssl.create_default_context(cadata=variants.singbox.outbound["tls"]["certificate"])

        def pull(sock: Any) -> None:
            sock.sendall(request)
            total = 0
            while count := sock.recv_into(buffer):
                total += count
            assert total > size

        def work() -> None:
            if name == "direct":
                plain = socket.create_connection(("127.0.0.1", variants.singbox.tls_proxy_port), 60)
                with tls.wrap_socket(
                    plain, server_hostname=variants.singbox.outbound["tls"]["server_name"]
                ) as sock:
                    target = f"127.0.0.1:{origin.http_port}"
                    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
                    assert b" 200 " in sock.recv(4096)
                    pull(sock)
            else:
                with variants.tunnel.create_connection(("127.0.0.1", origin.http_port), 60) as sock:
                    pull(sock)

        yield work, size / 1e6

    return Workload(
        "recv_into 1 GiB: SSLSocket against AnyTLSSocket", "MB/s", "socket", run, ("direct", "anytls_http")
    )


def rows() -> list[Workload]:
    """Return all rows, in the order of the table."""
    found: list[Workload] = []
    for library in ("httpx", "requests"):
        found += [
            download(library, "http"),
            download(library, "https"),
            upload(library),
            fetch(library, "http", "page", True, 600),
            fetch(library, "http", "small", True, 1000),
            fetch(library, "https", "small", True, 1000),
            fetch(library, "http", "small", False, 500),
            fetch(library, "https", "small", False, 200),
            fetch(library, "http", "small", True, 1280, threads=32),
            fetch(library, "http", "small", False, 640, threads=32),
        ]
    found.append(socket_download())
    return found
