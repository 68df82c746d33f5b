from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anytls_http.errors import AnyTLSTimeout, DialError
from anytls_http.net import resolve as module
from anytls_http.net.resolve import resolve
from tests.support.timing import STARVED

V4, V6 = "192.0.2.1", "2001:db8::1"

Answer = list[tuple[Any, ...]]


def answer(*hosts: str, port: int = 443) -> Answer:
    """What getaddrinfo returns for these addresses."""
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, port, 0, 0))
        if ":" in host
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
        for host in hosts
    ]


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Replace getaddrinfo by a function of (host, port, family, ...); gives the list of calls."""

    def install(function: Callable[..., Answer]) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def getaddrinfo(*args: Any) -> Answer:
            calls.append(args)
            return function(*args)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return calls

    yield install
    assert not module._in_flight


def hosts(addresses: list[module.Address]) -> list[str]:
    return [address[1][0] for address in addresses]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (V4, (socket.AF_INET, (V4, 443))),
        (V6, (socket.AF_INET6, (V6, 443, 0, 0))),
        ("::ffff:192.0.2.1", (socket.AF_INET6, ("::ffff:192.0.2.1", 443, 0, 0))),
    ],
)
@pytest.mark.parametrize("strategy", ["", "prefer_ipv6", "ipv4_only", "ipv6_only"])
def test_an_ip_address_needs_no_lookup_and_no_strategy(
    lookups: Any, host: str, expected: tuple[Any, ...], strategy: str
) -> None:
    calls = lookups(lambda *args: pytest.fail("looked up"))
    assert resolve(host, 443, strategy, time.monotonic() - 1) == [expected]
    assert not calls


def test_a_scoped_address_gets_the_number_of_its_interface() -> None:
    name = socket.if_nameindex()[0][1]
    [(family, address)] = resolve(f"fe80::1%{name}", 443, "", None)
    assert family == socket.AF_INET6
    assert address[-1] == socket.if_nametoindex(name)


def test_a_scoped_address_of_an_unknown_interface() -> None:
    with pytest.raises(DialError, match="fe80::1%nosuch0"):
        resolve("fe80::1%nosuch0", 443, "", None)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("", ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]),
        ("prefer_ipv4", ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]),
        ("prefer_ipv6", ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"]),
        ("ipv4_only", ["192.0.2.1", "192.0.2.2"]),
        ("ipv6_only", ["2001:db8::1", "2001:db8::2"]),
    ],
)
def test_the_strategy_orders_and_drops(lookups: Any, strategy: str, expected: list[str]) -> None:
    lookups(lambda *args: answer("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.1"))
    assert hosts(resolve("proxy.example", 443, strategy, time.monotonic() + 5)) == expected


def test_only_one_family_is_asked_for_when_only_one_is_wanted(lookups: Any) -> None:
    calls = lookups(lambda *args: answer(V4))
    resolve("proxy.example", 443, "ipv4_only", None)
    resolve("proxy.example", 443, "prefer_ipv4", None)
    assert [call[2] for call in calls] == [socket.AF_INET, socket.AF_UNSPEC]


@pytest.mark.parametrize(
    ("strategy", "given", "message"),
    [
        ("ipv6_only", [V4], r'"proxy\.example" has no IPv6 address \(domain_strategy is ipv6_only\)'),
        ("ipv4_only", [], r'"proxy\.example" has no IPv4 address'),
        ("", [], "found no address"),
    ],
)
def test_no_address_left(lookups: Any, strategy: str, given: list[str], message: str) -> None:
    lookups(lambda *args: answer(*given))
    with pytest.raises(DialError, match=message):
        resolve("proxy.example", 443, strategy, None)


def test_a_python_without_ipv6(lookups: Any) -> None:
    lookups(lambda *args: [(socket.AF_INET6, 1, 6, "", (10, b"raw")), *answer(V4)])
    assert hosts(resolve("proxy.example", 443, "", None)) == [V4]


def test_a_failed_lookup_says_why(lookups: Any) -> None:
    def fail(*args: Any) -> Answer:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    lookups(fail)
    with pytest.raises(DialError) as caught:
        resolve("proxy.example", 443, "", None)
    assert str(caught.value) == 'name lookup of "proxy.example" failed: Name or service not known'
    with pytest.raises(DialError, match="IPv6 name lookup of"):
        resolve("proxy.example", 443, "ipv6_only", None)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "a\0b"])
def test_a_name_that_is_none(host: str) -> None:
    with pytest.raises(DialError, match="failed"):
        resolve(host, 443, "", time.monotonic() + 5)


def test_a_real_lookup() -> None:
    addresses = resolve("localhost", 443, "", time.monotonic() + 5)
    assert set(hosts(addresses)) <= {"127.0.0.1", "::1"}


def test_a_hanging_lookup_ends_at_the_deadline_and_is_shared(lookups: Any) -> None:
    release = threading.Event()

    def hang(host: str, *args: Any) -> Answer:
        assert release.wait(10)
        return answer(V4)

    calls = lookups(hang)
    before = threading.active_count()
    try:
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(
                AnyTLSTimeout, match=r'name lookup of "proxy\.example" timed out after 0\.\d+ s'
            ):
                resolve("proxy.example", 443, "", started + 0.05)
            assert 0.05 <= time.monotonic() - started < 0.15 + STARVED
        assert len(calls) == 1
        assert threading.active_count() == before + 1

        found: list[list[str]] = []
        waiters = [
            threading.Thread(
                target=lambda: found.append(hosts(resolve("proxy.example", 443, "", time.monotonic() + 10)))
            )
            for _ in range(3)
        ]
        for waiter in waiters:
            waiter.start()
    finally:
        release.set()
    for waiter in waiters:
        waiter.join(10)
    assert found == [[V4]] * 3
    resolve("proxy.example", 443, "", None)
    assert len(calls) == 2, "a result is not kept: the next dial asks anew"


def test_a_deadline_in_the_past_starts_nothing(lookups: Any) -> None:
    calls = lookups(lambda *args: answer(V4))
    with pytest.raises(AnyTLSTimeout):
        resolve("proxy.example", 443, "", time.monotonic() - 1)
    assert not calls


def test_without_threads_the_caller_looks_up(lookups: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def look(*args: Any) -> Answer:
        threads.append(threading.current_thread())
        return answer(V4)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lookups(look)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert hosts(resolve("proxy.example", 443, "", time.monotonic() + 5)) == [V4]
    assert threads == [threading.current_thread()]


def test_an_interrupt_leaves_no_lookup_behind(lookups: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    lookups(lambda *args: answer(V4))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            resolve("proxy.example", 443, "", None)
    assert hosts(resolve("proxy.example", 443, "", None)) == [V4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_lookup(lookups: Any) -> None:
    release = threading.Event()

    def look(*args: Any) -> Answer:
        if not in_child:
            release.wait(10)
        return answer(V4)

    in_child = False
    lookups(look)
    with pytest.raises(AnyTLSTimeout):
        resolve("proxy.example", 443, "", time.monotonic() + 0.01)
    pid = os.fork()
    if pid == 0:
        in_child = True
        try:
            os._exit(0 if hosts(resolve("proxy.example", 443, "", time.monotonic() + 3)) == [V4] else 1)
        finally:
            os._exit(2)
    release.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    resolve("proxy.example", 443, "", None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.0, "5 s"), (0.254, "0.25 s"), (-1.0, "0 s"), (12.5, "12.5 s")]
)
def test_seconds_text(seconds: float, text: str) -> None:
    assert module.seconds_text(seconds) == text
