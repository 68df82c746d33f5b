"""The steps of one call, told to whoever wants to watch them: a trace of httpx, or ``anytls-http check``.

An observer watches one thread for the length of a ``with`` block: the caller's thread does the dialling, so
what it sees is what this very call waited for, and not what other threads do. It is called with the name of
a step and of what becomes of it, and a dict of facts, as httpcore calls a trace::

    tls.started   {"server_name": ...}
    tls.complete  {"ssl_object": ..., "seconds": ...}
    tls.failed    {"exception": ..., "seconds": ...}

Without an observer a step costs one look at a thread's variable.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Observer", "observed_by", "step", "watched"]

#: Called with ``<step>.started``, ``<step>.complete`` or ``<step>.failed``, and facts.
Observer = Callable[[str, dict[str, Any]], object]


class _Current(threading.local):
    observer: Observer | None = None


_current = _Current()


def watched() -> bool:
    """Whether anybody watches this thread: saves making a step where many are made."""
    return _current.observer is not None


@contextlib.contextmanager
def observed_by(observer: Observer | None) -> Iterator[None]:
    """Let ``observer`` watch this thread's steps within the block; None: nobody does."""
    before, _current.observer = _current.observer, observer
    try:
        yield
    finally:
        _current.observer = before


@contextlib.contextmanager
def step(name: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """Tell the observer that a step begins, with ``facts``, and how it ends; yields the facts of a good end.

    An observer must not raise: what was made within the step would be lost.
    """
    observer = _current.observer
    if observer is None:
        yield {}
        return
    observer(f"{name}.started", facts)
    found: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        yield found
    except BaseException as exc:
        observer(f"{name}.failed", {"exception": exc, "seconds": time.perf_counter() - started})
        raise
    observer(f"{name}.complete", {**found, "seconds": time.perf_counter() - started})
