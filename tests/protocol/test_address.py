"""Target addresses: what goes on the wire for a host and a port, and what is refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.protocol.address import checked_pair, decode_address, encode_address


def name(text: bytes, port: bytes = b"\x00\x50") -> bytes:
    return bytes((3, len(text))) + text + port


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("1.2.3.4", b"\x01\x01\x02\x03\x04\x00\x50"),
        ("0.0.0.0", b"\x01\x00\x00\x00\x00\x00\x50"),
        ("::1", b"\x04" + bytes(15) + b"\x01\x00\x50"),
        ("[::1]", b"\x04" + bytes(15) + b"\x01\x00\x50"),
        ("2001:DB8::A", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x0a\x00\x50"),
        ("::ffff:1.2.3.4", b"\x04" + bytes(10) + b"\xff\xff\x01\x02\x03\x04\x00\x50"),
        ("example.org", name(b"example.org")),
        ("Example.ORG", name(b"Example.ORG")),
        ("example.org.", name(b"example.org.")),
        ("_srv._tcp.example.org", name(b"_srv._tcp.example.org")),
        ("localhost", name(b"localhost")),
        ("host1", name(b"host1")),
        ("1.2.3.4.5", name(b"1.2.3.4.5")),
        ("1.2.3.256", name(b"1.2.3.256")),
        ("bücher.example", name(b"xn--bcher-kva.example")),
        ("例え.テスト", name(b"xn--r8jz45g.xn--zckzah")),
        ("a" * 255, name(b"a" * 255)),
    ],
)
def test_a_host_is_sent_as_what_it_is(host: str, expected: bytes) -> None:
    assert encode_address(host, 80) == expected


@pytest.mark.parametrize(("port", "raw"), [(0, b"\x00\x00"), (443, b"\x01\xbb"), (65_535, b"\xff\xff")])
def test_the_port_is_big_endian(port: int, raw: bytes) -> None:
    assert encode_address("a.b", port) == name(b"a.b", raw)


@pytest.mark.parametrize("port", [-1, 65_536, 1 << 40])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=f"port must be from 0 to 65535, not {port}"):
        encode_address("example.org", port)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("", "empty"),
        ("a" * 256, "256 characters"),
        ("ü" * 300, "300 characters"),
        (".".join(["ü" * 20] * 12), "bytes when encoded"),
        ("ü" * 64, "international name"),
        ("ü..example", "international name"),
        ("\udc80", "international name"),
        ("fe80::1%eth0", "zone"),
        ("[fe80::1%25eth0]", "zone"),
        ("[::1", "neither an IPv6"),
        ("::1]", "neither an IPv6"),
        ("[1.2.3.4]", "neither an IPv6"),
        ("[]", "neither an IPv6"),
        ("::g", "neither an IPv6"),
        ("example.org:80", "neither an IPv6"),
        ("a b", "character"),
        (" example.org", "character"),
        ("example.org\n", "character"),
        ("a\0b", "character"),
        ("a\x7fb", "character"),
        ("a\tb", "character"),
        ("http//x", "character"),
        ("user@host", "character"),
        ("fe80%eth0", "character"),
        ("\u2100.example", "character"),  # IDNA makes "a/c" of it
    ],
)
def test_what_is_no_host_is_refused_in_plain_words(host: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        encode_address(host, 80)
    assert type(caught.value) is ValueError
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "short"),
        (b"\x01", "short"),
        (b"\x01\x01\x02\x03\x04\x00", "short"),
        (b"\x04" + bytes(17), "short"),
        (b"\x03", "short"),
        (b"\x03\x05abcd\x00\x50", "short"),
        (b"\x03\x00\x00\x50", "empty name"),
        (b"\x03\x01\xff\x00\x50", "not ASCII"),
        (b"\x00abcdefgh", "unknown address type 0"),
        (b"\x02abcdefgh", "unknown address type 2"),
        (b"\xffabcdefgh", "unknown address type 255"),
    ],
)
def test_a_cut_or_unknown_address_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        decode_address(raw)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_follows_the_address_is_left_alone(kind: type) -> None:
    assert decode_address(kind(encode_address("example.org", 443) + b"GET /")) == ("example.org", 443, 15)


_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,254}", fullmatch=True)
_addresses = st.ip_addresses().map(str)


@given(_names | _addresses, st.integers(0, 65_535), st.binary(max_size=20))
def test_encode_and_decode_are_inverse(host: str, port: int, rest: bytes) -> None:
    raw = encode_address(host, port)
    found, found_port, consumed = decode_address(raw + rest)
    assert (found_port, consumed) == (port, len(raw))
    if raw[0] == 3:
        assert found == host
    else:
        assert ipaddress.ip_address(found) == ipaddress.ip_address(host)


@given(_names | _addresses, st.integers(0, 65_535))
def test_every_cut_of_an_address_is_refused(host: str, port: int) -> None:
    raw = encode_address(host, port)
    for end in range(len(raw)):
        with pytest.raises(ValueError, match="short"):
            decode_address(raw[:end])


@given(st.text(max_size=300))
def test_any_text_is_encoded_or_refused_with_a_value_error(host: str) -> None:
    try:
        raw = encode_address(host, 1)
    except ValueError as error:
        assert type(error) is ValueError
        return
    assert decode_address(raw)[2] == len(raw)


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused_with_a_value_error(raw: bytes) -> None:
    try:
        _, port, consumed = decode_address(raw)
    except ValueError as error:
        assert type(error) is ValueError
        return
    assert 0 <= port <= 65_535
    assert 0 < consumed <= len(raw)


@pytest.mark.parametrize(
    "address", ["abc", ("abc",), ("abc", "53"), 5, (None, 53), (b"abc", 53), ("a", 1, 0, 0)]
)
def test_what_is_no_pair(address: object) -> None:
    with pytest.raises(TypeError, match=r"an address is a pair of a host \(str\) and a port \(int\), not "):
        checked_pair(address)
    assert checked_pair(["abc", 53]) == ("abc", 53)
