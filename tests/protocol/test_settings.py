"""The Settings frame that is sent, and the tolerant reading of a server's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.protocol.padding import DEFAULT_SCHEME
from anytls_http.protocol.settings import client_settings, parse_settings


def test_settings_are_three_lines_without_a_newline_at_the_end() -> None:
    assert client_settings("anytls_http/0.1.0", DEFAULT_SCHEME.md5) == (
        b"v=2\nclient=anytls_http/0.1.0\npadding-md5=75cff2ad89aadf5e257059ee571ebe11"
    )


def test_an_empty_client_is_sent_empty() -> None:
    assert client_settings("", "0" * 32) == b"v=2\nclient=\npadding-md5=" + b"0" * 32


@pytest.mark.parametrize("client", ["a\nv=1", "a\rb", "a\0", "x" * 65_536, "\udc80"])
def test_a_client_that_is_no_single_line_of_a_frame_is_refused(client: str) -> None:
    with pytest.raises(ValueError, match=r"single line|65535|surrogates"):
        client_settings(client, "")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"v=2", {"v": "2"}),
        (b"v=2\n", {"v": "2"}),
        (b"v=2\r\nname=x\r\n", {"v": "2", "name": "x"}),
        (b" v = 2 ", {"v": "2"}),
        (b"", {}),
        (b"\n\n", {}),
        (b"nonsense\nv=2", {"v": "2"}),
        (b"v=1\nv=2", {"v": "2"}),
        (b"a=b=c", {"a": "b=c"}),
        (b"a=", {"a": ""}),
        (b"a=\xff", {"a": "\ufffd"}),
    ],
)
def test_a_server_s_settings_are_read_with_tolerance(raw: bytes, expected: dict[str, str]) -> None:
    assert parse_settings(raw) == expected
    assert parse_settings(bytearray(raw)) == expected
    assert parse_settings(memoryview(raw)) == expected


@given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=50))
def test_what_is_sent_is_what_is_read(client: str) -> None:
    assert parse_settings(client_settings(client, "ab")) == {"v": "2", "client": client, "padding-md5": "ab"}


@given(st.binary(max_size=300))
def test_reading_settings_never_raises(raw: bytes) -> None:
    settings = parse_settings(raw)
    assert all(isinstance(value, str) for value in settings.values())
