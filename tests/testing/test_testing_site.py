"""The test site, asked by httpx without any tunnel."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from anytls_http.testing import Site
from anytls_http.testing.site import GREETING, body_blocks, body_bytes, body_sha256
from tests.support.timing import STARVED


@pytest.fixture(autouse=True)
def no_leftover_threads() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()


@pytest.fixture(params=[False, True], ids=["http", "https"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with Site(tls=request.param) as running:
        yield running


@pytest.fixture
def http(site: Site) -> Iterator[httpx.Client]:
    verify = site.ssl_context() if site.certificate else True
    with httpx.Client(base_url=site.url, verify=verify, trust_env=False) as client:
        yield client


def test_greeting_and_keep_alive(site: Site, http: httpx.Client) -> None:
    for _ in range(3):
        assert http.get("/").content == GREETING
    assert (site.connections, site.requests) == (1, 3)
    assert site.log[0] == ("GET", "/")


@pytest.mark.parametrize("size", [0, 1, 1000, 262_144, 262_145, 3_000_000])
def test_bytes(http: httpx.Client, size: int) -> None:
    assert http.get(f"/bytes/{size}").content == body_bytes(size)
    assert hashlib.sha256(body_bytes(size)).hexdigest() == body_sha256(size)


def test_no_two_blocks_are_alike() -> None:
    blocks = list(body_blocks(1_000_000))
    assert len(set(blocks)) == len(blocks)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 5, 1_000_000])
def test_echo_hash(http: httpx.Client, size: int, chunked: bool) -> None:
    answer = http.post("/echo-hash", content=body_blocks(size) if chunked else body_bytes(size))
    assert answer.json() == {"length": size, "sha256": body_sha256(size)}
    assert http.get("/").content == GREETING  # nothing of the body is left over


def test_headers(http: httpx.Client) -> None:
    received = http.get("/headers", headers={"X-Mine": "1"}).json()
    assert ["x-mine", "1"] in [[name.lower(), value] for name, value in received]


def test_slow(http: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        http.get("/slow?seconds=30", timeout=0.2)


def test_stream(http: httpx.Client) -> None:
    with http.stream("GET", "/stream?count=3&pause=0.1&size=10") as answer:
        start = time.monotonic()
        pieces = list(answer.iter_raw())
        assert time.monotonic() - start > 0.15
    assert b"".join(pieces) == b"\0" * 10 + b"\1" * 10 + b"\2" * 10


def test_statuses_and_redirects(http: httpx.Client) -> None:
    assert http.get("/status/418").status_code == 418
    assert http.get("/nothing").status_code == 404
    assert http.post("/nothing").status_code == 404
    assert http.head("/bytes/10").headers["content-length"] == "10"
    assert http.get("/redirect?to=/headers").headers["location"] == "/headers"


def test_body_until_the_connection_closes(site: Site, http: httpx.Client) -> None:
    assert http.get("/close").content == GREETING
    http.get("/")
    assert site.connections == 2


def test_close_connections(site: Site, http: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError), http.stream("GET", "/stream?count=100&pause=1") as answer:
        for _ in answer.iter_raw():
            site.close_connections()


def test_nonsense_and_silence_do_no_harm(site: Site, http: httpx.Client) -> None:
    with (
        socket.create_connection((site.host, site.port)),
        socket.create_connection((site.host, site.port)) as sock,
    ):
        sock.sendall(b"POST /echo-hash HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
        assert http.get("/").content == GREETING
        start = time.monotonic()
        site.close()
        assert time.monotonic() - start < 1 + STARVED


def test_tls_only_where_asked_for() -> None:
    with Site() as site:
        with pytest.raises(ValueError, match="no TLS"):
            _ = site.ca_pem
        with pytest.raises(ValueError, match="no TLS"):
            site.ssl_context()
