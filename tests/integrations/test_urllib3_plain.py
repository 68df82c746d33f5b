"""Plain requests in one step: what is on the wire, and what the response says, is what urllib3 makes of it."""

from __future__ import annotations

import copy
import gzip
import io
import pickle
import ssl
from collections.abc import Iterator
from http.client import CannotSendRequest, HTTPException, HTTPMessage, IncompleteRead
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError
from urllib3.util import SKIP_HEADER

from anytls_http.integrations import _http_response
from anytls_http.integrations._http1_heads import SMALL_BODY
from anytls_http.integrations._http_response import PlainMessage
from anytls_http.integrations._urllib3_plain import PlainHTTPConnection

USUAL = {"User-Agent": "x/1", "Accept-Encoding": "gzip, deflate", "Accept": "*/*", "Connection": "keep-alive"}
OK = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 4\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\n\r\nbody"


class Answer(io.BytesIO):
    """What is said, of which a file may be told how to read it (``room``)."""


class Sock:
    """A socket that keeps what is sent, and answers with ``answer``."""

    def __init__(self, answer: bytes = b"") -> None:
        self.sent: list[bytes] = []
        self.answer = Answer(answer)
        self.timeouts: list[Any] = []
        self.closed = False

    def sendall(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def settimeout(self, timeout: Any) -> None:
        self.timeouts.append(timeout)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self.answer)  # type: ignore[arg-type]

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Untouched(PlainHTTPConnection):
    """Fails where a request is left to urllib3."""

    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        pytest.fail("the request was left to urllib3")


def connected(kind: type[HTTPConnection], sock: Sock, host: str = "target.test", port: int = 80) -> Any:
    connection = kind(host, port)
    connection.sock = sock  # type: ignore[assignment]
    return connection


def sent(kind: type[HTTPConnection], host: str, port: int, *args: Any, **kwargs: Any) -> Any:
    """Return what a request puts on the wire, or the error that it is."""
    sock = Sock()
    try:
        connected(kind, sock, host, port).request(*args, **kwargs)
    except Exception as exc:
        return type(exc), str(exc)
    return b"".join(sock.sent)


def check(method: str, url: str, host: str = "target.test", port: int = 80, **kwargs: Any) -> Any:
    """Compare the two on a request; bodies are made anew for each by ``body()``."""
    body = kwargs.pop("body", lambda: None)
    expected = sent(HTTPConnection, host, port, method, url, body(), **kwargs)
    assert sent(PlainHTTPConnection, host, port, method, url, body(), **kwargs) == expected
    return expected


NAMES = st.sampled_from(
    ["Host", "host", "Accept", "X", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Expect"]
    + ["User-Agent", "accept-encoding", "X y", "X:", "", "\xe4", "X\n"]
)
VALUES = st.sampled_from(
    ["", "x", " x", "x ", "a b", "a: b", "4", "0", "+4", "chunked", "close", "Close", "keep-alive, x", "\t"]
    + ["\xe4", "\u20ac", "a\r\nb: c", "a\nb", "a\r\n b", "\x00", SKIP_HEADER]
)


class TestRequests:
    @given(
        st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "get", "G T", "CONNECT", "X\r\n", "\xe4"]),
        st.sampled_from(["/", "/a?b=c", "/\xe4", "/a b", "", "http://else.test/x", "*", "/\x7f", "//x"]),
        st.booleans(),
        st.dictionaries(NAMES, VALUES, max_size=3),
        st.sampled_from([None, b"", b"body", "text", "b\xf6dy", 4, [b"a", b"b"]]),
        st.booleans(),
    )
    def test_any(
        self, method: str, url: str, usual: bool, headers: dict[str, str], body: Any, chunked: bool
    ) -> None:
        everything = {**USUAL, **headers} if usual else headers
        check(method, url, headers=everything, body=lambda: body, chunked=chunked)

    @given(st.dictionaries(st.text(max_size=6), st.text(max_size=12), max_size=4))
    def test_any_headers(self, headers: dict[str, str]) -> None:
        check("GET", "/", headers={**USUAL, **headers})

    @pytest.mark.parametrize(
        ("host", "port"),
        [
            ("target.test", 80),
            ("target.test", 8080),
            ("target.test.", 80),
            ("::1", 80),
            ("[::1]", 81),
            ("fe80::1%eth0", 80),
        ],
    )
    @pytest.mark.parametrize("headers", [USUAL, None, {**USUAL, "Host": "other.test"}])
    def test_hosts(self, host: str, port: int, headers: Any) -> None:
        assert b"Host: " in check("GET", "/", host, port, headers=headers)

    @pytest.mark.parametrize(
        "url", ["http://else.test/x", "http://[::1]:8/x", "httpx", "*", "", "//x", "/a b", "x"]
    )
    def test_urls(self, url: str) -> None:
        check("GET", url, headers=USUAL)

    @pytest.mark.parametrize("length", [None, "4", "5", "0"])
    @pytest.mark.parametrize("body", [None, b"body", b"", bytearray(b"body"), "body"])
    @pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PATCH"])
    def test_lengths(self, method: str, body: Any, length: str | None) -> None:
        headers = USUAL if length is None else {**USUAL, "Content-Length": length}
        check(method, "/", headers=headers, body=lambda: body)

    def test_files_and_generators(self) -> None:
        def pieces() -> Iterator[bytes]:
            yield b"a"
            yield b""
            yield b"bc"

        check("POST", "/", headers={**USUAL, "Content-Length": "3"}, body=lambda: io.BytesIO(b"abc"))
        assert b"0\r\n\r\n" in check("POST", "/", headers=USUAL, body=pieces)

    def test_names_and_values_of_bytes(self) -> None:
        check("GET", "/", headers={**USUAL, b"X": b"y"})
        check("GET", "/", headers={**USUAL, "X": b"y"})

    @pytest.mark.parametrize(("size", "writes"), [(0, 1), (SMALL_BODY, 1), (SMALL_BODY + 1, 2)])
    def test_a_small_body_leaves_with_the_head(self, size: int, writes: int) -> None:
        sock = Sock()
        connection = connected(Untouched, sock)
        connection.timeout = 7
        connection.request("POST", "/", bytes(size), {**USUAL, "Content-Length": str(size)})
        assert len(sock.sent) == writes
        assert sock.timeouts == [7]
        assert b"".join(sock.sent).endswith(b"\r\n\r\n" + bytes(size))

    def test_a_new_connection_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sock = Sock()
        connection = Untouched("target.test")
        monkeypatch.setattr(connection, "connect", lambda: setattr(connection, "sock", sock))
        connection.request("GET", "/", headers=USUAL)
        assert sock.sent[0].startswith(b"GET / HTTP/1.1\r\nHost: target.test\r\nUser-Agent: x/1\r\n")


def told(kind: type[HTTPConnection], answer: bytes, method: str) -> dict[str, Any]:
    """Return all that the response says, and what becomes of the connection."""
    connection = connected(kind, Sock(answer))
    connection.request(
        method, "/x", headers=USUAL, preload_content=False, decode_content=False, enforce_content_length=True
    )
    try:
        response = connection.getresponse()
    except (HTTPException, HTTPError, ConnectionError) as exc:
        return {"error": (type(exc), str(exc)), "sock": connection.sock is None}
    names = (
        "status",
        "version",
        "version_string",
        "reason",
        "decode_content",
        "enforce_content_length",
        "url",
        "length_remaining",
    )
    said = {name: getattr(response, name, None) for name in names}
    said["kept"] = connection.sock is not None
    said["headers"] = list(response.headers.iteritems())
    said["cookies"] = response._original_response.msg.get_all("Set-Cookie")
    try:
        said["body"] = response.read()
    except (HTTPException, HTTPError) as exc:
        said["body"] = type(exc)
    said["closed"] = response._original_response.isclosed()
    return said


#: The ways to read a response, a stream piece by piece among them; ``read1`` is younger than others.
READS = [
    name
    for name in ("read", "read1", "stream", "next piece", "data", "readinto", "drain_conn")
    if name == "next piece" or hasattr(HTTPResponse, name)
]
#: And the sizes that it takes: older ones loop for ever for some.
SIZES = [None, -1, 0, 1, 3, 100] if "read1" in READS else [None, 1, 3, 100]


class TestResponses:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        "answer",
        [
            OK,
            OK[:-2],
            OK[:20],
            b"",
            OK.replace(b"Server: x", b"Connection: close"),
            OK.replace(b"Server: x", b"X: a\r\n b"),
            OK.replace(b"Server: x", b"X: \xe4"),
            OK.replace(b"Server: x", b"no header"),
            OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
            OK.replace(b"Content-Length: 4", b"Content-Length: 4, 5"),
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
            b"nonsense\r\n\r\n",
        ],
    )
    def test_the_same(self, answer: bytes, method: str) -> None:
        assert told(PlainHTTPConnection, answer, method) == told(HTTPConnection, answer, method)

    @example([("stream", 1, None)], b"", False, 1)
    @example([("drain_conn", None, None), ("stream", 1, None)], b"", False, 1)
    @example([("next piece", 10, None)] * 3, b"", False, 1)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(READS),
                st.sampled_from(SIZES),
                st.sampled_from([None, False, True]),
            ),
            max_size=6,
        ),
        st.sampled_from([b"", b"Content-Encoding: gzip\r\n", b"Content-Encoding: identity\r\n"]),
        st.booleans(),
        st.sampled_from([1, _http_response.LARGE_PIECE]),
    )
    def test_any_reads(
        self, reads: list[tuple[str, Any, Any]], encoding: bytes, is_whole: bool, large: int
    ) -> None:
        body = gzip.compress(b"the body of it", mtime=0) if b"gzip" in encoding else b"the body of it"
        length = len(body) + (0 if is_whole else 3)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (length, encoding, body)

        def outcomes(kind: type[HTTPConnection]) -> Iterator[Any]:
            connection = connected(kind, Sock(answer))
            connection.request("GET", "/x", headers=USUAL, preload_content=False)
            response = connection.getresponse()
            # Only where it thinks that it decodes does urllib3 drop what came before an early end.
            drops = not is_whole and not encoding
            if drops:
                response.decode_content = False
            steps: Iterator[bytes] | None = None
            for act, size, decodes in reads:
                if drops:
                    decodes = False
                try:
                    if act == "data":
                        yield response.data
                    elif act == "drain_conn":
                        response.drain_conn()
                    elif act == "next piece":
                        steps = response.stream(size, decodes) if steps is None else steps
                        yield next(steps, "the end")
                    elif act == "readinto":
                        buffer = bytearray(size if size and size > 0 else 2)
                        yield response.readinto(buffer), bytes(buffer)
                    else:
                        told = getattr(response, act)(size, decodes)
                        yield list(told) if act == "stream" else told
                except (HTTPException, HTTPError, RuntimeError) as exc:
                    yield type(exc)
                    return  # whoever reads on may do so for ever: urllib3's buffer is never empty then
                yield response.tell(), response.length_remaining, response.isclosed(), response.closed

        with mock.patch.object(_http_response, "LARGE_PIECE", large):
            assert list(outcomes(PlainHTTPConnection)) == list(outcomes(HTTPConnection))

    @pytest.mark.parametrize(
        "error",
        [
            TimeoutError("late"),
            ssl.SSLError("broken"),
            ConnectionResetError("reset"),
            IncompleteRead(b"", 3),
            HTTPException("odd"),
            KeyboardInterrupt(),
            ValueError("a bug"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_errors_between_two_pieces(self, error: BaseException) -> None:
        def outcome(kind: type[HTTPConnection]) -> tuple[Any, ...]:
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + bytes(50)
            connection = connected(kind, Sock(answer))
            connection.request("GET", "/x", headers=USUAL, preload_content=False)
            response = connection.getresponse()
            assert response.read(10) == bytes(10)
            original = response._original_response
            with (
                mock.patch.object(original, "read", side_effect=error),
                pytest.raises(BaseException) as caught,
            ):
                response.read(10)
            raised = caught.value
            chain = [(type(each), str(each)) for each in (raised, raised.__cause__, raised.__context__)]
            return chain, response.tell(), response.length_remaining, original.isclosed(), response.closed

        assert outcome(PlainHTTPConnection) == outcome(HTTPConnection)

    def test_who_listens_to_the_body_hears_all_of_it(self) -> None:
        """As CacheControl does, in whose cache the body ends so."""

        class Listening:
            def __init__(self, fp: Any) -> None:
                self._fp = fp
                self.heard = b""

            def __getattr__(self, name: str) -> Any:
                return getattr(self._fp, name)

            def read(self, amt: int | None = None) -> bytes:
                data: bytes = self._fp.read(amt)
                self.heard += data
                return data

        connection = connected(PlainHTTPConnection, Sock(OK))
        connection.request("GET", "/x", headers=USUAL, preload_content=False)
        response = connection.getresponse()
        listening = Listening(response._fp)
        response._fp = listening
        assert [response.read(1) for _ in range(4)] == [b"b", b"o", b"d", b"y"]
        assert listening.heard == b"body"

    def test_who_has_put_a_read_of_their_own_is_asked_for_each_piece(self) -> None:
        connection = connected(PlainHTTPConnection, Sock(OK))
        connection.request("GET", "/x", headers=USUAL, preload_content=False)
        response = connection.getresponse()
        with mock.patch.object(response, "read", wraps=response.read) as read:
            assert list(response.stream(3)) == [b"bod", b"y"]
        assert [call.kwargs["amt"] for call in read.call_args_list] == [3, 3]

    def test_what_was_read_in_pieces_is_not_kept_as_data(self) -> None:
        def outcome(kind: type[HTTPConnection]) -> tuple[bytes, ...]:
            connection = connected(kind, Sock(OK))
            connection.request("GET", "/x", headers=USUAL, preload_content=False)
            response = connection.getresponse()
            return response.read(2), response.data, response.data

        assert outcome(PlainHTTPConnection) == outcome(HTTPConnection)

    def test_one_response_at_a_time(self) -> None:
        connection = connected(Untouched, Sock(OK + OK))
        connection.request("GET", "/", headers=USUAL, preload_content=False)
        response = connection.getresponse()
        assert not response.isclosed()
        for headers in (USUAL, {}):
            with pytest.raises(CannotSendRequest):
                connection.request("GET", "/", headers=headers)

    def test_one_response_at_a_time_after_one_that_was_urllib3s(self) -> None:
        connection = connected(PlainHTTPConnection, Sock(OK))
        connection.request("GET", "/", preload_content=False)
        response = connection.getresponse()
        with pytest.raises(CannotSendRequest):
            connection.request("GET", "/", headers=USUAL)
        assert response.read() == b"body"
        connection.request("GET", "/", headers=USUAL)

    def test_closing_ends_what_it_was_about_to_say(self) -> None:
        sock = Sock(OK)
        connection = connected(Untouched, sock)
        connection.request("GET", "/", headers=USUAL, preload_content=False)
        response = connection.getresponse()
        connection.close()
        assert sock.closed and response._original_response.isclosed()
        assert connection.sock is None

    def test_a_response_to_no_request(self) -> None:
        with pytest.raises(HTTPException):
            connected(PlainHTTPConnection, Sock(OK)).getresponse()


class TestPlainMessage:
    HEADERS = (("A", "1"), ("b", "2"), ("a", "3"))

    def message(self) -> PlainMessage:
        return PlainMessage(list(self.HEADERS))

    def test_answers(self) -> None:
        message = self.message()
        assert message.items() == list(self.HEADERS)
        assert (message["a"], message.get("B"), message.get("c", 7), message.get("c")) == ("1", "2", 7, None)
        assert (message.get_all("A"), message.get_all("c", []), message.get_all("c")) == (
            ["1", "3"],
            [],
            None,
        )
        assert "a" in message and "c" not in message

    def test_it_is_a_mail_for_whoever_wants_one(self) -> None:
        mail = HTTPMessage()
        for header in self.HEADERS:
            mail.set_raw(*header)
        mail.set_payload("")
        message = self.message()
        copied = [copy.copy(message), copy.deepcopy(message), pickle.loads(pickle.dumps(message))]
        for told in (message, *copied):
            assert not hasattr(told, "nothing")
            assert str(told) == str(mail) and told.items() == mail.items() and told.keys() == mail.keys()
            assert told.get_content_type() == mail.get_content_type() and len(told) == 3 and "B" in told

    def test_two_threads_may_want_a_mail(self) -> None:
        message = self.message()
        message["C"] = "x"  # it became one while the other one is on its way
        assert message.__getattr__("_headers") is message._headers and message["c"] == "x"

    def test_what_was_said_before_it_became_a_mail_holds(self) -> None:
        message = self.message()
        message.set_payload("x")
        message.preamble = "p"
        assert message.keys() == ["A", "b", "a"]
        assert (message.get_payload(), message.preamble) == ("x", "p")

    @pytest.mark.parametrize("change", ["set", "delete", "raw", "replace"])
    def test_a_change_counts(self, change: str) -> None:
        message = self.message()
        if change == "set":
            message["C"] = "x"
            assert message["c"] == "x" and len(message.items()) == 4
        elif change == "delete":
            del message["a"]
            assert message["a"] is None and message.items() == [("b", "2")]
        elif change == "raw":
            message.set_raw("C", "x")
            assert message.get_all("c") == ["x"]
        else:
            message.replace_header("a", "x")
            assert message.get("A") == "x"
