"""A pool that makes the only try itself: what it returns and raises is what urllib3's own ``urlopen`` does."""

from __future__ import annotations

import errno
import inspect
import logging
import ssl
from collections.abc import Callable, Iterator
from http.client import BadStatusLine
from typing import Any, ClassVar

import pytest
import urllib3.connectionpool
from hypothesis import given
from hypothesis import strategies as st
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ClosedPoolError,
    ConnectTimeoutError,
    EmptyPoolError,
    LocationParseError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)
from urllib3.util import Retry, Timeout
from urllib3.util.ssl_match_hostname import CertificateError

from anytls_http.errors import AuthenticationError
from anytls_http.integrations._urllib3 import FinalError
from anytls_http.integrations._urllib3_pool import OneTryPool

#: What urllib3 does today when the target ends the connection during the request.
READS_ON_AFTER_RESET = "ECONNRESET" in inspect.getsource(urllib3.connectionpool)
#: What requests asks for.
AS_REQUESTS: dict[str, Any] = {
    "redirect": False,
    "assert_same_host": False,
    "preload_content": False,
    "decode_content": False,
    "chunked": False,
}


class Connection:
    """A connection that keeps what is asked of it, and raises what it is told to."""

    host = "target.test"
    _http_vsn_str = "HTTP/1.1"  # for the log of older urllib3
    proxy = None
    proxy_is_verified = None

    def __init__(
        self, errors: dict[str, BaseException], is_closed: bool = False, is_verified: bool = True
    ) -> None:
        self.errors = errors
        self.is_closed = is_closed
        self.is_verified = is_verified
        self.asked: list[Any] = []
        self.timeout: Any = None

    @property
    def is_connected(self) -> bool:
        return not self.is_closed

    def connect(self) -> None:
        self.asked.append(("connect", self.timeout))
        self._raise("connect")
        self.is_closed = False

    def request(
        self, *args: Any, chunked: bool = False, enforce_content_length: bool = True, **kwargs: Any
    ) -> None:
        assert not chunked and enforce_content_length
        self.asked.append((args, {**kwargs, "headers": dict(kwargs["headers"])}, self.timeout))
        self._raise("request")

    def getresponse(self) -> Any:
        self.asked.append(self.timeout)
        self._raise("getresponse")
        return Response()

    def _raise(self, step: str) -> None:
        if step in self.errors:
            raise self.errors[step]

    def close(self) -> None:
        self.is_closed = True
        self.asked.append("closed")


class Response:
    status = 503
    headers: ClassVar = {"Retry-After": "1"}
    version_string = "HTTP/1.1"
    length_remaining = 0
    _connection: Any = None
    _pool: Any = None
    retries: Any = None


class HTTPSPool(OneTryPool, HTTPSConnectionPool):
    pass


def pool_of(connection: Connection | None, scheme: str = "http", **options: Any) -> Any:
    pool = (HTTPSPool if scheme == "https" else OneTryPool)("target.test", **options)
    if connection is not None:
        pool.pool.get()
        pool.pool.put(connection)
    pool.ConnectionCls = lambda **kwargs: pytest.fail("a new connection")  # type: ignore[assignment]
    return pool


def chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield what lies under ``exc``, as a traceback shows it."""
    below = exc.__cause__ or exc.__context__
    while below is not None:
        yield below
        below = below.__cause__ or below.__context__


def outcome(urlopen: Callable[..., Any], connection: Connection, scheme: str = "http", **options: Any) -> Any:
    pool = pool_of(connection, scheme, maxsize=2)
    arguments = {
        "retries": Retry(0, read=False),
        "timeout": Timeout(connect=3, read=4),
        **AS_REQUESTS,
        **options,
    }
    arguments["headers"] = {"A": "b"}
    told: Any
    try:
        response = urlopen(pool, "GET", arguments.pop("url", "/"), **arguments)
        told = response._connection is connection, response._pool is pool, response.retries is not None
    except BaseException as exc:
        cause = exc.__cause__
        told = (
            type(exc),
            str(exc),
            type(cause),
            str(cause),
            repr(getattr(exc, "reason", None)),
            [type(below) for below in chain(exc)],
        )
    left = [entry if entry is None else "connection" for entry in pool.pool.queue]
    return told, left, pool.num_requests, connection.asked


ERRORS: list[Callable[[], BaseException]] = [
    lambda: BrokenPipeError(errno.EPIPE, "gone"),
    lambda: ConnectionResetError(errno.ECONNRESET, "reset"),
    lambda: OSError(errno.EPROTOTYPE, "odd"),
    lambda: OSError("no number"),
    lambda: BlockingIOError(errno.EAGAIN, "not yet"),
    lambda: TimeoutError("late"),
    lambda: ssl.SSLError(1, "tls"),
    lambda: CertificateError("name"),
    lambda: BadStatusLine("x"),
    lambda: ProtocolError("x"),
    lambda: NewConnectionError(None, "x"),  # type: ignore[arg-type]
    lambda: ConnectTimeoutError(None, "x"),
    lambda: ReadTimeoutError(None, "/", "x"),  # type: ignore[arg-type]
    lambda: LocationParseError("x"),
    lambda: FinalError(AuthenticationError("password")),
    lambda: ValueError("x"),
    lambda: KeyboardInterrupt(),
]


class TestTheSame:
    @pytest.mark.parametrize("retries", [(0, False), (0, None), (False, False), (0, 3)])
    @pytest.mark.parametrize("step", ["connect", "request", "getresponse"])
    @pytest.mark.parametrize("error", ERRORS)
    def test_errors(self, error: Callable[[], BaseException], step: str, retries: tuple[Any, Any]) -> None:
        what = error()

        def run(urlopen: Callable[..., Any]) -> Any:
            what.__cause__ = what.__context__ = what.__traceback__ = None
            scheme = "https" if step == "connect" else "http"
            connection = Connection({step: what}, is_closed=step == "connect")
            return outcome(urlopen, connection, scheme, retries=Retry(retries[0], read=retries[1]))

        expected = run(HTTPConnectionPool.urlopen)
        is_reset = step == "request" and isinstance(what, ConnectionResetError)
        if is_reset and not READS_ON_AFTER_RESET and retries[0] is not False:
            # An older urllib3 gives up there; our try reads on, as it does after a broken pipe.
            connection = Connection({step: BrokenPipeError(errno.EPIPE, "gone")})
            expected = outcome(
                HTTPConnectionPool.urlopen, connection, retries=Retry(retries[0], read=retries[1])
            )
        assert run(OneTryPool.urlopen) == expected

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"url": "/%7Ea?b=%C3%A9"},
            {"url": "/%7ea"},
            {"url": "/a b#c"},
            {"url": "/\xe9?\xe9"},
            {"timeout": Timeout(connect=1, read=None)},
            {"timeout": 5},
            {"body": b"body"},
            {"retries": Retry(0, status_forcelist=[503], raise_on_status=False)},
            {"release_conn": True},
        ],
    )
    @pytest.mark.parametrize(
        ("scheme", "state"), [("http", {}), ("https", {}), ("https", {"is_closed": True})]
    )
    def test_requests(self, scheme: str, state: dict[str, bool], options: dict[str, Any]) -> None:
        ours = outcome(OneTryPool.urlopen, Connection({}, **state), scheme, **options)
        pool = HTTPSConnectionPool if scheme == "https" else HTTPConnectionPool
        assert ours == outcome(pool.urlopen, Connection({}, **state), scheme, **options)

    @given(st.text('/?%aF0~ \xe9#"[]:@$', max_size=8))
    def test_targets(self, text: str) -> None:
        ours = outcome(OneTryPool.urlopen, Connection({}), url="/" + text)
        assert ours == outcome(HTTPConnectionPool.urlopen, Connection({}), url="/" + text)

    def test_https_that_is_not_verified_is_warned_of(self) -> None:
        with pytest.warns(match="Unverified HTTPS"):
            outcome(OneTryPool.urlopen, Connection({}, is_verified=False), "https")

    def test_pools_without_connections(self) -> None:
        timeout = Timeout(connect=1, read=1)
        arguments = {"headers": {}, "retries": Retry(0, read=False), "timeout": timeout, **AS_REQUESTS}
        pool = pool_of(Connection({}), block=True, maxsize=1)
        pool.pool.get()
        with pytest.raises(EmptyPoolError):
            pool.urlopen("GET", "/", pool_timeout=0.01, **arguments)
        pool.close()
        with pytest.raises(ClosedPoolError):
            pool.urlopen("GET", "/", **arguments)


class TestTheTry:
    def test_is_made_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # On urllib3's way it is asked for.
        monkeypatch.setattr(HTTPConnectionPool, "_get_timeout", lambda *args: pytest.fail("urllib3's way"))
        for scheme in ("http", "https"):
            assert outcome(OneTryPool.urlopen, Connection({}), scheme)[0] == (True, True, True)

    def test_is_urllib3s_where_its_log_is_read(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG, "urllib3.connectionpool"):
            outcome(OneTryPool.urlopen, Connection({}))
        assert '"GET / HTTP/1.1" 503 0' in caplog.text

    @pytest.mark.parametrize("name", ["urlopen", "_make_request"])
    def test_is_urllib3s_where_somebody_watches_it(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Tracers and mocks of urllib3 put their own in place of these."""
        real = getattr(HTTPConnectionPool, name)
        seen: list[Any] = []

        def watched(*args: Any, **kwargs: Any) -> Any:
            seen.append(args)
            return real(*args, **kwargs)

        monkeypatch.setattr(HTTPConnectionPool, name, watched)
        assert outcome(OneTryPool.urlopen, Connection({}))[0] == (True, True, True)
        assert len(seen) == 1

    def test_an_interrupt_after_the_response_loses_no_slot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(self: Response, retries: Retry) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Response, "retries", property(fset=interrupt))
        connection = Connection({})
        _, left, *_ = outcome(OneTryPool.urlopen, connection)
        assert left == [None, None] and connection.is_closed
