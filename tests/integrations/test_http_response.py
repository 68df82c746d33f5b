"""Heads read in one step: whatever comes, the response is what http.client makes of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.integrations import _http_response
from anytls_http.integrations._http_response import (
    HUGE_PIECE,
    LARGE_PIECE,
    MANY_HEADERS,
    PLAIN_HEAD,
    TunnelResponse,
)

NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Fri, 27 Nov 2026 08:00:00 GMT\r\nContent-Type: text/html\r\n"
    b'Content-Length: 4\r\nConnection: keep-alive\r\nETag: "6568-400"\r\nAccept-Ranges: bytes\r\n\r\n'
)


class _Pieces(io.RawIOBase):
    """A raw file that gives its bytes in pieces of ``size``, as a network does."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = memoryview(data)
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._data[: min(self._size, len(buffer))]
        buffer[: len(piece)] = piece
        self._data = self._data[len(piece) :]
        return len(piece)


class _Socket:
    def __init__(self, data: bytes, size: int) -> None:
        self._file = io.BufferedReader(_Pieces(data, size), 65536)

    def makefile(self, mode: str) -> io.BufferedReader:
        return self._file


def outcome(kind: type[HTTPResponse], data: bytes, size: int, method: str) -> dict[str, Any]:
    """Return all that a response of ``kind`` says after its head was read, and its body."""
    sock: Any = _Socket(data, size)
    response: Any = kind(sock, method=method)
    fp = response.fp
    try:
        response.begin()
    except (HTTPException, ConnectionError) as exc:
        return {"error": (type(exc), str(exc)), "rest": None if fp.closed else fp.read()}
    names = ("status", "code", "reason", "version", "chunked", "length", "will_close")
    said = {name: getattr(response, name) for name in names}
    message = response.msg
    said |= {
        "headers": message.items(),
        "same object": message is response.headers,
        "unparsed": (
            message.is_multipart(),
            [part.items() for part in message.walk()],
            message.get_unixfrom(),
        ),
        "payload": None if message.is_multipart() else message.get_payload(),
        "defects": [type(defect) for defect in message.defects],
    }
    try:
        said["body"] = response.read()
    except HTTPException as exc:
        said["body"] = repr(exc)
    return said


def check(data: bytes, size: int = 65536, method: str = "GET") -> dict[str, Any]:
    expected = outcome(HTTPResponse, data, size, method)
    assert outcome(TunnelResponse, data, size, method) == expected
    return expected


def heads(odd: bool) -> st.SearchStrategy[bytes]:
    """Return heads that are plain, nearly all, or with ``odd`` such that each part of them may be anything."""

    def part(
        usual: str, *others: bytes, also: st.SearchStrategy[bytes] | None = None
    ) -> st.SearchStrategy[bytes]:
        kinds = [st.sampled_from([text.encode() for text in usual.split("|")])]
        if odd:
            kinds += [kinds[0], st.sampled_from(others) if also is None else st.sampled_from(others) | also]
        return st.one_of(kinds)

    anything = st.binary(max_size=8)
    odd_value = (b"-1", b"+4", b"1_0", b"4, 4", b"9" * 5000, b"\xb2", b"a\r\n folded", b"From x", b"\t")
    end = part("\r\n", b"\n", b"\r", b"\r\r\n", b"")
    line = st.tuples(
        part("Content-Length|Transfer-Encoding|Connection|Content-Type|content-length|X", b"", b"a b", also=anything),
        part(": |:|:\t ", b" : ", b"", b"::"),
        part("4| 4 |0|chunked|Chunked|close|keep-alive, x|text/html|Multipart/mixed|message/rfc822|gzip, chunked||~",
             *odd_value, also=anything),
        end,
    )  # fmt: skip
    return st.tuples(
        part("HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2", b"ICY", b"http/1.1"),
        part(" ", b"\t", b"  "),
        part("200|204|304|404|999", b"100", b"101", b"199", b"99", b"1000", b"2 0", b"abc", b""),
        part(" OK|| Not  Found |  ", b"OK", also=anything),
        end,
        st.lists(line.map(b"".join), max_size=6).map(b"".join),
        end,
    ).map(b"".join)


class TestAsHTTPClient:
    @given(
        heads(odd=False) | heads(odd=True),
        st.sampled_from(["GET", "HEAD", "POST"]),
        st.sampled_from([1, 7, 65536]),
    )
    def test_any_head(self, head: bytes, method: str, size: int) -> None:
        check(head + b"4\r\nbody\r\n0\r\n\r\n", size, method)

    @given(st.binary(max_size=60))
    def test_any_bytes_after_a_plain_beginning(self, data: bytes) -> None:
        check(NGINX[:-2] + data)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("cut", range(0, len(NGINX) + 1, 7))
    def test_a_head_that_was_cut(self, cut: int, method: str) -> None:
        check(NGINX[:cut], method=method)

    @pytest.mark.parametrize("count", [MANY_HEADERS - 1, MANY_HEADERS, MANY_HEADERS + 1, 99, 100, 101])
    def test_many_headers(self, count: int) -> None:
        check(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(count)) + b"\r\n")

    @pytest.mark.parametrize("size", [65500, 65536, 70000])
    def test_a_long_line(self, size: int) -> None:
        check(b"HTTP/1.1 200 OK\r\nX: " + b"y" * size + b"\r\n\r\n")

    def test_an_interim_response_before_it(self) -> None:
        assert check(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" + NGINX + b"body")["body"] == b"body"

    def test_two_heads_at_once_leave_the_second(self) -> None:
        sock: Any = _Socket(NGINX + b"body" + NGINX, 65536)
        response = TunnelResponse(sock, method="GET")
        fp = response.fp
        response.begin()
        response.begin()  # it has begun: nothing to do
        assert (fp.read(4), fp.read()) == (b"body", NGINX)


class TestReads:
    @given(
        size=st.sampled_from([1, 1000, 16384, 40_000, 65536, 200_000]),
        reads=st.lists(st.sampled_from([None, 0, 1, 100, LARGE_PIECE - 1, LARGE_PIECE, 65536]), min_size=1),
        there=st.sampled_from([70_000, 100_000]),
        how=st.sampled_from(["Content-Length: 100000", "Transfer-Encoding: chunked", "X: until the end"]),
    )
    def test_any(self, size: int, reads: list[int | None], there: int, how: str) -> None:
        body = bytes(index % 251 for index in range(there))
        if "chunked" in how:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        data = f"HTTP/1.1 200 OK\r\n{how}\r\n\r\n".encode() + body

        def outcomes(kind: type[HTTPResponse]) -> Iterator[Any]:
            sock: Any = _Socket(data, size)
            response = kind(sock, method="GET")
            response.begin()
            for amt in reads:
                try:
                    yield response.read(amt), response.length, response.isclosed()
                except HTTPException as exc:
                    yield type(exc), str(exc)

        assert list(outcomes(TunnelResponse)) == list(outcomes(HTTPResponse))

    def test_large_pieces_are_not_copied_by_way_of_the_buffer(self) -> None:
        """Not even once a piece has come short, so that the next does not begin where a buffer would."""
        sock: Any = _Socket(b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + bytes(500_000), 65535)
        response = TunnelResponse(sock, method="GET")
        response.begin()
        fp = response.fp
        for _ in range(7):
            assert len(response.read(65536)) == 65536
        assert response.fp is fp
        taken = 500_000 - 7 * 65536
        assert len(fp.raw._data) == taken, "what is read ahead would be copied"

    def test_huge_pieces_are_not_joined(self) -> None:
        size = 3 * HUGE_PIECE + 1
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        sock: Any = _Socket(head + bytes(size), 65535)
        response = TunnelResponse(sock, method="GET")
        response.begin()
        with mock.patch.object(
            _http_response, "_with_the_rest", side_effect=AssertionError("pieces were joined")
        ):
            for _ in range(3):
                assert len(response.read(HUGE_PIECE)) == HUGE_PIECE
        assert response.read() == bytes(1)


class TestInOneStep:
    def test_it_is_not_http_client_who_reads_a_plain_head(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(HTTPResponse, "begin", lambda self: pytest.fail("http.client's parser was asked"))
        sock: Any = _Socket(NGINX + b"body", 65536)
        response = TunnelResponse(sock, method="GET")
        response.begin()
        assert (response.status, response.length, response.read()) == (200, 4, b"body")

    @pytest.mark.parametrize(
        "head",
        [
            NGINX,
            b"HTTP/1.1 304 Not Modified\r\n\r\n",
            b"HTTP/1.1 200 \r\nX:\r\n\r\n",
            b"HTTP/1.1 200\r\nset-cookie: a=b; Expires=Fri, 27 Nov 2026 08:00:00 GMT\r\nset-cookie: c=d\r\n\r\n",
        ],
    )
    def test_plain(self, head: bytes) -> None:
        assert PLAIN_HEAD.match(head + b"body")

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.0 200 OK\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: y\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: \xe4\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n: y\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-TYPE:\tMultipart/mixed\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: y\r\n",
        ],
    )
    def test_not_plain(self, head: bytes) -> None:
        assert not PLAIN_HEAD.match(head)

    def test_a_crowd_of_headers_is_matched_in_linear_time(self) -> None:
        # Each of these could be the start of what the pattern refuses in the end.
        head = b"HTTP/1.1 200 OK\r\n" + b"Content-Type: text/plain\r\n" * 2600 + b"X: \xff\r\n\r\n"
        assert not PLAIN_HEAD.match(head)
        assert _http_response.MAX_DIGITS < 4300  # sys.int_info.default_max_str_digits
