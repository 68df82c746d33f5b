"""UDP over TCP on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.protocol.uot import MAX_DATAGRAM, DatagramDecoder, encode_datagram, encode_request

V4 = ("192.0.2.1", 53)
V6 = ("2001:db8::1", 5353)
NAME = ("dns.example", 853)


def test_the_request_that_goes_first() -> None:
    assert encode_request(V4) == bytes.fromhex("01 01 c0000201 0035")
    assert encode_request(V6) == bytes.fromhex("01 04 20010db8000000000000000000000001 14e9")
    assert encode_request(NAME) == b"\x01\x03\x0bdns.example\x03\x55"
    assert encode_request(None) == bytes.fromhex("00 01 00000000 0000")


def test_datagrams_with_their_own_kinds_of_address() -> None:
    assert encode_datagram(b"hi", None) == b"\x00\x02hi"
    assert encode_datagram(b"hi", V4) == bytes.fromhex("00 c0000201 0035 0002") + b"hi"
    assert (
        encode_datagram(b"hi", V6) == bytes.fromhex("01 20010db8000000000000000000000001 14e9 0002") + b"hi"
    )
    assert encode_datagram(b"hi", NAME) == b"\x02\x0bdns.example\x03\x55\x00\x02hi"


def test_sizes() -> None:
    assert len(encode_datagram(bytes(MAX_DATAGRAM), None)) == MAX_DATAGRAM + 2
    assert len(encode_datagram(bytes(65535), None)) == 65537
    with pytest.raises(ValueError, match="65536 bytes"):
        encode_datagram(bytes(65536), None)


@pytest.mark.parametrize("address", [("", 1), ("a b", 1), ("x", 70000), ("fe80::1%eth0", 1)])
def test_impossible_addresses(address: tuple[str, int]) -> None:
    with pytest.raises(ValueError):
        encode_request(address)
    with pytest.raises(ValueError):
        encode_datagram(b"", address)


def test_a_mapped_address_is_told_as_ipv4() -> None:
    decoder = DatagramDecoder(with_addresses=True)
    decoder.feed(encode_datagram(b"x", ("::ffff:192.0.2.1", 53)))
    assert decoder.next() == (V4, b"x")


@pytest.mark.parametrize("data", [b"\x03" + bytes(30), b"\xff", b"\x02\x00\x00\x35\x00\x00"])
def test_nonsense(data: bytes) -> None:
    decoder = DatagramDecoder(with_addresses=True)
    decoder.feed(data)
    with pytest.raises(ValueError):
        decoder.next()


ADDRESSES = st.sampled_from([V4, V6, NAME])
DATAGRAMS = st.lists(st.tuples(ADDRESSES, st.binary(max_size=300)), max_size=8)


@given(DATAGRAMS, st.booleans(), st.data())
def test_what_is_encoded_is_decoded_however_it_is_cut(
    datagrams: list[tuple[tuple[str, int], bytes]], with_addresses: bool, data: st.DataObject
) -> None:
    stream = b"".join(encode_datagram(payload, a if with_addresses else None) for a, payload in datagrams)
    decoder = DatagramDecoder(with_addresses)
    seen = []
    while stream:
        count = data.draw(st.integers(1, len(stream)))
        decoder.feed(stream[:count])
        stream = stream[count:]
        while (datagram := decoder.next()) is not None:
            seen.append(datagram)
    assert seen == [(a if with_addresses else None, payload) for a, payload in datagrams]
    assert decoder.next() is None


@given(st.binary(max_size=600))
def test_any_bytes_are_datagrams_or_a_value_error(data: bytes) -> None:
    decoder = DatagramDecoder(with_addresses=True)
    decoder.feed(data)
    try:
        while decoder.next() is not None:
            pass
    except ValueError:
        pass
