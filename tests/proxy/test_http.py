"""HTTP: CONNECT, and plain requests with the whole URL."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from anytls_http.pool import rules
from anytls_http.proxy import LocalProxy, forward
from anytls_http.proxy import server as server_module
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING, body_sha256
from tests.proxy.conftest import PASSWORD, USER, connect, read_answer, read_head
from tests.sockets.targets import Background, Target, get, read_all, read_exactly
from tests.support.timing import takes, wait_until

BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode())


def send(sock: socket.socket, line: str, *fields: str, body: bytes = b"") -> None:
    """Send a request to the proxy."""
    sock.sendall("\r\n".join((line, *fields, "", "")).encode() + body)


def ask(sock: socket.socket, url: str, *fields: str) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """GET ``url`` and return the answer."""
    send(sock, f"GET {url} HTTP/1.1", "Host: " + url.split("/")[2], *fields)
    return read_answer(sock)


# -- CONNECT ---------------------------------------------------------------------------------------------


def test_connect(proxy: LocalProxy, site: Site) -> None:
    with connect(proxy) as sock:
        send(sock, "CONNECT plain.test:80 HTTP/1.1", "Host: plain.test:80")
        assert read_head(sock)[0] == b"HTTP/1.1 200 Connection established"
        assert get(sock).endswith(GREETING)


def test_connect_with_tls(proxy: LocalProxy, secure: Site) -> None:
    with connect(proxy) as sock:
        send(sock, "CONNECT secure.test:443 HTTP/1.1", "Host: secure.test:443")
        read_head(sock)
        with secure.ssl_context().wrap_socket(sock, server_hostname="secure.test") as tls:
            body = get(tls, "/bytes/2000000").partition(b"\r\n\r\n")[2]
        assert hashlib.sha256(body).hexdigest() == body_sha256(2_000_000)


def test_connect_and_data_in_one_go(proxy: LocalProxy, target: Target, server: AnyTLSServer) -> None:
    server.routes["2001:db8::1", 7] = target.address
    with connect(proxy) as sock:
        sock.sendall(b"CONNECT [2001:db8::1]:7 HTTP/1.0\r\n\r\nearly")
        far = target.accept()
        assert read_exactly(far, 5) == b"early"
        far.sendall(b"answer")
        assert read_exactly(sock, 45) == b"HTTP/1.1 200 Connection established\r\n\r\nanswer"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("connect: connection refused", b"502"),
        ("connect: i/o timeout", b"504"),
        ("lookup x: no such host", b"502"),
    ],
)
@pytest.mark.parametrize(
    "line", ["CONNECT gone.test:80 HTTP/1.1", "GET http://gone.test/ HTTP/1.1"], ids=["CONNECT", "GET"]
)
def test_why_a_target_is_refused(
    proxy: LocalProxy, server: AnyTLSServer, words: str, status: bytes, line: str, site: Site
) -> None:
    server.faults.refuse = lambda host, port: words if host == "gone.test" else None
    with connect(proxy) as sock:
        send(sock, line, "Host: gone.test:80")
        first, _, body = read_answer(sock)
        assert first.split()[1] == status
        assert words.encode() in body
        assert ask(sock, "http://plain.test/")[2] == GREETING  # the connection goes on


def test_a_refused_head_has_no_body(proxy: LocalProxy, server: AnyTLSServer, site: Site) -> None:
    server.faults.refuse = lambda host, port: "gone" if host == "gone.test" else None
    with connect(proxy) as sock:
        send(sock, "HEAD http://gone.test/ HTTP/1.1", "Host: gone.test")
        first, fields = read_head(sock)
        assert first.split()[1] == b"502"
        assert int(fields[b"content-length"]) > 0
        assert ask(sock, "http://plain.test/")[2] == GREETING  # the next answer follows at once


@pytest.mark.parametrize("line", ["CONNECT slow.test:80 HTTP/1.1", "GET http://slow.test/ HTTP/1.1"])
def test_a_target_that_does_not_answer(
    proxy: LocalProxy, server: AnyTLSServer, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "OPEN_TIMEOUT", 0.2)
    server.faults.withhold_synack = True
    with connect(proxy) as sock:
        send(sock, line, "Host: slow.test:80")
        assert read_answer(sock)[0] == b"HTTP/1.1 504 Gateway Timeout"


def test_the_tunnel_does_not_work(server: AnyTLSServer) -> None:
    with LocalProxy(server.outbound(password="wrong-secret")) as proxy, connect(proxy) as sock:
        first, _, body = ask(sock, "http://plain.test/")
        assert first == b"HTTP/1.1 502 Bad Gateway"
        assert b"wrong password" in body
        assert b"wrong-secret" not in body


# -- the password ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Proxy-Authorization: Basic " + base64.b64encode(b"mary ann:wrong").decode(),),
        ("Proxy-Authorization: Basic !!!",),
        ("Proxy-Authorization: Bearer x",),
        ("Authorization: Basic " + BASIC.decode(),),
    ],
)
@pytest.mark.parametrize("line", ["CONNECT plain.test:80 HTTP/1.1", "GET http://plain.test/ HTTP/1.1"])
def test_without_the_password(guarded: LocalProxy, site: Site, fields: tuple[str, ...], line: str) -> None:
    with connect(guarded) as sock:
        send(sock, line, "Host: plain.test:80", *fields)
        first, answer, _ = read_answer(sock)
        assert first == b"HTTP/1.1 407 Proxy Authentication Required"
        assert answer[b"proxy-authenticate"] == b'Basic realm="anytls-http"'
        assert site.connections == 0
        # As curl --proxy-anyauth does: once more on the same connection.
        send(sock, line, "Host: plain.test:80", "Proxy-Authorization: basic " + BASIC.decode())
        assert read_head(sock)[0].split()[1] == b"200"


def test_the_password_is_the_proxys_alone(guarded: LocalProxy, site: Site) -> None:
    with connect(guarded) as sock:
        _, _, body = ask(
            sock,
            "http://plain.test/headers",
            f"Proxy-Authorization: Basic {BASIC.decode()}",
            "Proxy-Connection: keep-alive",
            "Authorization: Basic abc",
            "X-Odd-Case: kept",
            "Connection: X-Mine, keep-alive",
            "X-Mine: not passed on",
            "TE: trailers",
            "Keep-Alive: 5",
        )
        assert json.loads(body) == [
            ["Host", "plain.test"],
            ["Authorization", "Basic abc"],
            ["X-Odd-Case", "kept"],
        ]


# -- plain requests --------------------------------------------------------------------------------------


def test_keep_alive_to_different_hosts(proxy: LocalProxy, site: Site) -> None:
    with connect(proxy) as sock:
        for url in (
            "http://plain.test/",
            "http://plain.test/bytes/100",
            "http://other.test:8080/",
            "http://plain.test",
            "http://user:secret@plain.test/?a=b#part",
        ):
            first, _, body = ask(sock, url)
            assert first == b"HTTP/1.1 200 OK"
            assert body == GREETING or len(body) == 100
        time.sleep(0.05)
        assert ask(sock, "http://plain.test/")[2] == GREETING
        assert proxy.connections == 1
    assert site.connections == 3  # the first is used again, then one each, and the last is used again
    assert site.log[4] == ("GET", "/?a=b")
    wait_until(lambda: proxy.connections == 0)


@pytest.mark.parametrize(
    "path", ["/bytes/3000000", "/stream?count=50&pause=0&size=20000", "/close", "/bytes/0"]
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_bodies(proxy: LocalProxy, site: Site, path: str, version: str) -> None:
    with connect(proxy) as sock, socket.create_connection((site.host, site.port)) as direct:
        send(sock, f"GET http://plain.test{path} HTTP/{version}", "Host: x", "Connection: close")
        send(direct, f"GET {path} HTTP/1.0", "Host: x")
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
        expected = read_all(direct).partition(b"\r\n\r\n")[2]
        if b"chunked" in head.lower():
            body, expected = unchunked(body), unchunked(expected) if b"/stream" in path.encode() else expected
        elif "/stream" in path:
            expected = unchunked(expected)  # this site chunks for everybody
        assert body == expected


def unchunked(data: bytes) -> bytes:
    """Return the data of a chunked body."""
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if not int(size, 16):
            return body
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]


def test_head_and_status_without_body(proxy: LocalProxy, site: Site) -> None:
    with connect(proxy) as sock:
        send(sock, "HEAD http://plain.test/bytes/500 HTTP/1.1", "Host: plain.test")
        assert read_head(sock)[1][b"content-length"] == b"500"
        assert ask(sock, "http://plain.test/status/404")[0].split()[1] == b"404"
        assert ask(sock, "http://plain.test/")[2] == GREETING


@pytest.mark.parametrize("kind", ["length", "chunked", "expect", "expect and wait"])
def test_uploads(proxy: LocalProxy, site: Site, kind: str) -> None:
    data = bytes(range(256)) * 8000
    fields = ["Host: plain.test", f"Content-Length: {len(data)}"]
    body = data
    if kind == "chunked":
        fields[1] = "Transfer-Encoding: chunked"
        pieces = [data[at : at + 30_000] for at in range(0, len(data), 30_000)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    if "expect" in kind:
        fields.append("Expect: 100-continue")
    with connect(proxy) as sock:
        send(sock, "POST http://plain.test/echo-hash HTTP/1.1", *fields)
        if kind == "expect and wait":
            assert read_head(sock)[0] == b"HTTP/1.1 100 Continue"
        sock.sendall(body)
        if kind == "expect":
            assert read_head(sock)[0] == b"HTTP/1.1 100 Continue"
        body = read_answer(sock)[2]
        assert json.loads(body) == {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        assert ask(sock, "http://plain.test/")[2] == GREETING


def test_pipelined_requests(proxy: LocalProxy, site: Site) -> None:
    with connect(proxy) as sock:
        one = b"GET http://plain.test/bytes/%d HTTP/1.1\r\nHost: plain.test\r\n\r\n"
        sock.sendall(b"".join(one % size for size in (10, 20, 30)))
        assert [len(read_answer(sock)[2]) for _ in range(3)] == [10, 20, 30]


def serve(target: Target, *answers: bytes) -> Background:
    """Answer the requests of one connection to ``target``, then end it."""

    def run() -> list[bytes]:
        far = target.accept()
        heads = []
        for answer in answers:
            first, _ = read_head(far)
            heads.append(first)
            far.sendall(answer)
        far.close()
        return heads

    return Background(run)


@pytest.fixture
def scripted(server: AnyTLSServer, target: Target) -> Callable[..., Background]:
    server.routes["scripted.test", 80] = target.address
    return lambda *answers: serve(target, *answers)


EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_a_kept_connection_that_has_ended_is_not_used(
    proxy: LocalProxy, scripted: Callable[..., Background]
) -> None:
    with connect(proxy) as sock:
        first = scripted(EMPTY)
        assert ask(sock, "http://scripted.test/1")[0] == b"HTTP/1.1 200 OK"
        first.result()
        time.sleep(0.1)
        second = scripted(EMPTY)
        assert ask(sock, "http://scripted.test/2")[0] == b"HTTP/1.1 200 OK"
        second.result()


@pytest.mark.parametrize("rest", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother", b"rubbish"])
def test_what_follows_an_answer_is_not_the_next(
    proxy: LocalProxy, scripted: Callable[..., Background], target: Target, rest: bytes
) -> None:
    def say_more() -> bytes:
        far = target.accept()
        read_head(far)
        far.sendall(EMPTY + rest)
        return far.recv(100)

    with connect(proxy) as sock:
        first = Background(say_more)
        assert ask(sock, "http://scripted.test/1")[2] == b""
        assert first.result() == b""  # nothing more is asked there
        second = scripted(EMPTY)
        assert ask(sock, "http://scripted.test/2")[2] == b""
        assert len(second.result()) == 1


def test_rubbish_on_a_kept_connection_is_no_reason_to_ask_again(
    proxy: LocalProxy, scripted: Callable[..., Background]
) -> None:
    with connect(proxy) as sock:
        both = scripted(EMPTY, b"rubbish\r\n\r\n")
        assert ask(sock, "http://scripted.test/1")[2] == b""
        assert ask(sock, "http://scripted.test/2")[0].split()[1] == b"502"
        assert len(both.result()) == 2


@pytest.mark.parametrize(("method", "status"), [("GET", b"200"), ("POST", b"502")])
def test_a_kept_connection_ends_with_the_next_request(
    proxy: LocalProxy, scripted: Callable[..., Background], target: Target, method: str, status: bytes
) -> None:
    with connect(proxy) as sock:
        first = scripted(EMPTY, b"")  # it takes the second request and ends
        assert ask(sock, "http://scripted.test/1")[0] == b"HTTP/1.1 200 OK"
        second = (
            Background(lambda: [read_head(far := target.accept()), far.sendall(EMPTY)])
            if method == "GET"
            else None
        )
        send(sock, f"{method} http://scripted.test/2 HTTP/1.1", "Host: scripted.test", "Content-Length: 0")
        assert read_answer(sock)[0].split()[1] == (b"502" if method == "POST" else status)
        first.result()
        if second is not None:
            second.result()


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", b"\x00" * 300_000],
)
def test_an_answer_that_is_none(
    proxy: LocalProxy, scripted: Callable[..., Background], answer: bytes, site: Site
) -> None:
    with connect(proxy) as sock:
        scripted(answer)
        assert ask(sock, "http://scripted.test/")[0] == b"HTTP/1.1 502 Bad Gateway"
        assert ask(sock, "http://plain.test/")[2] == GREETING


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_an_answer_that_breaks_off(
    proxy: LocalProxy, scripted: Callable[..., Background], answer: bytes
) -> None:
    with connect(proxy) as sock:
        scripted(answer)
        send(sock, "GET http://scripted.test/ HTTP/1.1", "Host: scripted.test")
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"0\r\n\r\n" not in body  # it doesn't look whole


@contextlib.contextmanager
def asked_and_begun(
    proxy: LocalProxy, server: AnyTLSServer, target: Target, version: str
) -> Iterator[socket.socket]:
    """Ask by this version of HTTP, and read the head of an answer without length that has begun."""
    server.routes["scripted.test", 80] = target.address
    with connect(proxy) as sock:
        send(sock, f"GET http://scripted.test/ HTTP/{version}", "Host: scripted.test")
        far = target.accept()
        read_head(far)
        far.sendall(b"HTTP/1.1 200 OK\r\n\r\nbegin")
        assert read_head(sock)[0].endswith(b"200 OK")
        yield sock


def test_the_session_breaks_in_an_answer_without_length(
    proxy: LocalProxy, server: AnyTLSServer, target: Target
) -> None:
    with asked_and_begun(proxy, server, target, "1.1") as sock:
        assert b"begin" in sock.recv(100)
        server.close_sessions(reset=True)
        assert not read_all(sock).endswith(b"0\r\n\r\n")


def test_an_early_answer_ends_the_upload(proxy: LocalProxy, server: AnyTLSServer, target: Target) -> None:
    server.routes["scripted.test", 80] = target.address
    with connect(proxy) as sock:
        send(sock, "POST http://scripted.test/ HTTP/1.1", "Host: scripted.test", "Content-Length: 10000000")
        far = target.accept()
        read_head(far)
        far.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        first, _, body = read_answer(sock)
        assert (first, body) == (b"HTTP/1.1 413 Too Large", b"no")
        assert sock.recv(10) == b""


def test_upgrade(proxy: LocalProxy, server: AnyTLSServer, target: Target) -> None:
    server.routes["scripted.test", 80] = target.address
    with connect(proxy) as sock:
        send(
            sock,
            "GET http://scripted.test/ HTTP/1.1",
            "Host: scripted.test",
            "Connection: Upgrade",
            "Upgrade: echo",
        )
        far = target.accept()
        _, fields = read_head(far)
        assert fields[b"upgrade"] == b"echo"
        assert fields[b"connection"] == b"upgrade"
        far.sendall(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello")
        first, fields = read_head(sock)
        assert (first, fields[b"upgrade"]) == (b"HTTP/1.1 101 Switching", b"echo")
        assert read_exactly(sock, 5) == b"hello"
        sock.sendall(b"x" * 300_000)
        assert read_exactly(far, 300_000) == b"x" * 300_000
        far.sendall(b"y" * 300_000)
        assert read_exactly(sock, 300_000) == b"y" * 300_000
        far.close()
        assert sock.recv(1) == b""


def test_all_that_was_sent_arrives_after_an_upgrade(
    proxy: LocalProxy, server: AnyTLSServer, target: Target
) -> None:
    server.routes["scripted.test", 80] = target.address
    with connect(proxy) as sock:
        send(sock, "GET http://scripted.test/ HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: echo")
        far = target.accept()
        read_head(far)
        far.sendall(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        read_head(sock)
        body = bytes(range(256)) * 12_000
        writer = Background(sock.sendall, body)
        time.sleep(0.1)  # all that lies in between is full
        reader = Background(read_all, far)
        writer.result()
    assert reader.result() == body


def test_a_client_that_has_ended_its_direction_is_answered(
    proxy: LocalProxy, scripted: Callable[..., Background]
) -> None:
    with connect(proxy) as sock:
        served = scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        send(sock, "GET http://scripted.test/ HTTP/1.1", "Host: scripted.test")
        sock.shutdown(socket.SHUT_WR)
        assert read_answer(sock)[2] == b"hi"
        assert sock.recv(1) == b""
        assert len(served.result()) == 1


@pytest.mark.parametrize(
    ("fields", "body", "kept"),
    [
        (["Connection: content-length", "Content-Length: 3"], b"abc", {b"content-length": b"3"}),
        (
            ["Connection: transfer-encoding", "Transfer-Encoding: chunked"],
            b"3\r\nabc\r\n0\r\n\r\n",
            {b"transfer-encoding": b"chunked"},
        ),
        (
            ["Content-Length: 9", "Transfer-Encoding: chunked"],
            b"3\r\nabc\r\n0\r\n\r\n",
            {b"transfer-encoding": b"chunked"},
        ),
    ],
)
def test_how_long_a_body_is_reaches_the_target_once(
    proxy: LocalProxy,
    server: AnyTLSServer,
    target: Target,
    fields: list[str],
    body: bytes,
    kept: dict[bytes, bytes],
) -> None:
    server.routes["scripted.test", 80] = target.address
    with connect(proxy) as sock:
        send(sock, "POST http://scripted.test/ HTTP/1.1", "Host: scripted.test", *fields, body=body)
        far = target.accept()
        _, told = read_head(far)
        assert {name: value for name, value in told.items() if name != b"host"} == kept
        assert read_exactly(far, len(body)) == body
        far.sendall(EMPTY)
        assert read_answer(sock)[0] == b"HTTP/1.1 200 OK"


def test_a_kept_connection_must_live(
    proxy: LocalProxy, server: AnyTLSServer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "SILENT_AFTER", 0.05)
    monkeypatch.setattr(rules, "SHORTEST_PROOF", 0.1)
    with connect(proxy) as sock:
        assert ask(sock, "http://plain.test/")[2] == GREETING
        server.freeze(new_sessions=False)
        time.sleep(0.1)
        assert ask(sock, "http://plain.test/")[2] == GREETING
    assert site.connections == 2
    server.thaw()


def test_a_broken_answer_to_an_old_client_is_a_reset(
    proxy: LocalProxy, server: AnyTLSServer, target: Target
) -> None:
    with asked_and_begun(proxy, server, target, "1.0") as sock:
        assert sock.recv(100) == b"begin"
        server.close_sessions(reset=True)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_hints_before_the_answer(proxy: LocalProxy, scripted: Callable[..., Background]) -> None:
    with connect(proxy) as sock:
        scripted(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + EMPTY)
        send(sock, "GET http://scripted.test/ HTTP/1.1", "Host: scripted.test")
        assert read_head(sock) == (b"HTTP/1.1 103 Early Hints", {b"link": b"</a>"})
        assert read_head(sock)[0] == b"HTTP/1.1 200 OK"


def test_a_target_that_says_nothing(
    proxy: LocalProxy, server: AnyTLSServer, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "INACTIVITY", 0.2)
    server.routes["scripted.test", 80] = target.address
    with connect(proxy) as sock:
        assert ask(sock, "http://scripted.test/")[0] == b"HTTP/1.1 504 Gateway Timeout"


def test_a_client_that_vanishes(proxy: LocalProxy, server: AnyTLSServer, target: Target) -> None:
    server.routes["scripted.test", 80] = target.address
    with connect(proxy) as sock:
        send(sock, "GET http://scripted.test/ HTTP/1.1", "Host: scripted.test")
        far = target.accept()
        read_head(far)
    assert far.recv(1) == b""
    wait_until(lambda: proxy.connections == 0)


# -- what can't be served --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", b"501"),
        (b"GET https://x/ HTTP/1.1\r\nHost: x\r\n\r\n", b"501"),
        (b"GET http:///path HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET http://x:0/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET http://x:99999/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"CONNECT x:y HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"CONNECT http://x:80/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET http://x/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\nbad line\r\n\r\n", b"400"),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"hello\r\n\r\n", b"400"),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000, b"431"),
        (b"A" * 200_000, b"431"),
    ],
)
def test_bad_requests(proxy: LocalProxy, site: Site, words: bytes, status: bytes) -> None:
    with connect(proxy) as sock:
        sock.sendall(words)
        with takes(0, 3):
            assert read_answer(sock)[0].split()[1] == status
    with connect(proxy) as sock:
        assert ask(sock, "http://plain.test/")[2] == GREETING
