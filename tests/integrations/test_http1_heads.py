"""Heads that are plain: what is sent and taken is what h11 would send and take."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from h11._connection import _body_framing, _keep_alive  # what the public events don't tell
from hypothesis import example, given
from hypothesis import strategies as st

from anytls_http.integrations._http1_heads import MAX_DIGITS, plain_request, plain_response
from tests.support.timing import uses_cpu

Headers = list[tuple[bytes, bytes]]

HOST = (b"Host", b"www.test")
ANYTHING = st.binary(max_size=8)
#: What somebody might smuggle a line with, or hide one from somebody else.
INJECTIONS = [
    b"\r\n", b"\n", b"\r", b"\r\nX: y", b"\nX: y", b"\r\n folded", b"\r\n\r\n", b"\0", b"\t", b" ", b"\x0b", b"\x0c",
    b"\x1c", b"\x7f", b"\x85", b"\xa0", b"\xe4", b":", b": ", b": y", b",", b"a b",
]  # fmt: skip
LENGTHS = [
    b"+1", b"-1", b"1_0", b" 1", b"1 ", b"", b"1, 1", b"1,1", b"1, 2", b"1,", b"0x1", b"1e1", b"\xb2", b"\xd9\xa1",
    b"9" * MAX_DIGITS, b"9" * (MAX_DIGITS + 1), b"9" * 21, b"9" * 5000, b"0" * MAX_DIGITS + b"1", b"01",
]  # fmt: skip


def injected(*usual: bytes) -> st.SearchStrategy[bytes]:
    """Return one of ``usual`` with something before, within or after it."""
    return st.builds(
        lambda text, at, odd: text[:at] + odd + text[at:],
        st.sampled_from(usual),
        st.integers(0, 12),
        st.sampled_from(INJECTIONS) | ANYTHING,
    )


# -- requests ------------------------------------------------------------------------------------------------


def h11_request(method: bytes, target: bytes, headers: Headers) -> tuple[bytes, h11.Connection] | None:
    """Return the head as h11 sends it, and its connection, which expects the body; None where h11 refuses it."""
    connection = h11.Connection(h11.CLIENT)
    try:
        return connection.send(h11.Request(method=method, target=target, headers=headers)), connection
    except h11.LocalProtocolError:
        return None


def check_request(method: bytes, target: bytes, headers: Headers) -> bool:
    """Compare with h11; return whether it is plain."""
    plain = plain_request(method, target, headers)
    if plain is None:
        return False
    expected = h11_request(method, target, headers)
    assert expected is not None, f"h11 refuses what is sent as {plain.head!r}"
    head, connection = expected
    assert plain.head == head
    # h11 asks of what it passes through for its length only: it raises where that is not what it expects.
    body: Any = range(plain.length)
    assert connection.send_with_data_passthrough(h11.Data(data=body)) == [body]
    assert connection.send(h11.EndOfMessage()) == b""
    assert connection.our_state is (h11.DONE if plain.keeps else h11.MUST_CLOSE)
    return True


PLAIN_NAMES = st.sampled_from(
    [b"Accept", b"User-Agent", b"x", b"Content-Type", b"Cookie", b"!#$%&'*+-.^_`|~09"]
)
PLAIN_VALUES = st.sampled_from(
    [b"*/*", b"", b"a b", b"a\tb", b'text/html; q="0.1", */*', b"a: b", b"~!", b"close"]
)
PLAIN_HEADERS = st.lists(
    st.tuples(PLAIN_NAMES, PLAIN_VALUES)
    | st.tuples(
        st.sampled_from([b"Connection", b"CONNECTION"]), st.sampled_from([b"close", b"Keep-Alive", b"Close"])
    ),
    max_size=5,
)
LENGTH_HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"Content-Length", b"content-length"]),
        st.sampled_from([b"0", b"5", b"0012", b"99999"]),
    ),
    max_size=1,
)
ODD_HEADERS = st.lists(
    st.one_of(
        st.just(HOST),
        st.tuples(st.sampled_from([b"Host", b"hOST"]), injected(b"www.test", b"")),
        st.tuples(injected(b"Host", b"X-Y", b"Connection", b"Content-Length", b""), PLAIN_VALUES),
        st.tuples(PLAIN_NAMES, injected(b"value", b"a b", b"")),
        st.tuples(st.sampled_from([b"Content-Length", b"content-length"]), st.sampled_from([b"1", b"1", *LENGTHS])),
        st.tuples(st.just(b"Connection"), st.sampled_from([b"close, x", b"x,close", b"keep-alive, TE", b"", b","])),
        st.tuples(st.just(b"Transfer-Encoding"), st.sampled_from([b"chunked", b"Chunked", b"gzip, chunked", b""])),
        st.sampled_from([(b"Upgrade", b"websocket"), (b"Expect", b"100-continue"), (b"expect", b""), (b"TE", b"")]),
        st.tuples(PLAIN_NAMES, PLAIN_VALUES),
    ),
    max_size=4,
)  # fmt: skip


class TestRequestAsH11:
    @given(
        st.sampled_from([b"GET", b"HEAD", b"POST", b"get", b"X-!"]), PLAIN_HEADERS, LENGTH_HEADERS, st.data()
    )
    def test_a_plain_one(
        self, method: bytes, headers: Headers, lengths: Headers, data: st.DataObject
    ) -> None:
        every = [HOST, *data.draw(st.permutations([*headers, *lengths]))]
        assert check_request(method, b"/path?a=b", every)

    @given(
        st.sampled_from([b"GET", b"HEAD", b"POST", b"CONNECT"]) | injected(b"GET", b"HEAD", b""),
        st.sampled_from([b"/", b"*", b"http://a/b", b"a:443"]) | injected(b"/path", b""),
        ODD_HEADERS,
        ODD_HEADERS,
    )
    def test_any(self, method: bytes, target: bytes, before: Headers, after: Headers) -> None:
        check_request(method, target, [*before, HOST, *after])
        check_request(method, target, [*before, *after])

    @example(b"X: a", b"b")  # would be sent as "X: a: b"
    @given(injected(b"X-Y", b"Content-Length", b"Connection") | ANYTHING, PLAIN_VALUES | ANYTHING)
    def test_any_header(self, name: bytes, value: bytes) -> None:
        check_request(b"GET", b"/", [HOST, (name, value)])

    @given(st.sampled_from(INJECTIONS), st.sampled_from(["", "before", "after", "within"]))
    def test_injections_anywhere(self, odd: bytes, where: str) -> None:
        def with_odd(text: bytes) -> bytes:
            at = {"": 0, "before": 0, "after": len(text), "within": 2}[where]
            return text[:at] + odd + text[at:] if where else odd

        check_request(with_odd(b"GET"), b"/", [HOST])
        check_request(b"GET", with_odd(b"/path"), [HOST])
        check_request(b"GET", b"/", [(with_odd(b"Host"), b"www.test")])
        check_request(b"GET", b"/", [(b"Host", with_odd(b"www.test"))])
        check_request(b"GET", b"/", [HOST, (with_odd(b"X-Y"), b"value")])
        check_request(b"GET", b"/", [HOST, (b"X-Y", with_odd(b"value")), (b"Z", b"")])


@pytest.mark.parametrize(
    "name", [b"X: a", b"X:", b"X: ", b"Content-Length: 5", b"Connection: close,", b":", b"X :"]
)
def test_a_name_with_a_colon_is_not_plain(name: bytes) -> None:
    assert h11_request(b"GET", b"/", [HOST, (name, b"b")]) is None
    assert plain_request(b"GET", b"/", [HOST, (name, b"b")]) is None


def test_a_host_whose_name_has_a_colon_is_not_plain() -> None:
    assert plain_request(b"GET", b"/", [(b"Host: a", b"b")]) is None


class TestPlainRequests:
    @pytest.mark.parametrize(
        ("headers", "length", "keeps"),
        [
            ([HOST], 0, True),
            ([(b"hOST", b"")], 0, True),
            ([HOST, (b"Content-Length", b"0012")], 12, True),
            ([HOST, (b"content-length", b"9" * MAX_DIGITS)], 10**MAX_DIGITS - 1, True),
            ([HOST, (b"Connection", b"keep-alive"), (b"connection", b"Close")], 0, False),
            ([HOST, (b"X", b""), (b"Y", b"a\t \tb")], 0, True),
        ],
    )
    def test_plain(self, headers: Headers, length: int, keeps: bool) -> None:
        plain = plain_request(b"POST", b"/", headers)
        assert plain is not None
        assert (plain.length, plain.keeps) == (length, keeps)
        assert check_request(b"POST", b"/", headers)

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [(b"X", b"y")],
            [(b"X", b"y"), HOST],  # h11 would send Host first
            [HOST, HOST],
            [HOST, (b"host", b"other.test")],
            [HOST, (b"Transfer-Encoding", b"chunked")],
            [HOST, (b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")],
            [HOST, (b"Expect", b"100-continue")],
            [HOST, (b"Connection", b"close, x")],
            [HOST, (b"Content-Length", b"1"), (b"Content-Length", b"1")],
            [HOST, (b"X", b"\xe4")],
            [HOST, (b"X", b"a\r\n b")],
            [HOST, (b"X", b"a\r\nY: b")],
            [HOST, (b"", b"a")],
        ],
    )
    def test_not_plain(self, headers: Headers) -> None:
        assert plain_request(b"GET", b"/", headers) is None

    @pytest.mark.parametrize("value", [value for value in LENGTHS if value not in (b"01", b"9" * MAX_DIGITS)])
    def test_an_odd_length_is_not_plain(self, value: bytes) -> None:
        assert plain_request(b"GET", b"/", [HOST, (b"Content-Length", value)]) is None

    def test_connect_is_not_plain(self) -> None:
        assert plain_request(b"CONNECT", b"www.test:443", [HOST]) is None

    @pytest.mark.parametrize("odd", [odd for odd in INJECTIONS if odd not in (b":", b",")])
    def test_an_injection_is_not_plain(self, odd: bytes) -> None:
        assert plain_request(b"GET" + odd, b"/", [HOST]) is None
        assert plain_request(b"GET", b"/" + odd, [HOST]) is None
        assert plain_request(b"GET", b"/", [HOST, (b"X" + odd, b"y")]) is None
        if odd not in (b": y", b"a b"):
            assert plain_request(b"GET", b"/", [HOST, (b"X", b"y" + odd)]) is None


# -- responses -----------------------------------------------------------------------------------------------


def h11_response(data: bytes, method: bytes) -> tuple[h11.Response, int] | str:
    """Return the response that h11 finds at the beginning of ``data``, and the size of its head; else what it says."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * 1024)
    connection.send(h11.Request(method=method, target="/", headers=[HOST]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as exc:
        return str(exc)
    if isinstance(event, h11.Response):
        return event, len(data) - len(connection.trailing_data[0])
    return repr(event)


def check_response(data: bytes, method: bytes = b"GET") -> bool:
    """Compare with h11; return whether it is plain."""
    plain = plain_response(data, method)
    if plain is None:
        return False
    expected = h11_response(data, method)
    assert not isinstance(expected, str), f"h11 says of what is taken: {expected}"
    event, size = expected
    assert (plain.status, plain.reason, plain.headers) == (
        event.status_code,
        event.reason,
        event.headers.raw_items(),
    )
    assert plain.size == size
    assert (event.http_version, plain.keeps) == (b"1.1", _keep_alive(event))
    framing = ("chunked", ()) if plain.length is None else ("content-length", (plain.length,))
    assert _body_framing(method, event) == framing
    return True


NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Fri, 27 Nov 2026 08:00:00 GMT\r\nContent-Type: text/html\r\n"
    b'Content-Length: 4\r\nConnection: keep-alive\r\nETag: "6568-400"\r\nAccept-Ranges: bytes\r\n\r\n'
)
SPACE = st.sampled_from([b"", b" ", b"  ", b"\t", b" \t"])
ODD_ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n", b"\r\n ", b""])


def lines(
    *kinds: tuple[st.SearchStrategy[bytes], st.SearchStrategy[bytes]], most: int
) -> st.SearchStrategy[bytes]:
    """Return up to ``most`` header lines, each of one of ``kinds``, a name and a value."""
    return st.lists(
        st.one_of(
            [
                st.tuples(name, st.just(b":"), SPACE, value, SPACE, st.just(b"\r\n")).map(b"".join)
                for name, value in kinds
            ]
        ),
        max_size=most,
    ).map(b"".join)


ORDINARY = (PLAIN_NAMES, PLAIN_VALUES)
CONNECTION = (
    st.sampled_from([b"Connection", b"connection"]),
    st.sampled_from(
        [b"close", b"keep-alive", b"a, Close ,b", b"closed", b"", b",", b"close\t,", b"not close"]
    ),
)
NEARLY_PLAIN = st.tuples(
    st.sampled_from([b"HTTP/1.1 "]),
    st.sampled_from([b"200", b"204", b"304", b"404", b"999"]),
    st.sampled_from([b" OK", b"", b" ", b"  Not  Found ", b" \t"]),
    st.just(b"\r\n"),
    lines(ORDINARY, CONNECTION, most=3),
    lines(
        (st.sampled_from([b"Content-Length", b"CONTENT-length"]), st.sampled_from([b"4", b"0", b"004", *LENGTHS])),
        (st.sampled_from([b"Transfer-Encoding", b"transfer-encoding"]), st.sampled_from([b"chunked", b"Chunked"])),
        most=2,
    ),
    lines(ORDINARY, CONNECTION, most=2),
    st.just(b"\r\n"),
).map(b"".join)  # fmt: skip
ODD = st.tuples(
    st.sampled_from([b"HTTP/1.1"] * 3 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2", b"http/1.1", b"ICY", b"\nHTTP/1.1"]),
    st.sampled_from([b" ", b" ", b"  ", b"\t", b""]),
    st.sampled_from([b"200", b"200", b"204", b"304", b"100", b"101", b"199", b"99", b"1000", b"2 0", b"abc", b""]),
    st.sampled_from([b" OK", b""]) | injected(b" OK"),
    ODD_ENDS,
    st.lists(
        st.tuples(
            st.sampled_from([b"X", b"Content-Length", b"Transfer-Encoding", b"Connection"]) | injected(b"X-Y", b""),
            st.sampled_from([b":", b": ", b":\t ", b" :", b"", b"::", b":\x0b"]),
            st.sampled_from([b"4", b"chunked", b"gzip, chunked", b"close", b"a, close"]) | injected(b"y", b"", b"4"),
            ODD_ENDS,
        ).map(b"".join),
        max_size=4,
    ).map(b"".join),
    ODD_ENDS,
).map(b"".join)  # fmt: skip


class TestResponseAsH11:
    @example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", b"GET", b"")
    @given(NEARLY_PLAIN, st.sampled_from([b"GET", b"HEAD", b"POST"]), st.sampled_from([b"", b"body", NGINX]))
    def test_a_nearly_plain_head(self, head: bytes, method: bytes, after: bytes) -> None:
        check_response(head + after, method)

    @given(ODD, st.sampled_from([b"GET", b"HEAD"]))
    def test_any_head(self, head: bytes, method: bytes) -> None:
        check_response(head + b"4\r\nbody\r\n0\r\n\r\n", method)

    @given(
        st.integers(0, len(NGINX)), st.sampled_from(INJECTIONS) | ANYTHING, st.sampled_from([b"GET", b"HEAD"])
    )
    def test_a_head_with_something_in_it(self, at: int, odd: bytes, method: bytes) -> None:
        check_response(NGINX[:at] + odd + NGINX[at:] + b"body", method)

    @given(ANYTHING)
    def test_any_bytes_after_a_plain_beginning(self, data: bytes) -> None:
        check_response(NGINX[:-2] + data)
        check_response(NGINX + data)

    @pytest.mark.parametrize("method", [b"GET", b"HEAD"])
    @pytest.mark.parametrize("value", [b"4", *LENGTHS])
    def test_lengths(self, value: bytes, method: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n" % value
        check_response(head + b"\r\n", method)
        check_response(head + head[17:] + b"\r\n", method)
        check_response(head + b"Content-Length: 4\r\n\r\n", method)
        check_response(head + b"Transfer-Encoding: chunked\r\n\r\n", method)

    def test_a_head_that_was_cut_is_not_plain(self) -> None:
        assert check_response(NGINX)
        for cut in range(len(NGINX)):
            assert plain_response(NGINX[:cut], b"GET") is None


class TestPlainResponses:
    @pytest.mark.parametrize("method", [b"GET", b"HEAD"])
    @pytest.mark.parametrize(
        "head",
        [
            NGINX,
            b"HTTP/1.1 304 Not Modified\r\n\r\n",
            b"HTTP/1.1 204\r\nConnection:close\r\n\r\n",
            b"HTTP/1.1 200 \r\nX:\r\ncontent-length:\t0 \r\n\r\n",
            b"HTTP/1.1 200\r\nset-cookie: a=b\r\nset-cookie: c=d\r\nTRANSFER-encoding: chunked\r\n\r\n",
        ],
    )
    def test_plain(self, head: bytes, method: bytes) -> None:
        assert check_response(head + b"after", method)

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\n\r\n",  # ends with the connection
            b"HTTP/1.0 204 No Content\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 204 No Content\n\n",
            b"HTTP/1.1 204 No Content\r\nX: y\r\n z\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\nX : y\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\nX: \xe4\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\nX: a\0b\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\nX: a\rb\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"\r\nHTTP/1.1 204 No Content\r\n\r\n",
            b"",
        ],
    )
    def test_not_plain(self, head: bytes) -> None:
        assert plain_response(head, b"GET") is None


# -- hostile heads -------------------------------------------------------------------------------------------

BEGIN = b"HTTP/1.1 200 OK\r\n"
ENDS = [b"", b"\r\n", b"\x01\r\n\r\n", b"X\r\n\r\n", b"Content-Length: 4\r\n\r\n"]
MUCH = 60_000  # bytes
#: Each test takes more and more of what is hostile, so that the first step that is slow ends it.
GROWING = [1000, 4000, 8000, 15_000, 30_000, MUCH]


class TestHostileHeadsInLinearTime:
    """What takes the square of the size takes seconds, what tries all combinations does not end."""

    def check(self, head: bytes) -> None:
        with uses_cpu(1):
            plain_response(head, b"GET")

    @pytest.mark.parametrize(
        "line", [b"X: \r\n", b"X:\t\r\n", b"X:\r\n", b"X: y \r\n", b"X:  y\r\n", b"X: y\ty\r\n"]
    )
    def test_a_few_lines(self, line: bytes) -> None:
        # Were there two ways to read each of them, 40 would make 10**12 combinations.
        for count in range(4, 41, 2):
            for end in ENDS:
                self.check(BEGIN + line * count + end)

    @pytest.mark.parametrize(
        "line", [b"X:\r\n", b"X: y\r\n", b"Connection: x\r\n", b"Content-Length: 4\r\n", b"X: y y \r\n"]
    )
    def test_many_lines(self, line: bytes) -> None:
        for size in GROWING:
            for end in ENDS:
                self.check(BEGIN + line * (size // len(line)) + end)

    @pytest.mark.parametrize("part", [b" ", b"\t", b"a", b"a ", b" a", b":", b": ", b",", b"close,"])
    def test_one_long_line(self, part: bytes) -> None:
        for size in GROWING:
            for name in (b"X:", b"X", b"Connection:", b"Content-Length: ", b""):
                for end in ENDS:
                    self.check(BEGIN + name + part * (size // len(part)) + end)

    @pytest.mark.parametrize("part", [b" ", b"a", b"a ", b"\r", b"\r\n"])
    def test_a_long_status_line(self, part: bytes) -> None:
        self.check(b"HTTP/1.1 200 " + part * (MUCH // len(part)) + b"\x01")

    @pytest.mark.parametrize(
        "part", [b" ", b"\t", b"a", b"a ", b": ", b"a: b", b"\r\n", b"\r\nX: y", b"\r\nX: "]
    )
    def test_requests(self, part: bytes) -> None:
        for size in GROWING:
            much = part * (size // len(part))
            for end in (b"", b"\x01"):
                with uses_cpu(1):
                    plain_request(b"GET" + much + end, b"/", [HOST])
                    plain_request(b"GET", b"/" + much + end, [HOST])
                    plain_request(b"GET", b"/", [(b"Host", much + end)])
                    plain_request(b"GET", b"/", [HOST, (b"X" + much + end, b"y")])
                    plain_request(b"GET", b"/", [HOST, (b"X", b"y" + much + end)])
                    plain_request(b"GET", b"/", [HOST, *[(b"X", part)] * (size // 10), (b"X", end)])
