"""The buffers that sessions have not of their own."""

from __future__ import annotations

import threading

import pytest

from anytls_http.net import scratch as module
from anytls_http.net.scratch import DECRYPTED, PLAINTEXT, borrow, give_back, scratch


@pytest.fixture(autouse=True)
def none_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_spare", [])


def test_each_thread_has_buffers_of_its_own() -> None:
    assert scratch(DECRYPTED) is scratch(DECRYPTED)
    assert scratch(DECRYPTED) is not scratch(PLAINTEXT)
    theirs: list[memoryview] = []
    thread = threading.Thread(target=lambda: theirs.append(scratch(DECRYPTED)))
    thread.start()
    thread.join()
    assert theirs[0] is not scratch(DECRYPTED)


def test_what_was_given_back_is_lent_again() -> None:
    first, second = borrow(), borrow()
    assert first is not second
    give_back(first)
    assert borrow() is first


def test_few_are_kept() -> None:
    lent = [borrow() for _ in range(module.MAX_SPARE + 3)]
    for buffer in lent:
        give_back(buffer)
    assert module._spare == lent[: module.MAX_SPARE]
