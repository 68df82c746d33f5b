"""The rules of the padding scheme, one by one, and its properties for any scheme and payload."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.protocol.frames import HEADER, HEADER_SIZE, MAX_DATA, Command
from anytls_http.protocol.padding import (
    DEFAULT_SCHEME,
    MAX_LINE_BYTES,
    MAX_PADDING0,
    MAX_STEPS,
    PaddingScheme,
)

PAYLOAD = bytes(range(1, 251)) * 40  # 10,000 bytes, none of them zero


def scheme(*lines: str, stop: int = 8) -> PaddingScheme:
    return PaddingScheme.parse("\n".join((f"stop={stop}", *lines)).encode())


def split(line: str, payload: bytes) -> list[bytes]:
    """The records of a packet 1 whose line is ``line``."""
    return [bytes(record) for record in scheme(f"1={line}").split(1, payload, random.Random(1))]


def waste(size: int) -> bytes:
    return HEADER.pack(Command.WASTE, 0, size) + bytes(size)


# -- the default ---------------------------------------------------------------------------------


def test_the_default_scheme_is_the_reference_s_to_the_byte() -> None:
    assert DEFAULT_SCHEME.raw == (
        b"stop=8\n0=30-30\n1=100-400\n2=400-500,c,500-1000,c,500-1000,c,500-1000,c,500-1000\n"
        b"3=9-9,500-1000\n4=500-1000\n5=500-1000\n6=500-1000\n7=500-1000"
    )
    assert DEFAULT_SCHEME.stop == 8
    assert DEFAULT_SCHEME.md5 == "75cff2ad89aadf5e257059ee571ebe11"


def test_the_md5_is_that_of_the_raw_bytes() -> None:
    raw = b"stop=2\r\n\n1=5-5\n"
    parsed = PaddingScheme.parse(raw + b"stop=3")
    assert parsed.raw == raw + b"stop=3"
    assert parsed.md5 == hashlib.md5(raw + b"stop=3").hexdigest()


def test_packet_1_of_the_default_is_one_record_of_100_to_399_bytes() -> None:
    rng = random.Random(3)
    sizes = set()
    for _ in range(2_000):
        [record] = DEFAULT_SCHEME.split(1, b"x" * 50, rng)
        sizes.add(len(record))
    assert min(sizes) == 100
    assert max(sizes) == 399


def test_packet_2_of_the_default_ends_at_a_check_mark_once_the_payload_is_sent() -> None:
    rng = random.Random(3)
    [record] = DEFAULT_SCHEME.split(2, b"x" * 300, rng)
    assert 400 <= len(record) < 500
    first, second = DEFAULT_SCHEME.split(2, b"x" * 517, rng)
    assert 400 <= len(first) < 500
    assert 500 <= len(second) < 1000


def test_packet_3_of_the_default_without_check_mark_pads_after_the_payload() -> None:
    first, second = DEFAULT_SCHEME.split(3, b"x" * 7, random.Random(3))
    assert bytes(first) == b"x" * 7  # 9 - 7 leaves no room for a Waste header
    assert 507 <= len(second) < 1007


# -- stop ----------------------------------------------------------------------------------------


def test_packets_from_stop_on_are_sent_as_they_are() -> None:
    short = scheme("1=5-5", "2=5-5", "3=5-5", stop=2)
    assert len(short.split(1, b"abcdefgh", random.Random())) == 2
    payload = b"abcdefgh"
    for packet in (2, 3, 1_000_000):
        assert short.split(packet, payload, random.Random()) == [payload]


def test_a_packet_below_stop_without_a_line_is_sent_as_it_is() -> None:
    assert scheme("1=5-5").split(4, PAYLOAD, random.Random()) == [PAYLOAD]


def test_a_line_without_any_usable_range_is_sent_as_it_is() -> None:
    assert split("0-5,nonsense", PAYLOAD) == [PAYLOAD]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"stop",
        b"stop=",
        b"stop=eight",
        b"stop=-1",
        b"stop= 8",
        b"stop=8 ",
        b"stop=8\r",
        b"stop=8_0",
        b"stop=8.0",
        b"stop=0x8",
        b"stop=8=8",
        b"stop=\xd9\xa8",  # an Arabic digit eight
        b"stop=9223372036854775808",
        b"stop=" + b"9" * 10_000,
        b"Stop=8",
        b" stop=8",
        b"1=100-400",
        b"stop=8\nstop=x",
    ],
)
def test_a_scheme_without_a_usable_stop_is_rejected(raw: bytes) -> None:
    with pytest.raises(ValueError, match="stop"):
        PaddingScheme.parse(raw)


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("8", 8),
        ("+8", 8),
        ("008", 8),
        ("0", 0),
        ("-0", 0),
        ("4294967296", 1 << 32),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_stop_is_read_as_go_reads_an_integer(text: str, stop: int) -> None:
    assert PaddingScheme.parse(f"stop={text}".encode()).stop == stop


def test_a_scheme_that_no_frame_can_carry_is_rejected() -> None:
    with pytest.raises(ValueError, match="65536"):
        PaddingScheme.parse(b"stop=8".ljust(65_536, b"\n"))


def test_the_last_of_equal_lines_counts() -> None:
    assert scheme("1=5-5", "1=3-3", "stop=6").split(1, b"abcd", random.Random()) == [b"abc", b"d"]


@pytest.mark.parametrize("key", ["01", "+1", " 1", "1 ", "\u0661", "-1"])
def test_a_key_that_is_not_written_like_the_number_is_no_line_of_that_packet(key: str) -> None:
    assert scheme(f"{key}=3-3").split(1, b"abcd", random.Random()) == [b"abcd"]


# -- ranges --------------------------------------------------------------------------------------


def test_a_size_is_drawn_uniformly_from_min_up_to_but_not_max() -> None:
    three = scheme("1=10-13")
    rng = random.Random(7)
    sizes = [len(three.split(1, PAYLOAD, rng)[0]) for _ in range(3_000)]
    assert set(sizes) == {10, 11, 12}
    assert all(800 < sizes.count(size) < 1_200 for size in (10, 11, 12))


def test_equal_bounds_give_that_size() -> None:
    assert split("10-10", PAYLOAD) == [PAYLOAD[:10], PAYLOAD[10:]]


def test_bounds_in_the_wrong_order_are_swapped() -> None:
    swapped = scheme("1=13-10")
    rng = random.Random(7)
    assert {len(swapped.split(1, PAYLOAD, rng)[0]) for _ in range(200)} == {10, 11, 12}


@pytest.mark.parametrize(
    "item",
    ["0-5", "5-0", "0-0", "-5-9", "5--9", "5", "5-", "-5", "-", "", "5-9-12", "a-b", "5 -9", " 5-9", "5_0-60",
     "0x5-9", "C", "cc", " c", "\u0665-9", "5-9223372036854775808", "5-\r"],
)  # fmt: skip
def test_a_range_that_is_not_positive_or_does_not_parse_is_skipped(item: str) -> None:
    assert split(f"{item},10-10", PAYLOAD) == [PAYLOAD[:10], PAYLOAD[10:]]


def test_a_range_is_read_as_go_reads_integers() -> None:
    assert split("+10-0010", PAYLOAD) == [PAYLOAD[:10], PAYLOAD[10:]]


def test_equal_seeds_give_equal_records() -> None:
    assert [split("1-999,1-999", PAYLOAD)] * 2 == [split("1-999,1-999", PAYLOAD) for _ in range(2)]
    one = [DEFAULT_SCHEME.split(1, b"x", random.Random(5)) for _ in range(3)]
    assert one[0] == one[1] == one[2]


# -- the walk ------------------------------------------------------------------------------------


def test_check_mark_stops_when_no_payload_is_left() -> None:
    assert split("4-4,c,9-9,9-9", b"abcd") == [b"abcd"]


def test_check_mark_goes_on_while_there_is_payload() -> None:
    assert split("3-3,c,20-20", b"abcd") == [b"abc", b"d" + waste(20 - 1 - 7)]


def test_more_payload_than_the_size_writes_that_many_bytes() -> None:
    assert split("3-3,5-5", PAYLOAD) == [PAYLOAD[:3], PAYLOAD[3:8], PAYLOAD[8:]]


def test_the_end_of_the_payload_is_filled_up_with_a_waste_frame() -> None:
    [record] = split("100-100", b"abcd")
    assert record == b"abcd" + waste(100 - 4 - 7)
    assert len(record) == 100


@pytest.mark.parametrize("size", [4, 5, 10, 11])
def test_nothing_is_added_where_a_waste_frame_would_carry_no_data(size: int) -> None:
    assert split(f"{size}-{size}", b"abcd") == [b"abcd"]


def test_the_smallest_waste_frame_has_one_byte() -> None:
    assert split("12-12", b"abcd") == [b"abcd" + waste(1)]


def test_a_size_without_payload_is_a_waste_frame_with_that_many_bytes_of_data() -> None:
    assert split("4-4,9-9,1-1", b"abcd") == [b"abcd", waste(9), waste(1)]


def test_payload_left_after_the_list_goes_out_in_one_write() -> None:
    assert split("3-3,c", PAYLOAD) == [PAYLOAD[:3], PAYLOAD[3:]]


def test_an_empty_packet_without_line_writes_nothing() -> None:
    assert DEFAULT_SCHEME.split(9, b"", random.Random()) == []


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_is_taken(kind: type) -> None:
    records = scheme("1=3-3,9-9").split(1, kind(b"abcd"), random.Random())
    assert b"".join(records) == b"abcd" + waste(1)


# -- padding0 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "sizes"),
    [
        (("0=30-30",), {30}),
        (("0=5-8",), {5, 6, 7}),
        (("0=8-5",), {5, 6, 7}),
        (("0=30-30,50-50",), {30}),
        (("0=c,x,30-30",), {30}),
        (("0=c",), {0}),
        (("0=",), {0}),
        ((), {0}),
        (("0=60000-60000",), {MAX_PADDING0}),
    ],
)
def test_padding0_is_the_first_size_of_line_0(lines: tuple[str, ...], sizes: set[int]) -> None:
    parsed = scheme(*lines)
    rng = random.Random(1)
    assert {parsed.padding0(rng) for _ in range(100)} == sizes


def test_line_0_is_read_even_where_stop_is_0() -> None:
    assert scheme("0=30-30", stop=0).padding0(random.Random()) == 30


# -- bounds against a hostile server -------------------------------------------------------------


def test_a_size_that_no_frame_can_carry_is_skipped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "anytls_http.protocol"):
        assert split("65536-65536,100-70000,10-10", PAYLOAD) == [PAYLOAD[:10], PAYLOAD[10:]]
    assert [record.getMessage() for record in caplog.records] == [
        "padding scheme: 2 ranges with sizes over 65535 bytes are skipped"
    ]


@pytest.mark.parametrize("item", ["65535-65535", "65535-65536"])
def test_the_largest_size_is_65535(item: str) -> None:
    assert split(f"4-4,{item}", b"abcd") == [b"abcd", waste(65_535)]


def test_a_line_keeps_a_bounded_number_of_items(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "anytls_http.protocol"):
        records = split(",".join(["1-1"] * 10_000), b"abcd")
    assert len(records) == MAX_STEPS
    assert "1 lines are cut" in caplog.text


def test_what_one_packet_grows_by_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "anytls_http.protocol"):
        records = split(",".join(["60000-60000"] * 5_000), b"abcd")
    assert sum(map(len, records)) <= 4 + MAX_LINE_BYTES
    assert len(records) == MAX_LINE_BYTES // 60_007
    assert "1 lines are cut" in caplog.text


def test_a_log_line_never_repeats_the_server_s_bytes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "anytls_http.protocol"):
        PaddingScheme.parse(b"stop=8\n\x1b[31m=70000-70000\n1=\x1b[31m,70000-70000")
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    "raw",
    [
        b"stop=9\n1=" + b"1-1," * 16_380,
        b"stop=999999999\n" + b"\n".join(b"%d=1-1" % number for number in range(7_500)),
        b"stop=" + b"0" * 65_000 + b"x",
        b"stop=8\n1=" + b"0" * 65_000 + b"x-1",
        b"stop=8\n1=" + b"9" * 65_000 + b"-1",
        b"stop=8\n" + b"=" * 65_000,
        b"stop=8" + b"\n" * 65_000,
        b"stop=8\n1=" + b"-" * 65_000,
        b"stop=8\n" + b"1" * 65_000 + b"=1-1",
    ],
    ids=range(9),
)
def test_parsing_is_quick_for_the_worst_schemes(raw: bytes) -> None:
    begin = time.process_time()
    with contextlib.suppress(ValueError):
        PaddingScheme.parse(raw)
    assert time.process_time() - begin < 0.5  # takes under 0.02 s; quadratic would be seconds


# -- properties ----------------------------------------------------------------------------------

_numbers = st.integers(-3, 2_000) | st.integers(60_000, 70_000)
_items: st.SearchStrategy[str] = st.one_of(
    st.builds("{}-{}".format, _numbers, _numbers), st.just("c"), st.text("0123456789-+c, ", max_size=6)
)


def _scheme_of(stop: int, lines: dict[int, list[str]]) -> PaddingScheme:
    return scheme(*(f"{number}={','.join(items)}" for number, items in lines.items()), stop=stop)


_schemes = st.builds(
    _scheme_of,
    st.integers(0, 12),
    st.dictionaries(st.integers(0, 12), st.lists(_items, max_size=8), max_size=6),
)


def without_waste(records: list[bytes], payload_size: int) -> bytes:
    """What a server keeps of ``records`` when ``payload_size`` bytes of payload come before each Waste frame.

    The payload isn't framed in these tests, so that its end is found by its size.
    """
    kept = b""
    for record in records:
        piece = record[: payload_size - len(kept)]
        kept += piece
        rest = record[len(piece) :]
        while rest:
            command, stream_id, size = HEADER.unpack_from(rest)
            assert (command, stream_id) == (Command.WASTE, 0)
            assert rest[HEADER_SIZE : HEADER_SIZE + size] == bytes(size)
            assert len(rest) >= HEADER_SIZE + size
            rest = rest[HEADER_SIZE + size :]
    return kept


@given(_schemes, st.integers(0, 14), st.binary(max_size=5_000), st.randoms(use_true_random=False))
def test_the_payload_is_carried_in_order_whatever_the_scheme(
    parsed: PaddingScheme, packet: int, payload: bytes, rng: random.Random
) -> None:
    records = [bytes(record) for record in parsed.split(packet, payload, rng)]
    assert without_waste(records, len(payload)) == payload
    assert all(records)  # an empty TLS write would be no record at all
    assert all(len(record) <= max(len(payload), MAX_DATA + HEADER_SIZE) for record in records)
    assert sum(map(len, records)) <= len(payload) + MAX_LINE_BYTES
    if packet >= parsed.stop:
        assert records == ([payload] if payload else [])


@given(_schemes, st.randoms(use_true_random=False))
def test_padding0_always_fits_one_record(parsed: PaddingScheme, rng: random.Random) -> None:
    assert 0 <= parsed.padding0(rng) <= MAX_PADDING0


_fragments = st.sampled_from([b"stop=", b"8", b"\n", b"1=", b"c", b",", b"5-9", b"\x00", b"="])


@given(st.binary(max_size=300) | st.lists(_fragments, max_size=30).map(b"".join))
def test_parsing_any_bytes_gives_a_scheme_or_a_value_error(raw: bytes) -> None:
    try:
        parsed = PaddingScheme.parse(raw)
    except ValueError:
        return
    assert parsed.raw == raw
    assert parsed.stop >= 0
    assert PaddingScheme.parse(raw) == parsed
