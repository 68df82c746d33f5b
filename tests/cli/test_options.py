"""Options that several commands have."""

from __future__ import annotations

import pytest

from anytls_http.cli import main


@pytest.mark.parametrize(
    "words",
    [
        ["check", "-c", "x.json", "--timeout"],
        ["top", "-c", "x.json", "--warm"],
        ["top", "-c", "x.json", "--seconds"],
        ["demo", "--size"],
    ],
)
def test_what_is_no_number(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "abc"]) == 2
    assert f"argument {words[-1]}: takes a number, got 'abc'" in capsys.readouterr().err
