"""The pool of HTTP connections under the httpx transports, over connections that are made up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpcore
import httpx
import pytest

from anytls_http import AnyTLSTransport
from anytls_http.integrations import _http_pool
from anytls_http.integrations._http_pool import HTTPPool, Place
from anytls_http.testing import AnyTLSServer, Site, make_certificate
from anytls_http.testing.site import GREETING
from tests.support.timing import takes, wait_until


class Stream:
    """A response's body of one piece; ``keeps``: the connection can be used again."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def __iter__(self) -> Iterator[bytes]:
        yield b"body"

    def close(self) -> None:
        if self.connection.state == "active":
            self.connection.state = "idle"


class Connection:
    """Stands in for httpcore's: one request at a time."""

    made: list[Connection]
    version = b"HTTP/1.1"
    network_stream: Any = None

    def __init__(self, origin: Any, **options: Any) -> None:
        self.origin = origin
        self.state = "new"
        self.expired = False
        self.served = 0
        Connection.made.append(self)

    def handle_request(self, request: Any) -> Any:
        assert self.state in ("new", "idle"), f"two requests at once, or one after the end: {self.state}"
        self.state = "active"
        self.served += 1
        if "fail" in request.extensions:
            self.state = "closed"
            raise httpcore.ReadError("as asked for")
        extensions: dict[str, Any] = {"http_version": self.version}
        if self.network_stream is not None:
            extensions["network_stream"] = self.network_stream
        return SimpleNamespace(stream=Stream(self), extensions=extensions)

    def is_available(self) -> bool:
        return self.state == "idle"

    def has_expired(self) -> bool:
        return self.expired

    def close(self) -> None:
        self.state = "closed"


class NetworkStream:
    """Stands in for the stream under a connection."""

    is_shared = False
    is_alive = True
    proofs = 0

    def prove_alive(self) -> bool:
        self.proofs += 1
        return self.is_alive


class SharedConnection(Connection):
    """Stands in for one that speaks HTTP/2: any number of requests at once."""

    version = b"HTTP/2"

    def __init__(self, origin: Any, **options: Any) -> None:
        super().__init__(origin, **options)
        self.network_stream = NetworkStream()

    def handle_request(self, request: Any) -> Any:
        assert self.state != "closed"
        self.state = "idle"
        return super().handle_request(request)

    def is_available(self) -> bool:
        return self.state != "closed"


@pytest.fixture
def made() -> list[Connection]:
    """The connections that the pool has made."""
    Connection.made = []
    return Connection.made


def pool_of(
    most: int | None = None,
    idle: int | None = None,
    connection: type[Connection] = Connection,
    http2: bool = False,
) -> HTTPPool:
    core = SimpleNamespace(
        HTTPConnection=connection,
        ConnectionNotAvailable=httpcore.ConnectionNotAvailable,
        UnsupportedProtocol=httpcore.UnsupportedProtocol,
        PoolTimeout=httpcore.PoolTimeout,
    )
    return HTTPPool(core, max_connections=most, max_keepalive_connections=idle, http2=http2)


def request(host: str = "a", timeout: float | None = 5, **extensions: Any) -> httpcore.Request:
    extensions["timeout"] = {"pool": timeout}
    return httpcore.Request("GET", f"http://{host}/", extensions=extensions)


def get(pool: HTTPPool, host: str = "a", **extensions: Any) -> Connection:
    """Do a request and read its answer to the end; return the connection that carried it."""
    response = pool.handle_request(request(host, **extensions))
    connection: Connection = response.stream._stream.connection
    assert list(response.stream) == [b"body"]
    response.stream.close()
    return connection


def waiting(pool: HTTPPool, count: int) -> None:
    wait_until(lambda: len(pool._kept.waiting) == count)


def states(made: list[Connection]) -> list[str]:
    return [connection.state for connection in made]


def test_the_connection_used_last_is_used_again(made: list[Connection]) -> None:
    pool = pool_of()
    first, second = pool.handle_request(request()), pool.handle_request(request())
    other = get(pool, "b")
    second.stream.close()
    first.stream.close()
    assert get(pool) is made[0]
    assert get(pool, "b") is other
    assert states(made) == ["idle"] * 3
    assert sorted(map(id, pool.connections)) == sorted(map(id, made))


@pytest.mark.parametrize(("limit", "kept"), [(0, 0), (3, 3), (6, 5), (None, 5)])
def test_idle_connections_are_kept_up_to_the_limit(
    made: list[Connection], limit: int | None, kept: int
) -> None:
    pool = pool_of(idle=limit)
    responses = [pool.handle_request(request()) for _ in range(5)]
    for response in responses:
        response.stream.close()
    assert states(made) == ["closed"] * (5 - kept) + ["idle"] * kept
    assert len(pool.connections) == kept


def test_requests_wait_in_their_order(made: list[Connection]) -> None:
    pool = pool_of(most=1)
    begun: list[int] = []

    def work(number: int) -> Any:
        response = pool.handle_request(request())
        begun.append(number)
        return response

    first = work(0)
    with ThreadPoolExecutor(3) as threads:
        results = []
        for number in (1, 2, 3):
            results.append(threads.submit(work, number))
            waiting(pool, number)
        first.stream.close()
        for result in results:
            result.result(10).stream.close()
    assert begun == [0, 1, 2, 3]
    assert states(made) == ["idle"]
    assert made[0].served == 4


def test_nothing_comes_free_in_time(made: list[Connection]) -> None:
    pool = pool_of(most=1)
    response = pool.handle_request(request())
    with takes(0.2), pytest.raises(httpcore.PoolTimeout, match="all 1 connections"):
        pool.handle_request(request("b", timeout=0.2))
    with takes(0), pytest.raises(httpcore.PoolTimeout):
        pool.handle_request(request(timeout=0))
    assert not pool._kept.waiting
    response.stream.close()
    assert get(pool, timeout=0) is made[0]


def test_an_idle_connection_makes_room_for_another_target(made: list[Connection]) -> None:
    pool = pool_of(most=2)
    get(pool, "a")
    get(pool, "b")
    get(pool, "c", timeout=0)
    assert states(made) == ["closed", "idle", "idle"]


def test_who_waits_for_another_target_gets_the_room(made: list[Connection]) -> None:
    pool = pool_of(most=1)
    response = pool.handle_request(request("a"))
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(get, pool, "b")
        waiting(pool, 1)
        response.stream.close()
        assert result.result(10) is made[1]
    assert states(made) == ["closed", "idle"]


def test_a_request_that_fails_gives_its_place_back(made: list[Connection]) -> None:
    pool = pool_of(most=1)
    with ThreadPoolExecutor(1) as threads:
        response = pool.handle_request(request())
        result = threads.submit(get, pool)
        waiting(pool, 1)
        made[0].close()  # its answer was cut
        response.stream.close()
        assert result.result(10) is made[1]
    for _ in range(3):
        with pytest.raises(httpcore.ReadError, match="as asked for"):
            pool.handle_request(request(fail=True))
    assert pool.connections == []
    get(pool, timeout=0)


def test_closing_a_response_twice_gives_one_place_back(made: list[Connection]) -> None:
    pool = pool_of()
    first = pool.handle_request(request())
    first.stream.close()
    second = pool.handle_request(request())
    first.stream.close()
    assert pool.handle_request(request()).stream._stream.connection is made[1]
    second.stream.close()
    assert get(pool) is made[0]


def test_an_idle_connection_that_has_ended_is_replaced(made: list[Connection]) -> None:
    pool = pool_of()
    get(pool)
    made[0].expired = True
    assert get(pool) is made[1]
    assert made[0].state == "closed"


def test_idle_connections_are_looked_at_now_and_then(
    made: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of()
    get(pool, "a")
    made[0].expired = True
    get(pool, "b")
    assert made[0].state == "idle"
    monkeypatch.setattr(_http_pool.time, "monotonic", lambda now=time.monotonic: now() + 1)
    get(pool, "b")
    assert made[0].state == "closed"
    assert pool.connections == [made[1]]


def test_closing_ends_requests_and_serves_who_waits(made: list[Connection]) -> None:
    pool = pool_of(most=1)
    response = pool.handle_request(request())
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(get, pool)
        waiting(pool, 1)
        pool.close()
        assert result.result(10) is made[1]
        response.stream.close()
    pool.close()
    assert states(made) == ["closed", "closed"]


def test_a_finalizer_inside_the_lock_is_settled_afterwards(
    made: list[Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage collection may end an abandoned response at any allocation."""
    pool = pool_of(idle=0)
    abandoned = pool.handle_request(request()).stream
    init = Connection.__init__

    def collect(self: Connection, origin: Any, **options: Any) -> None:
        assert pool._is_inside
        abandoned.close()
        assert len(pool.connections) == 1
        init(self, origin, **options)

    monkeypatch.setattr(Connection, "__init__", collect)
    response = pool.handle_request(request())
    assert pool.connections == [made[1]]
    assert made[0].state == "closed"
    response.stream.close()


def test_a_forked_child_goes_on(made: list[Connection]) -> None:
    pool = pool_of(most=2)
    get(pool)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        pool.handle_request(request("b"))
        with pool._lock:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    made[0].expired = True  # as a session is in the child
    pool.forget_in_child()
    assert get(pool) is made[2]
    done.set()
    thread.join()


@pytest.mark.parametrize("scheme", [b"ftp", b""])
def test_other_schemes_are_refused(made: list[Connection], scheme: bytes) -> None:
    url = httpcore.URL(scheme=scheme, host=b"a", port=None, target=b"/")
    with pytest.raises(httpcore.UnsupportedProtocol, match=r"must begin with http:// or https://"):
        pool_of().handle_request(httpcore.Request("GET", url))
    assert made == []


@pytest.mark.parametrize("seed", range(4))
def test_many_threads(made: list[Connection], seed: int) -> None:
    """No connection has two requests, the limits hold, and everybody is served."""
    pool = pool_of(most=6, idle=3)

    def work(number: int) -> int:
        rng = random.Random(seed * 100 + number)
        for _ in range(200):
            host = rng.choice("abc")
            if rng.random() < 0.1:
                with pytest.raises(httpcore.ReadError):
                    pool.handle_request(request(host, 60, fail=True))
                continue
            response = pool.handle_request(request(host, 60))
            connection = response.stream._stream.connection
            assert connection.origin.host == host.encode()
            if rng.random() < 0.2:
                time.sleep(0)
            if rng.random() < 0.1:
                connection.expired = True
            assert len(pool.connections) <= 6
            response.stream.close()
        return number

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(work, range(12))) == list(range(12))
    assert sum(connection.served for connection in made) == 12 * 200
    open_ones = [connection for connection in made if connection.state != "closed"]
    assert {id(connection) for connection in open_ones} == {id(connection) for connection in pool.connections}
    assert len(open_ones) == len(pool._kept.idle) <= 3
    assert not pool._kept.waiting
    pool.close()
    assert set(states(made)) == {"closed"}


def test_http2_is_offered_to_a_site_that_has_none() -> None:
    """Requests that wait for one connection's protocol get connections of their own when it is HTTP/1.1."""
    certificate = make_certificate("localhost", "127.0.0.1")
    together = threading.Barrier(8)

    def work(_: int) -> bytes:
        together.wait(10)
        return http.get(site.url).content

    with AnyTLSServer() as server, Site(tls=True, certificate=certificate) as site:
        transport = AnyTLSTransport(server.outbound(), http2=True, verify=certificate.client_context())
        with httpx.Client(transport=transport, timeout=10) as http, ThreadPoolExecutor(8) as threads:
            assert list(threads.map(work, range(8))) == [GREETING] * 8
            assert all(connection.is_idle() for connection in transport._pool.connections)


def test_a_place_is_nobodys_twice() -> None:
    place = Place(httpcore.URL("http://a/"), None)
    assert place.target == (b"http", b"a", None)
    pool = pool_of()
    pool.release(place)  # it has never had a connection
    assert pool.connections == []


def test_who_finds_its_connection_ended_keeps_its_turn(made: list[Connection]) -> None:
    pool = pool_of(most=1)
    begun: list[int] = []

    def work(number: int) -> None:
        response = pool.handle_request(request())
        begun.append(number)
        response.stream.close()

    first = pool.handle_request(request())
    with ThreadPoolExecutor(3) as threads:
        for number in (1, 2, 3):
            threads.submit(work, number)
            waiting(pool, number)
        made[0].expired = True
        first.stream.close()
    assert begun == [1, 2, 3]
    assert states(made) == ["closed", "idle"]


def test_an_http2_connection_takes_all_who_wait_for_its_target(made: list[Connection]) -> None:
    pool = pool_of(most=1, connection=SharedConnection, http2=True)
    other = pool.handle_request(request("other"))
    together = threading.Barrier(4)

    def work(_: int) -> None:
        response = pool.handle_request(request("a"))
        together.wait(10)
        response.stream.close()

    with ThreadPoolExecutor(3) as threads:
        results = [threads.submit(work, number) for number in range(3)]
        waiting(pool, 3)
        other.stream.close()
        together.wait(10)
        for result in results:
            result.result(10)
    assert [connection.served for connection in made] == [1, 3]
    made[1].expired = True
    get(pool)
    assert states(made) == ["closed", "closed", "idle"]


def test_an_http2_connection_is_proven_before_it_gets_a_request(made: list[Connection]) -> None:
    """Afterwards it is too late: another thread may have sent what is on its way."""
    pool = pool_of(most=1, connection=SharedConnection, http2=True)
    get(pool)
    stream = made[0].network_stream
    assert stream.is_shared
    assert stream.proofs == 0  # a new connection has nothing to prove
    get(pool)
    assert (stream.proofs, made[0].served) == (1, 2)
    stream.is_alive = False
    get(pool)
    assert [connection.served for connection in made] == [2, 1]
    assert states(made) == ["closed", "idle"]


@pytest.mark.parametrize("most", [1, 2, None])
def test_those_who_share_a_dead_connection_share_the_next(made: list[Connection], most: int | None) -> None:
    pool = pool_of(most=most, connection=SharedConnection, http2=True)
    get(pool)
    together = threading.Barrier(4)

    def found_dead() -> bool:
        together.wait(10)
        return False

    made[0].network_stream.prove_alive = found_dead
    with ThreadPoolExecutor(4) as threads:
        results = [threads.submit(get, pool) for _ in range(4)]
        assert {result.result(10) for result in results} <= set(made[1:])
    assert made[0].served == 1
    assert made[0].state == "closed"
    assert len(pool.connections) <= (most or 4)
    assert sum(connection.served for connection in made[1:]) == 4
    if most == 1:
        assert len(made) == 2


def test_the_next_request_begins_after_one_that_failed(made: list[Connection]) -> None:
    pool = pool_of(connection=SharedConnection, http2=True)
    get(pool)
    turns = next(iter(pool._kept.all)).turns
    with pytest.raises(httpcore.ReadError):
        get(pool, fail=True)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(turns.acquire, False).result()


def test_a_connection_without_http2_is_nobodys_but_its_requests(made: list[Connection]) -> None:
    """Between two requests it looks as if it could be shared, and who waits for it would lose it to newcomers."""
    pool = pool_of(most=1, http2=True)
    get(pool)
    response = pool.handle_request(request())
    made[0].state = "idle"  # as one is that was given to somebody who hasn't begun
    with pytest.raises(httpcore.PoolTimeout):
        pool.handle_request(request(timeout=0.05))
    response.stream.close()


def test_hooks_are_called_outside_the_lock(made: list[Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a connection may come upon its session's end, and tell the user's hooks."""
    pool = pool_of()
    get(pool, "a")
    get(pool, "b")
    monkeypatch.setattr(_http_pool.time, "monotonic", lambda now=time.monotonic: now() + 1)
    looks: list[bool] = []

    def has_expired(self: Connection) -> bool:
        looks.append(pool._is_inside)
        return False

    monkeypatch.setattr(Connection, "has_expired", has_expired)
    assert get(pool, "b") is made[1]
    assert len(looks) >= 2
    assert not any(looks)
    assert states(made) == ["idle", "idle"]


def test_what_an_interrupt_has_lost_is_found(made: list[Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(most=1)
    get(pool)
    pool._kept.forget_idle(next(iter(pool._kept.idle)))  # and never taken
    monkeypatch.setattr(_http_pool.time, "monotonic", lambda now=time.monotonic: now() + 1)
    assert get(pool, timeout=0) is made[1]
    assert states(made) == ["closed", "idle"]
