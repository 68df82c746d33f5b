"""The client's part of SOCKS 5, SOCKS 4a and HTTP CONNECT, against proxies whose every byte the test decides."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.errors import AnyTLSTimeout, DialError
from anytls_http.net.proxies import http_connect, socks4_connect, socks5_connect
from tests.support.timing import STARVED

#: A step: the proxy reads just this ("expect"), or says this ("say"); None ends the connection.
Step = tuple[str, bytes]
NEXT = b"\x16\x03\x01 the target's own bytes"


class Proxy:
    """Plays the steps on one end of a socket pair, one byte at a time where ``dribble`` is set."""

    def __init__(self, *steps: Step, dribble: bool = False) -> None:
        self.ours, self._theirs = socket.socketpair()
        self.ours.setblocking(False)
        self._theirs.settimeout(5)
        self._steps = steps
        self._dribble = dribble
        self.wrong: bytes | None = None
        self._thread = threading.Thread(target=self._play, daemon=True)

    def __enter__(self) -> socket.socket:
        self._thread.start()
        return self.ours

    def __exit__(self, *exc_info: object) -> None:
        self.ours.close()
        self._thread.join(5)
        self._theirs.close()
        assert self.wrong is None

    def _play(self) -> None:
        for kind, data in self._steps:
            if kind == "end":
                self._theirs.shutdown(socket.SHUT_RDWR)
                return
            try:
                if kind == "expect":
                    got = b""
                    while len(got) < len(data) and (more := self._theirs.recv(len(data) - len(got))):
                        got += more
                    if got != data:
                        self.wrong = got
                        return
                else:
                    for piece in [data[i : i + 1] for i in range(len(data))] if self._dribble else [data]:
                        self._theirs.sendall(piece)
                        if self._dribble:
                            time.sleep(0.0005)
            except OSError:
                return


def expect(data: bytes) -> Step:
    return "expect", data


def say(data: bytes) -> Step:
    return "say", data


END: Step = ("end", b"")
SOON = 5.0


def deadline(seconds: float = SOON) -> float:
    return time.monotonic() + seconds


def what_follows(sock: socket.socket) -> bytes:
    sock.settimeout(5)
    got = b""
    while len(got) < len(NEXT):
        got += sock.recv(100)
    return got


# -- it works, whatever the pieces, and takes nothing of what follows --------------------------------------

LOGIN = (expect(b"\x05\x02\x00\x02"), say(b"\x05\x02"), expect(b"\x01\x04name\x06sesame"), say(b"\x01\x00"))
GREETING = (expect(b"\x05\x01\x00"), say(b"\x05\x00"))
TO_NAME = expect(b"\x05\x01\x00\x03\x0bexample.org\x01\xbb")


@pytest.mark.parametrize("dribble", [False, True])
@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("example.org", b"\x03\x0bexample.org"),
        ("bücher.example", b"\x03\x15xn--bcher-kva.example"),
        ("192.0.2.1", b"\x01\xc0\x00\x02\x01"),
        ("2001:db8::1", b"\x04 \x01\x0d\xb8" + bytes(11) + b"\x01"),
    ],
)
@pytest.mark.parametrize(
    "bound", [b"\x01\x7f\0\0\x01\x04\xd2", b"\x04" + bytes(16) + b"\0\0", b"\x03\x03abc\0\x01"]
)
def test_socks5(host: str, asked: bytes, bound: bytes, dribble: bool) -> None:
    steps = (*GREETING, expect(b"\x05\x01\x00" + asked + b"\x01\xbb"), say(b"\x05\0\0" + bound + NEXT))
    with Proxy(*steps, dribble=dribble) as sock:
        socks5_connect(sock, host, 443, None, deadline())
        assert what_follows(sock) == NEXT


@pytest.mark.parametrize("accepts_anybody", [False, True])
def test_socks5_with_a_user(accepts_anybody: bool) -> None:
    login = (expect(b"\x05\x02\x00\x02"), say(b"\x05\x00")) if accepts_anybody else LOGIN
    with Proxy(*login, TO_NAME, say(b"\x05\0\0\x01" + bytes(6))) as sock:
        socks5_connect(sock, "example.org", 443, ("name", "sesame"), deadline())


@pytest.mark.parametrize("dribble", [False, True])
@pytest.mark.parametrize(
    ("host", "user", "asked"),
    [
        ("192.0.2.1", None, b"\x04\x01\x01\xbb\xc0\x00\x02\x01\0"),
        ("example.org", None, b"\x04\x01\x01\xbb\0\0\0\x01\0example.org\0"),
        ("example.org", "me", b"\x04\x01\x01\xbb\0\0\0\x01me\0example.org\0"),
    ],
)
def test_socks4a(host: str, user: str | None, asked: bytes, dribble: bool) -> None:
    with Proxy(expect(asked), say(b"\0Z" + bytes(6) + NEXT), dribble=dribble) as sock:
        socks4_connect(sock, host, 443, user, deadline())
        assert what_follows(sock) == NEXT


@pytest.mark.parametrize("dribble", [False, True])
@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200\r\nA: b\r\nC: d\r\n\r\n"])
@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("example.org", b"example.org:443"),
        ("192.0.2.1", b"192.0.2.1:443"),
        ("2001:db8::1", b"[2001:db8::1]:443"),
        ("bücher.example", b"xn--bcher-kva.example:443"),
    ],
)
def test_http(host: str, target: bytes, head: bytes, dribble: bool) -> None:
    asked = b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, target)
    with Proxy(expect(asked), say(head + NEXT), dribble=dribble) as sock:
        http_connect(sock, host, 443, [], deadline())
        assert what_follows(sock) == NEXT


def test_http_headers() -> None:
    asked = b"CONNECT a.test:80 HTTP/1.1\r\nhost: other.test\r\nX: 1\r\nX: 2\r\n\r\n"
    with Proxy(expect(asked), say(b"HTTP/1.1 299 Fine\r\n\r\n")) as sock:
        http_connect(sock, "a.test", 80, [("host", "other.test"), ("X", "1"), ("X", "2")], deadline())


# -- what goes wrong ---------------------------------------------------------------------------------------

User = tuple[str, str] | None


def by_socks5(sock: socket.socket, user: User = None, until: float | None = None) -> None:
    socks5_connect(sock, "example.org", 443, user, until or deadline())


def by_socks4(sock: socket.socket, user: User = None, until: float | None = None) -> None:
    socks4_connect(sock, "example.org", 443, None, until or deadline())


def by_http(sock: socket.socket, user: User = None, until: float | None = None) -> None:
    http_connect(sock, "example.org", 443, [], until or deadline())


ASK4 = expect(b"\x04\x01\x01\xbb\0\0\0\x01\0example.org\0")
ASK_HTTP = expect(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
SESAME = ("name", "sesame")
CLOSED = "it closed the connection instead of an answer"


@pytest.mark.parametrize(
    ("connect", "user", "steps", "message"),
    [
        (by_socks5, None, [GREETING[0], say(b"HT")], "it is no SOCKS 5 proxy"),
        (by_socks5, None, [GREETING[0], say(b"\x05\xff")], "it wants a username and a password"),
        (
            by_socks5,
            None,
            [GREETING[0], say(b"\x05\x02")],
            "it chose a way to log in that it wasn't offered (2)",
        ),
        (by_socks5, SESAME, [LOGIN[0], say(b"\x05\xff")], "it refused to log in"),
        (
            by_socks5,
            SESAME,
            [LOGIN[0], say(b"\x05\x01")],
            "it chose a way to log in that it wasn't offered (1)",
        ),
        (by_socks5, SESAME, [*LOGIN[:3], say(b"\x01\x01")], "it refused the username and password"),
        (by_socks5, None, [*GREETING, TO_NAME, say(b"\x05\x05\0\x01")], "it answered: connection refused"),
        (by_socks5, None, [*GREETING, TO_NAME, say(b"\x05\x63\0\x01")], "it answered: error 99"),
        (by_socks5, None, [*GREETING, TO_NAME, say(b"\x04\0\0\x01")], "it is no SOCKS 5 proxy"),
        (
            by_socks5,
            None,
            [*GREETING, TO_NAME, say(b"\x05\0\0\x02")],
            "its answer has an unknown type of address (2)",
        ),
        (by_socks5, None, [GREETING[0], END], CLOSED),
        (by_socks5, None, [*GREETING, TO_NAME, say(b"\x05\0\0\x01\0"), END], CLOSED),
        (by_socks4, None, [ASK4, say(b"\0\x5b" + bytes(6))], "it answered: refused or failed"),
        (by_socks4, None, [ASK4, say(b"\0\x00" + bytes(6))], "it answered: error 0"),
        (by_socks4, None, [ASK4, say(b"HTTP/1.1")], "it is no SOCKS 4 proxy"),
        (by_socks4, None, [ASK4, END], CLOSED),
        (by_http, None, [ASK_HTTP, say(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")], "it answered: 502 Bad Gateway"),
        (by_http, None, [ASK_HTTP, say(b"HTTP/1.1 407\r\nA: b\r\n\r\n")], "it answered: 407"),
        (by_http, None, [ASK_HTTP, say(b"HTTP/1.1 500 \x1b[31m\r\n\r\n")], "it answered: 500"),
        (by_http, None, [ASK_HTTP, say(b"SSH-2.0-x\r\n")], r"it is no HTTP proxy: 'SSH-2.0-x\r\n'"),
        (by_http, None, [ASK_HTTP, say(b"HTTP/2 200\r\n\r\n")], r"it is no HTTP proxy: 'HTTP/2 200\r\n\r\n'"),
        (by_http, None, [ASK_HTTP, say(b"HTTP/1.1 200"), END], CLOSED),
        (
            by_http,
            None,
            [ASK_HTTP, say(b"HTTP/1.1 200\r\nA: " + b"x" * 70_000)],
            "the head of its answer has no end",
        ),
    ],
)
def test_plain_errors(connect: Callable[..., None], user: User, steps: list[Step], message: str) -> None:
    with Proxy(*steps) as sock, pytest.raises(DialError) as caught:
        connect(sock, user)
    assert str(caught.value) == message
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("connect", [by_socks5, by_socks4, by_http])
def test_silence_ends_at_the_deadline(connect: Callable[..., None]) -> None:
    started = time.monotonic()
    with Proxy() as sock, pytest.raises(AnyTLSTimeout):
        connect(sock, None, started + 0.1)
    assert 0.09 < time.monotonic() - started < 0.3 + STARVED


def test_one_deadline_for_a_proxy_that_dribbles() -> None:
    answer = b"HTTP/1.1 200 OK\r\nX: " + b"y" * 5000
    started = time.monotonic()
    with Proxy(ASK_HTTP, say(answer), dribble=True) as sock, pytest.raises(AnyTLSTimeout):
        by_http(sock, None, started + 0.2)
    assert time.monotonic() - started < 0.5 + STARVED


def test_it_can_be_called_off() -> None:
    called_off = threading.Event()
    timer = threading.Timer(0.05, called_off.set)
    timer.start()
    started = time.monotonic()
    with Proxy() as sock, pytest.raises(DialError, match="^cancelled$"):
        socks5_connect(sock, "example.org", 443, None, None, called_off.is_set)
    assert time.monotonic() - started < 0.5 + STARVED
    timer.join()


def test_a_full_socket_is_waited_for(stack: ExitStack) -> None:
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    stack.enter_context(theirs)
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    with pytest.raises(AnyTLSTimeout):
        by_http(ours, None, time.monotonic() + 0.05)


def test_a_broken_connection(stack: ExitStack) -> None:
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    theirs.close()
    with pytest.raises(DialError, match="^the connection broke: Broken pipe$"):
        by_http(ours)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("host", ["", "x" * 64 + ".test", ".".join(["x" * 60] * 5), "a..b"])
def test_what_is_no_name(host: str) -> None:
    with Proxy(*GREETING) as sock, pytest.raises(DialError, match="is no host name"):
        socks5_connect(sock, host, 1, None, deadline())
    with Proxy() as sock, pytest.raises(DialError, match="is no host name"):
        http_connect(sock, host, 1, [], deadline())


def test_socks4_has_no_ipv6() -> None:
    with Proxy() as sock, pytest.raises(DialError, match="^SOCKS 4 can't carry an IPv6 address$"):
        socks4_connect(sock, "::1", 1, None, deadline())


@given(st.binary(max_size=40), st.sampled_from([by_socks5, by_socks4, by_http]))
def test_any_answer_is_an_error_of_ours_or_fine(answer: bytes, connect: Callable[..., None]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        try:
            connect(ours)
        except DialError:
            pass
