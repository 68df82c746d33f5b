"""An interrupt anywhere in the pool of HTTP connections: who else waits for one is served all the same."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from anytls_http.integrations import _http_pool
from anytls_http.integrations._http_pool import HTTPPool

from .test_http_pool import Connection, get, made, pool_of, request, waiting

__all__ = ["made"]

OURS = ("_http_pool.py", "_http_connections.py")


def interrupted_at(number: int, work: Callable[[], object]) -> str:
    """Run ``work``, with a KeyboardInterrupt at one of the instructions where a signal's handler may run.

    Those are the beginning of a function and the end of a call. Returns where it was; empty: there are fewer.
    """
    seen = 0
    where = ""

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal seen, where
        code = frame.f_code
        if event not in ("call", "c_return") or not code.co_filename.endswith(OURS):
            return
        # At its very beginning nothing has been told to close yet.
        if (event, code.co_qualname) == ("call", "_Body.close"):
            return
        if seen == number:
            where = f"{event}, {code.co_qualname}, line {frame.f_lineno}"
            sys.setprofile(None)
            raise KeyboardInterrupt
        seen += 1

    before = sys.getprofile()
    try:
        sys.setprofile(profile)
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(before)
    return where


def get_headers(pool: HTTPPool) -> None:
    pool.handle_request(request()).stream.close()


def others(pool: HTTPPool) -> list[threading.Thread]:
    """Begin two more requests, which wait as long as they must."""
    threads = [
        threading.Thread(target=get, args=(pool,), kwargs={"timeout": None}, daemon=True) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    return threads


def while_a_response_is_closed(pool: HTTPPool, number: int) -> tuple[str, list[threading.Thread]]:
    response = pool.handle_request(request())
    threads = others(pool)
    waiting(pool, len(threads))
    return interrupted_at(number, response.stream.close), threads


def during_a_request(pool: HTTPPool, number: int) -> tuple[str, list[threading.Thread]]:
    get(pool)
    return interrupted_at(number, lambda: get_headers(pool)), others(pool)


def while_it_waits(pool: HTTPPool, number: int) -> tuple[str, list[threading.Thread]]:
    response = pool.handle_request(request())
    timer = threading.Timer(0.005, response.stream.close)
    timer.start()
    where = interrupted_at(number, lambda: get_headers(pool))
    timer.join()
    return where, others(pool)


@pytest.mark.parametrize("when", [while_a_response_is_closed, during_a_request, while_it_waits])
def test_others_are_served(
    made: list[Connection],
    monkeypatch: pytest.MonkeyPatch,
    when: Callable[[HTTPPool, int], tuple[str, list[threading.Thread]]],
) -> None:
    monkeypatch.setattr(_http_pool, "SWEEP_EVERY", 0.01)
    for number in itertools.count():
        made.clear()
        pool = pool_of(most=1)
        where, threads = when(pool, number)
        for thread in threads:
            thread.join(5)
        assert not any(thread.is_alive() for thread in threads), where
        assert len(pool.connections) <= 1, where
        if not where:
            break
    assert number > 15
