"""HTTP/1.1 in few steps: whatever comes over the stream, an exchange goes as it does with httpcore's connection."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anytls_http.integrations._http1 import SMALL_BODY, HTTP1Connection, Response

NAMES = [name for name in ("httpcore", "httpcore2") if importlib.util.find_spec(name)]
CORES: list[Any] = [importlib.import_module(name) for name in NAMES]
any_core = pytest.mark.parametrize("core", CORES, ids=NAMES)

HOST = (b"Host", b"www.test")
TIMEOUTS = {"connect": 1.0, "read": 2.0, "write": 3.0}


class Stream:
    """A network stream, with what is to come over it: ``pieces``, one a read, and then the end if it ``ends``.

    A piece that is an exception is raised.
    ``room``: so many bytes can be written, then ``write_error`` is raised.
    """

    def __init__(self, core: Any) -> None:
        self.core = core
        self.pieces: deque[bytes | BaseException] = deque()
        self.ends = False
        self.room = float("inf")
        self.write_error: Exception = core.WriteError("broken pipe")
        self.written: list[bytes] = []
        self.closed = False
        self.timeouts: set[tuple[str, float | None]] = set()
        self.tls: list[Any] = []

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.timeouts.add(("read", timeout))
        if self.closed:
            raise self.core.ReadError("closed here")
        if not self.pieces:
            if self.ends:
                return b""
            raise self.core.ReadTimeout("nothing more comes")
        piece = self.pieces.popleft()
        if isinstance(piece, BaseException):
            raise piece
        if len(piece) > max_bytes:
            self.pieces.appendleft(piece[max_bytes:])
        return piece[:max_bytes]

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.timeouts.add(("write", timeout))
        if self.closed:
            raise self.core.WriteError("closed here")
        if len(buffer) > self.room:
            self.written.append(buffer[: int(self.room)])
            self.room = 0
            raise self.write_error
        self.room -= len(buffer)
        self.written.append(bytes(buffer))

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, info: str) -> Any:
        return bool(self.closed or self.pieces or self.ends) if info == "is_readable" else None

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        self.tls.append((ssl_context, server_hostname, timeout))
        return self


class Backend:
    """A network backend that connects to ``stream``, or raises ``error``."""

    def __init__(self, stream: Stream, error: Exception | None = None) -> None:
        self.stream = stream
        self.error = error
        self.dialed: list[Any] = []

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **unused: Any) -> Stream:
        self.dialed.append((host, port, timeout))
        if self.error is not None:
            raise self.error
        return self.stream


class SSLContext:
    def __init__(self) -> None:
        self.alpn: list[list[str]] = []

    def set_alpn_protocols(self, protocols: list[str]) -> None:
        self.alpn.append(protocols)


def options(backend: Backend, **others: Any) -> dict[str, Any]:
    return {"ssl_context": None, "keepalive_expiry": None, "network_backend": backend, **others}


def ours(core: Any, backend: Backend, scheme: bytes = b"http", **others: Any) -> Any:
    origin = core.Origin(scheme, b"www.test", 80)
    return HTTP1Connection(
        core, httpx.ByteStream, origin, **options(backend, http1=True, http2=False, **others)
    )


def httpcores(core: Any, backend: Backend, scheme: bytes = b"http", **others: Any) -> Any:
    return core.HTTPConnection(core.Origin(scheme, b"www.test", 80), **options(backend, **others))


def connected(core: Any, *pieces: bytes, **others: Any) -> tuple[Any, Stream]:
    """Return a connection of ours and the stream under it, over which ``pieces`` come."""
    stream = Stream(core)
    stream.pieces.extend(pieces)
    return ours(core, Backend(stream), **others), stream


def make_request(
    core: Any,
    method: str = "GET",
    headers: Iterable[tuple[bytes, bytes]] = (),
    content: Any = None,
    scheme: str = "http",
    **extensions: Any,
) -> Any:
    return core.Request(
        method,
        f"{scheme}://www.test:80/path?a=b",
        headers=[HOST, *headers],
        content=httpx.ByteStream(b"") if content is None else content,
        extensions={"timeout": TIMEOUTS, **extensions},
    )


# -- both do the same ----------------------------------------------------------------------------------------


@dataclass
class Exchange:
    """A request, and what comes in answer to it.

    ``content``: makes the body; ``ends``: the stream ends after the pieces, else nothing comes for a while;
    ``room``: the bytes that can be written; ``reads``: pieces of the body that are read before it is closed.
    """

    pieces: list[bytes]
    method: str = "GET"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    content: Callable[[], Any] | None = None
    ends: bool = False
    room: float = float("inf")
    write_error: str = "WriteError"
    reads: int | None = None
    is_traced: bool = False


#: How h11 begins what it says of a broken chunked body, and how the same is said here.
WORDS = {
    "peer unexpectedly closed connection": "peer closed connection without sending complete message body",
    "malformed chunk footer": "malformed chunk footer",
}


def told(error: Exception) -> tuple[str, str]:
    """Return the class and the words of ``error``, alike where they differ on purpose.

    httpcore lets h11's own LocalProtocolError through, which isn't one of its exceptions.
    """
    kind, text = type(error), str(error)
    if kind.__module__.startswith("h11"):
        assert kind.__name__ == "LocalProtocolError"
    else:
        assert kind.__module__.startswith(("httpcore", "builtins"))
    for beginning, words in WORDS.items():
        if text.startswith(beginning) or (text.startswith(words) and "received" not in text):
            text = words
    return kind.__name__, text


def run(connection: Any, core: Any, stream: Stream, exchange: Exchange) -> dict[str, Any]:
    """Return all that can be seen of an exchange."""
    stream.pieces.extend(exchange.pieces)
    stream.ends = exchange.ends
    stream.room = exchange.room
    stream.write_error = getattr(core, exchange.write_error)("as asked for")
    stream.written.clear()
    steps: list[str] = []
    extensions: dict[str, Any] = {}
    if exchange.is_traced:
        extensions["trace"] = lambda name, info: steps.append(name)
    content = None if exchange.content is None else exchange.content()
    said: dict[str, Any] = {"steps": steps}
    try:
        response = connection.handle_request(
            make_request(core, exchange.method, exchange.headers, content, **extensions)
        )
    except Exception as exc:
        said["head's error"] = told(exc)
    else:
        body = b""
        count = 0
        try:
            if exchange.reads != 0:
                for piece in response.stream:
                    body += piece
                    count += 1
                    if count == exchange.reads:
                        break
        except Exception as exc:
            said["body's error"] = told(exc)
        finally:
            response.stream.close()
        said |= {
            "status": response.status,
            "headers": response.headers,
            "http_version": response.extensions["http_version"],
            "reason": response.extensions["reason_phrase"],
            "body": body,
        }
    said |= {
        "written": b"".join(stream.written),
        "available": connection.is_available(),
        "idle": connection.is_idle(),
        "closed": (connection.is_closed(), stream.closed),
    }
    if not stream.closed:
        said["expired"] = bool(connection.has_expired())
    return said


def has_leftovers(connection: Any) -> bool:
    """Whether httpcore has read bytes beyond the end of the response, and takes them for the next one's."""
    return bool(connection._connection._h11_state.trailing_data[0])


def check(core: Any, *exchanges: Exchange) -> list[dict[str, Any]]:
    """Have both do the exchanges, as long as the connection is available, and return what is seen of them."""
    stream, their_stream = Stream(core), Stream(core)
    connection, theirs = ours(core, Backend(stream)), httpcores(core, Backend(their_stream))
    seen = []
    for exchange in exchanges:
        seen.append(run(connection, core, stream, exchange))
        expected = run(theirs, core, their_stream, exchange)
        if expected["available"] and (has_leftovers(theirs) or their_stream.get_extra_info("is_readable")):
            # Both are of no use: the one is closed here, or by the pool, which finds it readable; with the other,
            # what has come too early is the answer to the next request.
            assert (
                not connection.is_available() or connection.has_expired() or connection._delegate is not None
            )
            state = ("available", "idle", "closed", "expired")
            assert [(name, seen[-1][name]) for name in seen[-1] if name not in state] == [
                (name, expected[name]) for name in expected if name not in state
            ]
            break
        assert seen[-1] == expected
        assert stream.timeouts == their_stream.timeouts
        if not expected["available"]:
            break
    return seen


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Return ``data`` in pieces, cut at ``places``."""
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def every_way(data: bytes) -> Iterator[list[bytes]]:
    """Yield ``data`` whole, byte by byte, its head whole and the rest byte by byte, and cut in two anywhere.

    Where there is a part of the head only, the place makes no difference: it is not cut at all of them.
    """
    yield [data]
    yield cut(data, range(len(data)))
    head = data.find(b"\r\n\r\n") + 4
    yield cut(data, range(head, len(data)))
    for place in [*range(1, head - 4, 10), *range(max(1, head - 4), len(data))]:
        yield [data[:place], data[place:]]


LENGTH = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
WHOLE = {
    "length 0": LENGTH % 0,
    "length 1": LENGTH % 1 + b"x",
    "length 26": LENGTH % 26 + b"abcdefghijklmnopqrstuvwxyz",
    "length and close": CLOSE + b"Content-Length: 4\r\n\r\nbody",
    "no reason": b"HTTP/1.1 404\r\nContent-Length: 1\r\n\r\nx",
    "chunked": CHUNKED + b"4\r\nbody\r\n1\r\nx\r\n00a\r\n0123456789\r\n0\r\n\r\n",
    "empty chunked": CHUNKED + b"0\r\n\r\n",
    "chunked and close": CLOSE + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "capitals": CHUNKED + b"A\r\n0123456789\r\na\r\n0123456789\r\n000\r\n\r\n",
    "extensions": CHUNKED + b'4;a="b"\r\nbody\r\n1 \r\nx\r\n1\r\ny\r\n0;c\r\n\r\n',
    "trailers": CHUNKED + b"4\r\nbody\r\n0\r\nX: y\r\nZ:\r\n\r\n",
    "20 digits": CHUNKED + b"00000000000000000004\r\nbody\r\n0\r\n\r\n",
    "204": NO_CONTENT,
    "204 with a length": b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH % 4 + b"body",
    "continue, twice": b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + CHUNKED + b"4\r\nbody\r\n0\r\n\r\n",
    "length and chunked": CHUNKED[:-2] + b"Content-Length: 2\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    "two equal lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 4\r\n\r\nbody",
    "bare newlines": b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
    "beyond ASCII": b"HTTP/1.1 200 \xe4\r\nX: \xff\r\nContent-Length: 4\r\n\r\nbody",
}
UNTIL_END = {
    "until the end": b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nbody",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nbody",
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nbody",
}
BROKEN = {
    "nothing": b"",
    "junk": b"junk\r\n\r\n",
    "junk before": b"\r\n" + NO_CONTENT,
    "TLS": b"\x16\x03\x01\x02",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nx",
    "conflicting lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbodyx",
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "a huge length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 18 + b"\r\n\r\nbody",
    "too huge a length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 21 + b"\r\n\r\nbody",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "a space in a name": b"HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
    "a huge chunk": CHUNKED + b"ffffffffffffffff\r\nbody",
    "too huge a chunk": CHUNKED + b"f" * 20 + b"\r\nbody",
    "21 digits": CHUNKED + b"0" * 20 + b"4\r\nbody\r\n0\r\n\r\n",
    "no chunk": CHUNKED + b"4\r\nbody\r\nzz\r\nbody",
    "an empty line for a chunk": CHUNKED + b"4\r\nbody\r\n\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-4\r\nbody\r\n0\r\n\r\n",
    "no footer": CHUNKED + b"4\r\nbody0\r\n\r\n",
    "half a footer": CHUNKED + b"4\r\nbody\rX0\r\n\r\n",
    "a bad trailer": CHUNKED + b"4\r\nbody\r\n0\r\nX y\r\n\r\n",
}


@any_core
class TestAsHTTPCore:
    @pytest.mark.parametrize("ends", [False, True], ids=["open", "ended"])
    @pytest.mark.parametrize("name", WHOLE)
    def test_whole(self, core: Any, name: str, ends: bool) -> None:
        for pieces in every_way(WHOLE[name]):
            exchanges = check(core, Exchange(pieces, ends=ends), Exchange([NO_CONTENT]))
            assert not {"head's error", "body's error"} & exchanges[0].keys()

    @pytest.mark.parametrize("name", UNTIL_END)
    def test_until_the_end(self, core: Any, name: str) -> None:
        for pieces in every_way(UNTIL_END[name]):
            (seen,) = check(core, Exchange(pieces, ends=True))
            assert seen["body"] == b"body"

    @pytest.mark.parametrize("ends", [False, True], ids=["open", "ended"])
    @pytest.mark.parametrize("name", BROKEN)
    def test_broken(self, core: Any, name: str, ends: bool) -> None:
        for pieces in every_way(BROKEN[name]):
            (seen,) = check(core, Exchange(pieces, ends=ends), Exchange([NO_CONTENT]))
            assert {"head's error", "body's error"} & seen.keys()

    @pytest.mark.parametrize("ends", [False, True], ids=["open", "ended"])
    @pytest.mark.parametrize("name", ["length 26", "chunked", "extensions", "trailers"])
    def test_what_was_cut_short(self, core: Any, name: str, ends: bool) -> None:
        data = WHOLE[name]
        for place in [*range(0, data.find(b"\r\n\r\n"), 7), *range(data.find(b"\r\n\r\n"), len(data))]:
            (seen,) = check(core, Exchange([data[:place]], ends=ends))
            assert {"head's error", "body's error"} & seen.keys()

    @pytest.mark.parametrize(
        "name", ["length 0", "length 26", "chunked", "trailers", "204", "304", "length and chunked"]
    )
    def test_head(self, core: Any, name: str) -> None:
        head, separator, _ = WHOLE[name].partition(b"\r\n\r\n")
        for pieces in every_way(head + separator):
            first, _second = check(core, Exchange(pieces, method="HEAD"), Exchange([LENGTH % 4 + b"body"]))
            assert first["body"] == b""

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        "name", ["length 0", "length 26", "chunked", "trailers", "204", "304", "extensions"]
    )
    def test_bytes_follow(self, core: Any, name: str, method: str) -> None:
        for after in (b"x", NO_CONTENT):
            data = WHOLE[name]
            head = data.find(b"\r\n\r\n") + 4
            ways = [
                (),
                (len(data),),
                (head,),
                (head, len(data)),
                range(head, 999),
                range(999),
                (len(data) - 1,),
            ]
            for pieces in [cut(data + after, way) for way in ways]:
                check(core, Exchange(pieces, method=method), Exchange([NO_CONTENT]))

    def test_large_bodies(self, core: Any) -> None:
        body = bytes(range(256)) * 1000
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(body[at : at + 9999]), body[at : at + 9999])
            for at in range(0, 256_000, 9999)
        )
        tiny = b"1\r\nx\r\n" * 20_000
        for data in (
            LENGTH % len(body) + body,
            CHUNKED + chunks + b"0\r\n\r\n",
            CHUNKED + tiny + b"0\r\nX: y\r\n\r\n",
        ):
            for size in (1000, 16_384, 65_536, 1_000_000):
                exchange = Exchange(cut(data, range(0, len(data), size)))
                assert len(check(core, exchange, Exchange([NO_CONTENT]))) == 2

    def test_a_name_of_the_coding_in_another_case(self, core: Any) -> None:
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n"
        for method in ("GET", "HEAD"):
            check(core, Exchange([head + b"4\r\nbody\r\n0\r\n\r\n"], method=method))

    def test_what_came_before_a_malformed_footer_is_handed_out(self, core: Any) -> None:
        (seen,) = check(core, Exchange([CHUNKED + b"4\r\nbody\r\n4\r\nmoreXX"]))
        assert seen["body"] == b"bodymore"

    def test_one_after_the_other(self, core: Any) -> None:
        names = [
            "length 26",
            "trailers",
            "length 1",
            "chunked",
            "204",
            "early hints",
            "empty chunked",
            "304",
            "length 0",
        ]
        exchanges = [Exchange([WHOLE[name]]) for name in names * 2]
        assert len(check(core, *exchanges)) == len(exchanges)

    @given(st.data())
    def test_any_exchanges(self, core: Any, data: st.DataObject) -> None:
        exchanges = []
        for _ in range(data.draw(st.integers(1, 4))):
            answer = data.draw(
                st.sampled_from([*WHOLE.values()] * 3 + [*BROKEN.values(), *UNTIL_END.values()])
            )
            odd = data.draw(st.sampled_from([b""] * 9 + [b"x", b"\r\n", NO_CONTENT, b"\0"]))
            at = data.draw(st.integers(0, len(answer)))
            answer = answer[:at] + odd + answer[at:]
            head = max(0, answer.find(b"\r\n\r\n")) + 4
            places = data.draw(st.lists(st.integers(data.draw(st.sampled_from([0, head])), 120), max_size=6))
            exchanges.append(
                Exchange(
                    cut(answer, places),
                    method=data.draw(st.sampled_from(["GET", "GET", "GET", "HEAD", "POST"])),
                    headers=[(b"Connection", b"close")] if data.draw(st.integers(0, 9)) == 9 else [],
                    ends=data.draw(st.integers(0, 5)) == 5,
                )
            )
        check(core, *exchanges)


SIZES = ["%x", "%X", "%04x", "%016x", "%017x", "%020x", "%x;a=b", '%x;a="b"', "%x ", "%x \t", "%X; a"]
ODD_SIZES = [
    " %x",
    "%021x",
    "+%x",
    "-%x",
    "0x%x",
    "%x_",
    "%x\n",
    "%x\r",
    "%xg",
    "",
    "%x a",
    "1%x",
    "ffffffff%x",
    "%x;\n",
]
TRAILERS = [b"\r\n", b"X: y\r\n\r\n", b"X:\r\nY: z\r\n\r\n", b"X: y\r\n z\r\n\r\n", b"\n", b"X: y\n\n"]
ODD_TRAILERS = [b"", b"\r", b"X y\r\n\r\n", b"X: y\r\n", b" X: y\r\n\r\n", b"\r\r\n", b"X: \0\r\n\r\n"]
END = ["0", "0", "000", "0" * 16, "0" * 20, "0;a=b", "0 "]


def chunked(
    sizes: list[str], ends: list[str], footers: list[bytes], trailers: list[bytes]
) -> st.SearchStrategy[bytes]:
    chunk = st.builds(
        lambda data, size, footer: (
            (size % len(data) if "%" in size else size).encode() + b"\r\n" + data + footer
        ),
        st.binary(min_size=1, max_size=20),
        st.sampled_from(sizes),
        st.sampled_from(footers),
    )
    return st.builds(
        lambda chunks, end, trailer: b"".join(chunks) + end.encode() + b"\r\n" + trailer,
        st.lists(chunk, max_size=6),
        st.sampled_from(ends),
        st.sampled_from(trailers),
    )


PLACES = st.lists(st.integers(0, 150), max_size=8) | st.just(range(1000)) | st.just(())
ANY_CHUNKED = chunked(
    SIZES * 2 + ODD_SIZES,
    [*END, *END, "", "00g", "0" * 21],
    [b"\r\n"] * 10 + [b"", b"\n", b"\r", b"X\r\n", b"\rX"],
    TRAILERS + ODD_TRAILERS,
)


@any_core
class TestChunkedBodiesAsHTTPCore:
    @given(chunked(["%x", "%X", "%04x", "%016x"], ["0", "000"], [b"\r\n"], [b"\r\n"]), PLACES)
    def test_plain(self, core: Any, body: bytes, places: Iterable[int]) -> None:
        exchanges = [
            Exchange([CHUNKED, *cut(body, places)]),
            Exchange([CHUNKED + body]),
            Exchange([NO_CONTENT]),
        ]
        assert len(check(core, *exchanges)) == 3

    @given(chunked(SIZES, END, [b"\r\n"], TRAILERS), PLACES)
    def test_valid(self, core: Any, body: bytes, places: Iterable[int]) -> None:
        exchanges = [
            Exchange([CHUNKED, *cut(body, places)]),
            Exchange([CHUNKED + body]),
            Exchange([NO_CONTENT]),
        ]
        assert len(check(core, *exchanges)) == 3

    @example(b"4\r\nbodyXX", (), False)
    @given(ANY_CHUNKED, PLACES, st.booleans())
    def test_odd(self, core: Any, body: bytes, places: Iterable[int], ends: bool) -> None:
        check(core, Exchange([CHUNKED, *cut(body, places)], ends=ends), Exchange([NO_CONTENT]))
        check(core, Exchange(cut(CHUNKED + body, places), ends=ends), Exchange([NO_CONTENT]))

    @given(ANY_CHUNKED, st.integers(0, 150), PLACES, st.booleans())
    def test_cut_short(self, core: Any, body: bytes, end: int, places: Iterable[int], ends: bool) -> None:
        check(core, Exchange([CHUNKED, *cut(body[:end], places)], ends=ends), Exchange([NO_CONTENT]))

    @given(st.binary(max_size=40), PLACES, st.booleans())
    def test_garbage(self, core: Any, body: bytes, places: Iterable[int], ends: bool) -> None:
        check(core, Exchange([CHUNKED, *cut(body, places)], ends=ends))
        check(core, Exchange([CHUNKED, *cut(b"4\r\nbody\r\n" + body, places)], ends=ends))
        check(core, Exchange([CHUNKED, *cut(b"4\r\nbody\r\n0\r\n" + body, places)], ends=ends))


def generated(*pieces: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter(pieces)


class FailingBody:
    def __iter__(self) -> Iterator[bytes]:
        yield b"12"
        raise ValueError("no more of it")


def has_length(length: int) -> list[tuple[bytes, bytes]]:
    return [(b"Content-Length", b"%d" % length)]


LARGE = bytes(SMALL_BODY + 1)
UPLOADS: dict[str, tuple[list[tuple[bytes, bytes]], Callable[[], Any]]] = {
    "bytes": (has_length(4), lambda: httpx.ByteStream(b"1234")),
    "no bytes": (has_length(0), lambda: httpx.ByteStream(b"")),
    "bytes, as many as are small": (has_length(SMALL_BODY), lambda: httpx.ByteStream(bytes(SMALL_BODY))),
    "many bytes": (has_length(len(LARGE)), lambda: httpx.ByteStream(LARGE)),
    "too few bytes": (has_length(5), lambda: httpx.ByteStream(b"1234")),
    "too many bytes": (has_length(3), lambda: httpx.ByteStream(b"1234")),
    "bytes without a length": ([], lambda: httpx.ByteStream(b"1234")),
    "pieces": (has_length(4), generated(b"1", b"", b"23", b"4")),
    "too few pieces": (has_length(5), generated(b"12", b"34")),
    "too many pieces": (has_length(3), generated(b"12", b"34", b"56")),
    "a piece too many": (has_length(4), generated(b"12", b"34", b"56")),
    "no pieces": (has_length(1), generated()),
    "pieces without a length": ([], generated(b"12")),
    "pieces that fail": (has_length(4), FailingBody),
    "chunked": ([(b"Transfer-Encoding", b"chunked")], generated(b"12", b"34")),
    "not to be sent": ([(b"X", b"a\r\nb")], generated()),
}


@any_core
class TestRequestsAsHTTPCore:
    @pytest.mark.parametrize("name", UPLOADS)
    def test_bodies(self, core: Any, name: str) -> None:
        headers, content = UPLOADS[name]
        for answer in ("length 26", "trailers", "early hints"):
            upload = Exchange([WHOLE[answer]], "POST", headers, content)
            check(core, upload, upload, Exchange([NO_CONTENT]))
            check(core, Exchange([NO_CONTENT]), upload, Exchange([NO_CONTENT]))

    @pytest.mark.parametrize("write_error", ["WriteError", "WriteTimeout"])
    @pytest.mark.parametrize("name", ["bytes", "many bytes", "pieces", "too many pieces", "chunked"])
    def test_errors_of_writes(self, core: Any, name: str, write_error: str) -> None:
        headers, content = UPLOADS[name]
        answers = LENGTH % 4 + b"body", CLOSE + b"\r\nbody", WHOLE["trailers"], b""
        for room, answer in itertools.product((0, 30, 64, 100, 16_000), answers):
            upload = Exchange([answer], "POST", headers, content, True, room, write_error)
            check(core, upload, Exchange([NO_CONTENT]))
            check(core, Exchange([NO_CONTENT]), upload, Exchange([NO_CONTENT]))

    @pytest.mark.parametrize("name", ["length 26", "chunked", "trailers", "204", "early hints"])
    def test_connection_close(self, core: Any, name: str) -> None:
        for value in (b"close", b"Close", b"x, close"):
            exchange = Exchange([WHOLE[name]], headers=[(b"Connection", value)])
            (seen,) = check(core, exchange, Exchange([NO_CONTENT]))
            assert not seen["available"]

    @pytest.mark.parametrize(
        "headers", [[(b"connection", b"Keep-Alive")], [(b"Connection", b"x")], [(b"Expect", b"100-continue")]]
    )
    @pytest.mark.parametrize("name", ["length 26", "trailers", "early hints"])
    def test_other_wishes(self, core: Any, headers: list[tuple[bytes, bytes]], name: str) -> None:
        exchange = Exchange([WHOLE[name]], headers=headers)
        assert len(check(core, exchange, exchange, Exchange([NO_CONTENT]))) == 3

    @pytest.mark.parametrize("which", [(0,), (1,), (0, 1), (2,)])
    def test_traced(self, core: Any, which: tuple[int, ...]) -> None:
        exchanges = [Exchange([WHOLE["length 26"]], is_traced=at in which) for at in range(3)]
        seen = check(core, *exchanges)
        assert [bool(each["steps"]) for each in seen] == [at in which for at in range(3)]
        assert all(name.startswith("connection.") == (which[0] == 0) for name in seen[which[0]]["steps"][:1])

    @pytest.mark.parametrize("name", ["length 0", "length 26", "204", "chunked", "trailers", "early hints"])
    def test_an_answer_to_connect(self, core: Any, name: str) -> None:
        seen = []
        for make in (ours, httpcores):
            stream = Stream(core)
            stream.pieces.append(WHOLE[name] + b"x")
            response = make(core, Backend(stream)).handle_request(make_request(core, "CONNECT"))
            tunnel = response.extensions["network_stream"]
            seen.append((response.status, response.headers, tunnel.read(100), stream.written))
        assert seen[0] == seen[1]

    @pytest.mark.parametrize("name", ["length 26", "trailers", "early hints"])
    def test_the_network_stream(self, core: Any, name: str) -> None:
        connection, stream = connected(core)
        for _ in range(2):
            stream.pieces.append(WHOLE[name])
            response = connection.handle_request(make_request(core))
            network_stream = response.extensions["network_stream"]
            assert network_stream.get_extra_info("is_readable") is False
            b"".join(response.stream)
            stream.pieces.append(b"more")
            assert network_stream.get_extra_info("is_readable") is True
            assert network_stream.read(9, 1.0) == b"more"
            network_stream.write(b"less", 1.0)
            assert stream.written[-1] == b"less"
            response.stream.close()


# -- what becomes of the connection --------------------------------------------------------------------------

BODIES = {
    "length": [LENGTH % 8 + b"body", b"body"],
    "chunked": [CHUNKED + b"4\r\nbody\r\n", b"4\r\nbody\r\n0\r\n\r\n"],
    "trailers": [CHUNKED + b"4\r\nbody\r\n", b"4\r\nbody\r\n0\r\nX: y\r\n\r\n"],
    "extensions": [CHUNKED + b"4\r\nbody\r\n4;a=b\r\nbo", b"dy\r\n0\r\n\r\n"],
}
any_body = pytest.mark.parametrize("name", BODIES)


@any_core
class TestTheConnection:
    @any_body
    def test_a_body_that_is_not_read_to_its_end_ends_it(self, core: Any, name: str) -> None:
        for reads in (0, 1):
            (seen,) = check(core, Exchange(BODIES[name], reads=reads), Exchange([NO_CONTENT]))
            assert not seen["available"]
            assert seen["closed"] == (True, True)

    @any_body
    def test_an_iterator_that_is_dropped_ends_it(self, core: Any, name: str) -> None:
        connection, stream = connected(core, *BODIES[name])
        body = iter(connection.handle_request(make_request(core)).stream)
        assert next(body) == b"body"
        del body
        assert stream.closed
        assert connection.is_closed() and not connection.is_available()

    @pytest.mark.parametrize("answer", [LENGTH % 0, NO_CONTENT, LENGTH % 4 + b"body"])
    def test_what_has_come_whole_needs_no_reading(self, core: Any, answer: bytes) -> None:
        connection, stream = connected(core, answer)
        connection.handle_request(make_request(core)).stream.close()
        assert connection.is_available() and not stream.closed
        stream.pieces.append(NO_CONTENT)
        assert connection.handle_request(make_request(core)).status == 204

    @any_body
    def test_a_response_is_closed_once(self, core: Any, name: str) -> None:
        connection, stream = connected(core, *BODIES[name])
        first = connection.handle_request(make_request(core))
        assert b"".join(first.stream) == b"bodybody"
        first.stream.close()
        stream.pieces.append(LENGTH % 4 + b"bo")
        second = connection.handle_request(make_request(core))
        first.stream.close()
        assert not connection.is_available() and not stream.closed
        stream.pieces.append(b"dy")
        assert b"".join(second.stream) == b"body"

    @any_body
    @pytest.mark.parametrize("error", [KeyboardInterrupt, None], ids=["interrupt", "ReadError"])
    def test_an_error_of_the_stream_ends_it(self, core: Any, name: str, error: Any) -> None:
        error = error or core.ReadError
        first = BODIES[name][0]
        for pieces in ([error()], [first[:9], error()], [first, error()]):
            connection, stream = connected(core)
            stream.pieces.extend(pieces)
            with pytest.raises(error):
                b"".join(connection.handle_request(make_request(core)).stream)
            assert stream.closed and connection.is_closed() and not connection.is_available()
            with pytest.raises(core.ConnectionNotAvailable):
                connection.handle_request(make_request(core))

    @any_body
    def test_closed_from_elsewhere_while_a_response_is_open(self, core: Any, name: str) -> None:
        for pieces in (BODIES[name], [b"".join(BODIES[name])]):
            connection, stream = connected(core, *pieces)
            response = connection.handle_request(make_request(core))
            body = iter(response.stream)
            next(body)
            connection.close()
            assert stream.closed and connection.is_closed()
            try:
                for _ in body:
                    pass
            except core.ReadError:
                pass
            response.stream.close()
            assert not connection.is_available()
            with pytest.raises(core.ConnectionNotAvailable):
                connection.handle_request(make_request(core))

    def test_closed_from_elsewhere_before_a_response_is_read(self, core: Any) -> None:
        for answer in (LENGTH % 0, LENGTH % 4 + b"body", WHOLE["chunked"], WHOLE["trailers"]):
            connection, stream = connected(core, answer)
            response = connection.handle_request(make_request(core))
            connection.close()
            b"".join(response.stream)
            response.stream.close()
            assert stream.closed
            assert not connection.is_available(), answer
            assert connection.has_expired()

    @any_body
    def test_one_request_at_a_time(self, core: Any, name: str) -> None:
        connection, _ = connected(core, *BODIES[name])
        response = connection.handle_request(make_request(core))
        body = iter(response.stream)
        for _ in range(2):
            with pytest.raises(core.ConnectionNotAvailable):
                connection.handle_request(make_request(core))
            next(body)
        assert not connection.is_available() and not connection.is_idle() and not connection.has_expired()
        b"".join(body)
        with pytest.raises(core.ConnectionNotAvailable):
            connection.handle_request(make_request(core))
        response.stream.close()
        assert connection.is_available() and connection.is_idle()

    def test_a_request_while_another_connects(self, core: Any) -> None:
        stream = Stream(core)
        stream.pieces.append(NO_CONTENT)
        backend = Backend(stream)
        connection = ours(core, backend)
        connect = backend.connect_tcp

        def connect_tcp(*args: Any) -> Stream:
            with pytest.raises(core.ConnectionNotAvailable):
                connection.handle_request(make_request(core))
            assert (
                not connection.is_available() and not connection.has_expired() and not connection.is_closed()
            )
            return connect(*args)

        backend.connect_tcp = connect_tcp  # type: ignore[assignment,method-assign]
        assert connection.handle_request(make_request(core)).status == 204

    @pytest.mark.parametrize(
        "answer", [LENGTH % 4 + b"body", WHOLE["chunked"], WHOLE["trailers"], WHOLE["early hints"]]
    )
    def test_its_expiry(self, core: Any, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        for make in (ours, httpcores):
            stream = Stream(core)
            connection = make(core, Backend(stream), keepalive_expiry=5.0)
            for _ in range(2):
                stream.pieces.append(answer)
                response = connection.handle_request(make_request(core))
                now += 6
                assert not connection.has_expired(), "it is in use"
                b"".join(response.stream)
                response.stream.close()
                now += 5
                assert connection.is_available() and not connection.has_expired()
            now += 0.1
            assert connection.is_available() and connection.has_expired()

    def test_no_expiry(self, core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        connection, _ = connected(core, NO_CONTENT)
        connection.handle_request(make_request(core)).stream.close()
        monkeypatch.setattr(time, "monotonic", lambda: 1e12)
        assert not connection.has_expired()

    def test_it_has_expired_where_the_server_ends_it(self, core: Any) -> None:
        connection, stream = connected(core, NO_CONTENT)
        connection.handle_request(make_request(core)).stream.close()
        assert not connection.has_expired()
        stream.ends = True
        assert connection.has_expired()

    @pytest.mark.parametrize("error", ["ConnectError", "ConnectTimeout"])
    @pytest.mark.parametrize("headers", [[], [(b"Expect", b"100-continue")]], ids=["plain", "not plain"])
    def test_a_failed_connect(self, core: Any, error: str, headers: list[tuple[bytes, bytes]]) -> None:
        backend = Backend(Stream(core), getattr(core, error)("refused"))
        connection = ours(core, backend)
        assert not connection.has_expired() and not connection.is_closed() and not connection.is_available()
        with pytest.raises(getattr(core, error), match="refused"):
            connection.handle_request(make_request(core, headers=headers))
        assert connection.has_expired() and connection.is_closed() and not connection.is_available()
        connection.close()

    @pytest.mark.parametrize("sni", [None, "other.test"])
    def test_tls(self, core: Any, sni: str | None) -> None:
        extensions: dict[str, Any] = {} if sni is None else {"sni_hostname": sni}
        seen = []
        for make in (ours, httpcores):
            stream, context = Stream(core), SSLContext()
            backend = Backend(stream)
            connection = make(core, backend, b"https", ssl_context=context)
            for _ in range(2):
                stream.pieces.append(LENGTH % 4 + b"body")
                response = connection.handle_request(make_request(core, scheme="https", **extensions))
                assert b"".join(response.stream) == b"body"
                response.stream.close()
            assert [each for each, _, _ in stream.tls] == [context]
            seen.append((context.alpn, [tls[1:] for tls in stream.tls], backend.dialed))
        assert seen[0] == seen[1]
        assert seen[0][1] == [(sni or "www.test", 1.0)]

    def test_its_words(self, core: Any) -> None:
        connection, stream = connected(core, NO_CONTENT)
        assert "HTTP/1.1, new" in repr(connection)
        response = connection.handle_request(make_request(core))
        assert "http://www.test:80" in connection.info() and "active" in connection.info()
        response.stream.close()
        assert "idle" in connection.info()
        stream.pieces.append(WHOLE["early hints"])
        connection.handle_request(make_request(core))
        assert "ACTIVE" in connection.info()  # httpcore's words
        connection.close()
        assert "CLOSED" in connection.info()


# -- in few steps --------------------------------------------------------------------------------------------


@any_core
class TestInFewSteps:
    @pytest.mark.parametrize(
        "name", ["length 0", "length 26", "chunked", "capitals", "204", "304", "no reason"]
    )
    def test_it_is_not_httpcore_that_reads(
        self, core: Any, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connection, stream = connected(core, WHOLE[name])
        monkeypatch.setattr(
            core.HTTP11Connection, "__init__", lambda *args: pytest.fail("httpcore was asked")
        )
        response = connection.handle_request(make_request(core))
        assert type(response) is Response
        b"".join(response.stream)
        response.stream.close()
        stream.pieces.append(NO_CONTENT)
        assert connection.handle_request(make_request(core)).status == 204

    def test_it_is_httpcore_where_its_steps_are_logged(
        self, core: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        connection, stream = connected(core, NO_CONTENT)
        connection.handle_request(make_request(core)).stream.close()
        stream.pieces.append(NO_CONTENT)
        with caplog.at_level(logging.DEBUG, logger=core.__name__):
            assert type(connection.handle_request(make_request(core))) is core.Response

    @pytest.mark.parametrize(
        ("content", "writes"),
        [
            (httpx.ByteStream(b""), 1),
            (httpx.ByteStream(b"1234"), 1),
            (httpx.ByteStream(bytes(SMALL_BODY)), 1),
            (httpx.ByteStream(LARGE), 2),
            ([b"12", b"34"], 3),
        ],
    )
    def test_a_small_body_leaves_together_with_the_head(self, core: Any, content: Any, writes: int) -> None:
        connection, stream = connected(core, NO_CONTENT)
        headers = has_length(sum(map(len, content)))
        connection.handle_request(make_request(core, "POST", headers, content))
        assert len(stream.written) == writes
        assert b"".join(stream.written).endswith(b"\r\n\r\n" + b"".join(content))

    def test_what_is_at_hand_is_one_piece(self, core: Any) -> None:
        connection, _ = connected(core, CHUNKED + b"4\r\nbody\r\n" * 9 + b"4\r\nb", b"ody\r\n0\r\n", b"\r\n")
        assert list(connection.handle_request(make_request(core)).stream) == [b"body" * 9 + b"b", b"ody"]
