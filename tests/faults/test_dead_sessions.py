"""Sessions that died without a word: a stopped server, or a network that swallows what it is given.

The pool's patience is shortened, unless ``--soak`` asks for the real numbers.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from anytls_http import AnyTLSClient
from anytls_http.pool import rules
from anytls_http.testing import Site
from anytls_http.testing.site import GREETING
from tests.faults.libraries import NAMES, Way, way_of
from tests.faults.servers import Server, server_of
from tests.support.relay import Relay
from tests.support.reliability import Ended
from tests.support.timing import STARVED, wait_until

STOPPED = "server stopped (SIGSTOP)"
SWALLOWED = "network that swallows everything"
#: What a request over dead sessions may take (seconds; the issue's number).
PROMISED = 3.5
#: How long all acts of a scene may prepare themselves (seconds).
PREPARED = 20.0

pytestmark = pytest.mark.usefixtures("quick")


class Road:
    """A relay before a server; :meth:`block` kills what is on it, and lets new connections pass."""

    def __init__(self, kind: str, server: Server, relay: Relay, spare: Server | None) -> None:
        self.kind = kind
        self._server = server
        self._spare = spare
        self.relay = relay

    def block(self) -> None:
        """Every session that there is dies without a word."""
        if self.kind == SWALLOWED:
            self.relay.swallow_present()
        else:
            assert self._spare is not None
            self._server.pause()
            self.relay.target = ("127.0.0.1", self._spare.port)

    def outbound(self, **extra: Any) -> dict[str, Any]:
        return self.relay.outbound(self._server.outbound(**extra))


@contextlib.contextmanager
def road_of(kind: str, server: Server) -> Iterator[Road]:
    with contextlib.ExitStack() as stack:
        spare: Server | None = None
        if kind == STOPPED:
            spare = stack.enter_context(type(server)(certificate=server.certificate))  # type: ignore[attr-defined, call-arg]
        relay = stack.enter_context(Relay(("127.0.0.1", server.port)))
        yield Road(kind, server, relay, spare)


@pytest.fixture(params=[f"{STOPPED}: embedded", f"{STOPPED}: sing-box", f"{SWALLOWED}: sing-box"])
def road(request: pytest.FixtureRequest) -> Iterator[Road]:
    way, _, kind = request.param.partition(": ")
    with server_of(kind) as server, road_of(way, server) as road:
        yield road


def posts(site: Site) -> list[str]:
    """Return the paths of the POST requests that have reached the origin."""
    return [path for method, path in site.log if method == "POST"]


@pytest.mark.fault("{road} under 1 and 50 idle sessions, heartbeat 0.5 s: found in time")
def test_the_heartbeat_finds_dead_idle_sessions(road: Road, ended: Ended) -> None:
    with (
        AnyTLSClient(road.outbound(heartbeat="500ms")) as one,
        AnyTLSClient(road.outbound(heartbeat="500ms")) as fifty,
    ):
        one.wait_ready(1, 5)
        fifty.wait_ready(50, 10)
        wait_until(lambda: one._pool.state.server_version == 2 and fifty._pool.state.server_version == 2)
        road.block()
        begin = time.monotonic()
        wait_until(lambda: one.stats().closed["heartbeat_timeout"] == 1, 5)
        wait_until(lambda: fifty.stats().closed["heartbeat_timeout"] == 50, 5)
        took = time.monotonic() - begin
        assert took <= 0.5 + rules.HEARTBEAT_TIMEOUT + 0.5 + STARVED
        assert one.stats().idle == fifty.stats().idle == 0
        ended(f"all dropped after {took:.1f} s")


class Scene:
    """Requests through several libraries at once, each with its own sessions, that all die in one moment."""

    def __init__(self, road: Road, cases: list[tuple[str, int]]) -> None:
        self.road = road
        self.cases = cases
        self._prepared = threading.Barrier(len(cases) + 1)
        self._dead = threading.Event()

    def play(
        self, act: Callable[[Scene, Way, int], float], silence: float | None = None
    ) -> Iterator[tuple[Way, int, float]]:
        """Run ``act`` for each (library, number of sessions); yield how long each one's request took."""
        pause = rules.SILENT_AFTER + 0.05 if silence is None else silence
        with ThreadPoolExecutor(len(self.cases)) as threads:
            running = [(way_of(name), count) for name, count in self.cases]
            results = [threads.submit(self._run, act, way, count) for way, count in running]
            with contextlib.suppress(threading.BrokenBarrierError):
                self._prepared.wait(PREPARED)
            time.sleep(0.1)  # the servers' last words of the handshakes, which come after the client's
            self.road.block()
            time.sleep(pause)
            self._dead.set()
            errors = [error for result in results if (error := result.exception(20))]
            if errors:  # the first that says more than that others were waited for in vain
                raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError))
            for (way, count), result in zip(running, results, strict=True):
                yield way, count, result.result()

    def _run(self, act: Callable[[Scene, Way, int], float], way: Way, count: int) -> float:
        try:
            return act(self, way, count)
        except BaseException:
            self._prepared.abort()
            raise

    def prepared(self) -> None:
        """Called by an act: its sessions are there. Returns when they are dead, and silent."""
        self._prepared.wait(PREPARED)
        self._dead.wait(PREPARED)


class MeetingSite(Site):
    """A site that answers ``GET`` requests once ``count`` of them have come: no two can share a connection."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._together = threading.Barrier(count)

    def count_request(self, method: str, path: str) -> None:
        super().count_request(method, path)
        if method == "GET":
            self._together.wait(PREPARED)


def request_over_idle_sessions(scene: Scene, way: Way, count: int) -> float:
    with Site() as site, AnyTLSClient(scene.road.outbound()) as client, way.open(client, timeout=5) as http:
        with way.open(client, timeout=5) as other:
            assert other.get(f"{site.url}/") == GREETING  # the server is known to speak version 2
        client.wait_ready(count, 15)
        scene.prepared()
        begin = time.monotonic()
        http.post(f"{site.url}/echo-hash", b"only once")
        took = time.monotonic() - begin
        assert posts(site) == ["/echo-hash"]
        assert client.stats().closed["proof_of_life"] == count
        return took


def request_over_kept_alive_connections(scene: Scene, way: Way, count: int) -> float:
    with (
        MeetingSite(count) as site,
        AnyTLSClient(scene.road.outbound()) as client,
        way.open(client, timeout=5 + STARVED, connections=60) as http,
    ):
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(http.get, [f"{site.url}/"] * count))
        assert client.stats().active == count
        scene.prepared()
        begin = time.monotonic()
        http.post(f"{site.url}/echo-hash", b"only once")
        took = time.monotonic() - begin
        assert posts(site) == ["/echo-hash"]
        return took


def play(scene: Scene, act: Callable[[Scene, Way, int], float], ended: Ended, fault: str) -> None:
    for way, count, took in scene.play(act):
        assert took <= PROMISED + STARVED, way.name
        ended(f"succeeds on a fresh session after {took:.1f} s", way.name, fault.format(count=count))


@pytest.mark.fault("{road} under silent idle sessions, then a request")
def test_a_request_that_finds_only_dead_sessions(road: Road, ended: Ended) -> None:
    scene = Scene(road, [(name, count) for name in NAMES for count in (1, 50)])
    what = f"{road.kind} under {{count}} silent idle session(s), then a request"
    play(scene, request_over_idle_sessions, ended, what)


@pytest.mark.fault("{road} under kept-alive HTTP connections, then a request")
def test_a_request_on_kept_alive_connections_that_are_dead(road: Road, ended: Ended) -> None:
    scene = Scene(road, [(name, count) for name in NAMES[1:] for count in (1, 50)])
    what = f"{road.kind} under {{count}} kept-alive HTTP connection(s), then a request"
    play(scene, request_over_kept_alive_connections, ended, what)


def request_over_a_fresh_freeze(scene: Scene, way: Way, count: int) -> float:
    """The request ends at the user's time-out, and nothing else that the user does is disturbed."""
    with Site() as site, AnyTLSClient(scene.road.outbound()) as client, way.open(client, timeout=0.5) as http:
        assert http.get(f"{site.url}/") == GREETING
        client.wait_ready(count, 10)
        scene.prepared()
        begin = time.monotonic()
        with pytest.raises(way.timeout_error):
            http.post(f"{site.url}/echo-hash", b"only once")
        took = time.monotonic() - begin
        with way.open(client, timeout=PROMISED) as patient:
            patient.get(f"{site.url}/")
        assert posts(site) == []
        # The frozen one was dropped, and others were not trusted without a proof.
        assert client.stats().total == 1
        return took


@pytest.mark.fault("{road} a moment before a request, which waits for its time-out")
def test_a_session_that_froze_a_moment_ago(road: Road, ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SILENT_AFTER", 5.0)  # the real one: on a busy machine a moment may last long
    scene = Scene(road, [(name, 3) for name in NAMES])
    for way, _, took in scene.play(request_over_a_fresh_freeze, silence=0.0):
        assert 0.4 <= took <= 1.0 + STARVED
        error = way.timeout_error[0].__name__
        ended(f"{error} after {took:.1f} s; the next one succeeds", way.name)


def request_over_a_pause(server: Server, way: Way, paused: threading.Barrier) -> None:
    with Site() as site, AnyTLSClient(server.outbound()) as client, way.open(client, timeout=5) as http:
        assert http.get(f"{site.url}/") == GREETING
        paused.wait(10)
        http.post(f"{site.url}/echo-hash", b"only once")
        assert posts(site) == ["/echo-hash"]
        assert client.stats().total == 1


@pytest.mark.fault("server stopped in mid-request and continued within the time-out")
def test_a_pause_that_ends_in_time(server: Server, ended: Ended) -> None:
    paused = threading.Barrier(len(NAMES), action=server.pause)
    timer = threading.Timer(0.6, server.resume)
    timer.start()
    with ThreadPoolExecutor(len(NAMES)) as threads:
        results = [threads.submit(request_over_a_pause, server, way_of(name), paused) for name in NAMES]
        for name, result in zip(NAMES, results, strict=True):
            result.result(20)
            ended("succeeds on the same session", name)
    timer.join()
