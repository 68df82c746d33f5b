"""The guard itself: a password in a log record, in its arguments or in a traceback is found."""

from __future__ import annotations

import logging
import sys

import pytest

from tests.support.secrets_guard import PASSWORDS, _Handler, found_in


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_in_a_record_is_found(password: str) -> None:
    handler = _Handler()
    try:
        raise ValueError(f"could not log in with {password}")
    except ValueError:
        trace = sys.exc_info()
    for message, args, exc_info in (
        (f"logging in with {password}", (), None),
        ("logging in with %s", (password,), None),
        ("logging in with %s", ({"password": password},), None),
        ("logging in failed", (), trace),
    ):
        handler.emit(logging.LogRecord("anytls_http", logging.DEBUG, __file__, 1, message, args, exc_info))
        assert len(handler.leaks) == 1
        assert found_in(handler.leaks.pop()) in (None, password)


def test_other_words_are_no_leak() -> None:
    handler = _Handler()
    handler.emit(logging.LogRecord("anytls_http", logging.INFO, __file__, 1, "a wrong password", (), None))
    assert handler.leaks == []
