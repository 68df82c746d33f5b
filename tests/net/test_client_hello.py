from __future__ import annotations

import random
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.net.client_hello import Fragmentation, server_name_span, split_points
from tests.support.wire import HANDSHAKE, read_client_hello, records

RNG = random.Random(5)


def hello(name: str | None) -> bytes:
    """The first flight of an OpenSSL client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def fragmentation(*, segments: bool = False, records: bool = False) -> Fragmentation:
    return Fragmentation(segments=segments, records=records, fallback_delay=0.5)


@pytest.mark.parametrize("name", ["proxy.example", "a.b.c.example", "localhost", "x", "a" * 63 + ".example"])
def test_the_name_is_found(name: str) -> None:
    flight = hello(name)
    span = server_name_span(flight)
    assert span is not None
    assert flight[slice(*span)] == name.encode()


@pytest.mark.parametrize("name", [None, "192.0.2.1"])
def test_without_a_name_nothing_is_cut(name: str | None) -> None:
    flight = hello(name)
    assert server_name_span(flight) is None
    assert fragmentation(segments=True, records=True).pieces(flight) == [flight]


@given(st.binary(max_size=300))
def test_any_bytes_are_sent_as_they_are_or_in_pieces(data: bytes) -> None:
    assert b"".join(fragmentation(segments=True).pieces(data, RNG)) == data


@given(st.data())
def test_a_damaged_hello_is_no_reason_to_fail(data: st.DataObject) -> None:
    flight = bytearray(hello("proxy.example"))
    for _ in range(3):
        flight[data.draw(st.integers(0, len(flight) - 1))] = data.draw(st.integers(0, 255))
    del flight[data.draw(st.integers(0, len(flight))) :]
    assert b"".join(fragmentation(segments=True).pieces(bytes(flight), RNG)) == flight
    fragmentation(segments=True, records=True).pieces(bytes(flight), RNG)


@given(st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=9).map(".".join), st.integers())
def test_where_a_name_is_cut(name: str, seed: int) -> None:
    cuts = split_points(name.encode(), random.Random(seed))
    assert cuts == sorted(set(cuts))
    assert len(cuts) <= 6
    assert all(0 < cut < len(name) for cut in cuts)
    assert bool(cuts) == (len(name) > 1)
    start = 0
    labels = []
    for label in name.split("."):
        labels.append(range(start + 1, start + len(label)))
        start += len(label) + 1
    assert all(set(inside) & set(cuts) for inside in [each for each in labels[:-1] if each][-6:])


@pytest.mark.parametrize("segments", [False, True])
def test_the_records_of_a_hello(segments: bool) -> None:
    flight = hello("www.proxy.example")
    pieces = fragmentation(segments=segments, records=True).pieces(flight, RNG)
    assert len(pieces) == (3 if segments else 1)
    found = records(b"".join(pieces))
    assert [kind for kind, _ in found] == [HANDSHAKE] * 3
    assert b"".join(body for _, body in found) == flight[5:]
    for _, body in found:
        assert b"www" not in body
        assert b"proxy" not in body
    if segments:
        assert [len(records(piece)) for piece in pieces] == [1, 1, 1]


def test_segments_alone_change_no_byte() -> None:
    flight = hello("www.proxy.example")
    pieces = fragmentation(segments=True).pieces(flight, RNG)
    assert len(pieces) == 3
    assert b"".join(pieces) == flight
    assert not any(b"proxy" in piece for piece in pieces)


def test_the_hello_after_a_retry_is_cut_too() -> None:
    # With it OpenSSL sends a record of another kind first.
    change_cipher_spec = b"\x14\x03\x03\x00\x01\x01"
    flight = change_cipher_spec + hello("proxy.example") + change_cipher_spec
    pieces = fragmentation(segments=True, records=True).pieces(flight, RNG)
    assert len(pieces) == 2
    assert [kind for kind, _ in records(b"".join(pieces))] == [20, 22, 22, 20]
    assert not any(b"proxy" in piece for piece in pieces)


def test_the_hello_read_by_the_tests() -> None:
    assert read_client_hello(hello("proxy.example")).server_name == b"proxy.example"
