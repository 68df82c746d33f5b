"""The fuzzer's inputs without Atheris: those it begins with, what it found, and a few random ones."""

from __future__ import annotations

import random

import pytest

from fuzz.fuzz_session import changed, one_input, seeds

#: Inputs that broke a promise once (the files ``crash-...``); none has so far.
FINDS: list[bytes] = []


@pytest.mark.parametrize("data", [*seeds(), *FINDS])
def test_an_input_keeps_every_promise(data: bytes) -> None:
    one_input(data)


def test_random_changes_keep_every_promise() -> None:
    rng = random.Random(7)
    for _ in range(2000):
        one_input(changed(rng.choice(seeds()), rng))
