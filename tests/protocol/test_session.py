"""Every rule of ``protocol.md`` about the client's side of a session, one test each."""

from __future__ import annotations

import hashlib
import random

import pytest

from anytls_http.protocol.address import encode_address
from anytls_http.protocol.frames import HEADER, HEADER_SIZE, MAX_DATA, Command, encode_frame
from anytls_http.protocol.padding import DEFAULT_SCHEME, PaddingScheme
from anytls_http.protocol.session import MAX_HEART_RESPONSES, ClientSession, EventKind
from tests.protocol.driver import (
    ADDRESS,
    BARE,
    CLIENT,
    FIXED,
    PASSWORD,
    Driver,
    Frame,
    frames,
    make_session,
    settings_frame,
    sizes,
    with_open_stream,
)

SYN_1 = Frame(Command.SYN, 1, b"")
ADDRESS_1 = Frame(Command.PSH, 1, ADDRESS)


def opened(session: ClientSession, data: bytes = b"") -> list[Frame]:
    """The frames of a new stream of ``session``, with ``data`` where there is some."""
    session.open_stream(ADDRESS)
    return frames(session.data_records(memoryview(data)) if data else session.opening_records())


# -- authentication ------------------------------------------------------------------------------


def test_the_authentication_is_hash_length_and_zero_padding_in_one_record() -> None:
    """sha256(password, UTF-8), u16 length of padding0, padding0; "it must be ONE TLS write"."""
    record = make_session(FIXED).authentication()
    assert isinstance(record, bytes)
    assert record == hashlib.sha256(PASSWORD.encode("utf-8")).digest() + b"\x00\x1e" + bytes(30)


def test_the_size_of_padding0_is_drawn_from_line_0() -> None:
    scheme = PaddingScheme.parse(b"stop=8\n0=20-320")
    seen = set()
    for seed in range(200):
        record = make_session(scheme, seed).authentication()
        size = int.from_bytes(record[32:34], "big")
        assert record[34:] == bytes(size)
        seen.add(size)
    assert min(seen) >= 20 and max(seen) < 320 and len(seen) > 50


def test_no_line_0_means_no_padding0() -> None:
    assert make_session(BARE).authentication() == hashlib.sha256(PASSWORD.encode()).digest() + b"\0\0"


def test_the_authentication_is_packet_0_and_does_not_count() -> None:
    session = make_session(FIXED)
    session.authentication()
    session.open_stream(ADDRESS)
    assert sizes(session.opening_records()) == [600]


def test_nothing_of_the_password_is_in_repr() -> None:
    assert PASSWORD not in repr(make_session())


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [DEFAULT_SCHEME, FIXED, BARE], ids=["default", "fixed", "bare"])
def test_settings_are_the_first_frame_with_version_client_and_the_md5_in_use(scheme: PaddingScheme) -> None:
    """Settings: "first frame of every session"; ``v=2``, ``client=``, ``padding-md5=`` of the raw scheme."""
    assert opened(make_session(scheme))[0] == settings_frame(scheme)


def test_settings_are_sent_once() -> None:
    session = make_session(FIXED)
    first = opened(session, b"data")
    session.end_stream()
    later = opened(session, b"data") + frames(session.heart_request())
    assert [frame.command for frame in first].count(Command.SETTINGS) == 1
    assert Command.SETTINGS not in [frame.command for frame in later]


def test_an_empty_client_is_sent_empty() -> None:
    session = ClientSession(PASSWORD, BARE, "", random.Random(1))
    assert b"\nclient=\n" in opened(session)[0].data


# -- opening a stream ----------------------------------------------------------------------------


def test_packet_1_is_settings_syn_and_address_in_one_buffer() -> None:
    """ "Packet 1 is Settings + SYN + PSH(address) of the first stream, in one buffer"."""
    session = make_session(FIXED)
    session.open_stream(ADDRESS)
    records = session.opening_records()
    assert sizes(records) == [600]  # line 1, the rest of it Waste
    assert frames(records) == [settings_frame(FIXED), SYN_1, ADDRESS_1]
    assert frames(records, waste=True)[-1].command == Command.WASTE


def test_packet_1_may_be_several_records_as_line_1_says() -> None:
    session = make_session(PaddingScheme.parse(b"stop=8\n1=50-50,50-50,c,400-400,c,90-90"))
    session.open_stream(ADDRESS)
    records = session.opening_records()
    assert sizes(records) == [50, 50, 400]  # all is sent at the second check mark
    assert [frame.command for frame in frames(records)] == [Command.SETTINGS, Command.SYN, Command.PSH]


def test_packet_2_is_the_users_first_data() -> None:
    session = make_session(FIXED)
    session.open_stream(ADDRESS)
    records = session.data_records(memoryview(b"ClientHello"))
    assert sizes(records) == [600, 700]
    assert frames(records[:1]) == [settings_frame(FIXED), SYN_1, ADDRESS_1]
    assert frames(records[1:]) == [Frame(Command.PSH, 1, b"ClientHello")]


def test_packet_2_is_the_users_first_data_after_an_opening_sent_alone_too() -> None:
    session = make_session(FIXED)
    session.open_stream(ADDRESS)
    session.opening_records()
    assert sizes(session.data_records(memoryview(b"ClientHello"))) == [700]


def test_the_opening_is_handed_out_once() -> None:
    session = make_session(FIXED)
    session.open_stream(ADDRESS)
    assert session.opening_records()
    assert session.opening_records() == []
    assert frames(session.data_records(memoryview(b"x"))) == [Frame(Command.PSH, 1, b"x")]


def test_without_a_stream_there_is_nothing_to_open() -> None:
    assert make_session(FIXED).opening_records() == []


def test_nothing_waits_for_the_server_before_data_is_sent() -> None:
    """ "Nothing may wait for them before sending": ServerSettings, UpdatePaddingScheme, SYNACK."""
    session = make_session(FIXED)
    session.open_stream(ADDRESS)
    for number in range(10):
        assert frames(session.data_records(memoryview(b"%d" % number)))[-1].data == b"%d" % number
    assert not session.acknowledged


@pytest.mark.parametrize("address", [ADDRESS, encode_address("a" * 63 + "." + "b" * 63, 1)])
def test_the_first_psh_of_a_stream_holds_the_address_alone(address: bytes) -> None:
    session = make_session(BARE)
    session.open_stream(address)
    assert frames(session.data_records(memoryview(b"data")))[2:] == [
        Frame(Command.PSH, 1, address),
        Frame(Command.PSH, 1, b"data"),
    ]


# -- packets after the first two -----------------------------------------------------------------


def test_every_later_write_counts_control_frames_included() -> None:
    """ "Every later write counts too, control frames included"."""
    lines = (f"{packet}={packet + 2}00-{packet + 2}00" for packet in range(1, 10))
    session = make_session(PaddingScheme.parse("\n".join(("stop=7", *lines)).encode()))
    session.open_stream(ADDRESS)
    assert sizes(session.opening_records()) == [300]
    assert sizes(session.data_records(memoryview(b"packet 2"))) == [400]
    assert sizes(session.heart_request()) == [500]
    Driver(session).feed_frame(Command.HEART_REQUEST)
    assert sizes(session.heart_responses()) == [600]
    assert sizes(session.end_stream()) == [700]
    session.open_stream(ADDRESS)
    assert sizes(session.opening_records()) == [800]
    assert session.padding_is_over
    assert sizes(session.data_records(memoryview(b"packet 7"))) == [HEADER_SIZE + 8]


def test_a_packet_without_a_line_of_its_own_is_sent_as_it_is() -> None:
    session = make_session(PaddingScheme.parse(b"stop=4\n1=600-600\n3=800-800"))
    session.open_stream(ADDRESS)
    assert sizes(session.data_records(memoryview(b"data"))) == [600, HEADER_SIZE + 4]
    assert sizes(session.data_records(memoryview(b"data"))) == [800]


def test_from_stop_on_packets_are_sent_as_they_are_for_the_rest_of_the_session() -> None:
    """ "``stop=N``: packets with number >= N are sent as they are, for the rest of the session"."""
    session = make_session(FIXED)
    session.open_stream(ADDRESS)
    session.data_records(memoryview(b"packets 1 and 2"))
    assert not session.padding_is_over
    assert sizes(session.data_records(memoryview(b"packet 3"))) == [800]
    assert session.padding_is_over
    for number in range(4, 30):
        assert session.data_records(memoryview(b"data")) == [encode_frame(Command.PSH, 1, b"data")], number


def test_after_stop_syn_address_and_data_are_one_record() -> None:
    session = make_session(FIXED)
    session.open_stream(ADDRESS)
    for _ in range(3):
        session.data_records(memoryview(b"data"))
    session.end_stream()
    session.open_stream(ADDRESS)
    records = session.data_records(memoryview(b"hello"))
    assert len(records) == 1
    assert frames(records, waste=True) == [
        Frame(Command.SYN, 2, b""),
        Frame(Command.PSH, 2, ADDRESS),
        Frame(Command.PSH, 2, b"hello"),
    ]


def test_without_padding_the_first_stream_is_one_record_too() -> None:
    session = make_session(BARE)
    session.open_stream(ADDRESS)
    records = session.data_records(memoryview(b"hello"))
    assert len(records) == 1
    assert frames(records, waste=True) == [
        settings_frame(BARE),
        SYN_1,
        ADDRESS_1,
        Frame(Command.PSH, 1, b"hello"),
    ]


def test_padding_that_ends_with_packet_1_leaves_the_first_data_as_it_is() -> None:
    session = make_session(PaddingScheme.parse(b"stop=2\n1=600-600\n2=700-700"))
    session.open_stream(ADDRESS)
    records = session.data_records(memoryview(b"hello"))
    assert sizes(records) == [600, HEADER_SIZE + 5]


@pytest.mark.parametrize("size", [1, MAX_DATA - 1, MAX_DATA, MAX_DATA + 1, 3 * MAX_DATA + 5])
@pytest.mark.parametrize("scheme", [BARE, FIXED], ids=["bare", "fixed"])
def test_data_over_65535_bytes_takes_several_psh_frames_of_one_size(scheme: PaddingScheme, size: int) -> None:
    data = random.Random(size).randbytes(size)
    found = opened(make_session(scheme), data)[3:]
    assert {(frame.command, frame.stream_id) for frame in found} == {(Command.PSH, 1)}
    sizes = [len(frame.data) for frame in found]
    # No more than it takes, and none so small that it isn't worth a write at the server.
    assert len(sizes) == -(-size // MAX_DATA)
    assert max(sizes) - min(sizes) < len(sizes)
    assert b"".join(frame.data for frame in found) == data


def test_data_is_copied_so_that_its_owner_may_change_it() -> None:
    session = with_open_stream()
    data = bytearray(b"before")
    records = session.data_records(memoryview(data))
    data[:] = b"after!"
    assert frames(records) == [Frame(Command.PSH, 1, b"before")]


# -- heartbeats before the first SYN -------------------------------------------------------------


def test_a_heartbeat_before_the_first_syn_flushes_settings_padded_by_line_1() -> None:
    """ "Settings are flushed with the first heartbeat, so it is really sent"; line 1, no packet counted."""
    session = make_session(FIXED)
    records = session.heart_request()
    assert sizes(records) == [600]
    assert frames(records) == [settings_frame(FIXED), Frame(Command.HEART_REQUEST, 0, b"")]


def test_a_hundred_heartbeats_leave_packets_1_and_2_to_the_first_user() -> None:
    """ "... so that the first user's ClientHello is padded as it should be"."""
    session = make_session(FIXED)
    for number in range(100):
        records = session.heart_request()
        assert sizes(records) == [600], number
        expected = [settings_frame(FIXED)] if number == 0 else []
        assert frames(records) == [*expected, Frame(Command.HEART_REQUEST, 0, b"")]
    session.open_stream(ADDRESS)
    records = session.data_records(memoryview(b"ClientHello"))
    assert sizes(records) == [600, 700]
    assert frames(records) == [SYN_1, ADDRESS_1, Frame(Command.PSH, 1, b"ClientHello")]


def test_heart_responses_before_the_first_syn_are_written_the_same_way() -> None:
    session = make_session(FIXED)
    Driver(session).feed_frame(Command.HEART_REQUEST)
    records = session.heart_responses()
    assert sizes(records) == [600]
    assert frames(records) == [settings_frame(FIXED), Frame(Command.HEART_RESPONSE, 0, b"")]
    session.open_stream(ADDRESS)
    assert sizes(session.data_records(memoryview(b"ClientHello"))) == [600, 700]


def test_a_heartbeat_while_the_stream_is_held_counts_no_packet() -> None:
    session = make_session(FIXED)
    session.open_stream(ADDRESS)
    assert frames(session.heart_request())[0].command == Command.SETTINGS
    assert sizes(session.data_records(memoryview(b"ClientHello"))) == [600, 700]


def test_heartbeats_have_stream_id_0_and_no_data() -> None:
    session = with_open_stream()
    assert session.heart_request() == [b"\x08\0\0\0\0\0\0"]


# -- the end of a stream -------------------------------------------------------------------------


def test_a_stream_ends_with_a_fin_of_its_id() -> None:
    session = with_open_stream()
    assert session.end_stream() == [encode_frame(Command.FIN, 1)]
    assert session.stream_id == 0


def test_a_fin_is_not_answered_with_a_fin() -> None:
    """FIN: "the stream is closed in BOTH directions; not answered with a FIN"."""
    session = with_open_stream()
    assert Driver(session).feed_frame(Command.FIN, 1).kinds == [EventKind.PEER_CLOSED]
    assert session.peer_closed
    assert session.end_stream() == []


def test_a_refused_stream_needs_no_fin() -> None:
    """SYNACK: "an error closes the stream"."""
    session = with_open_stream()
    Driver(session).feed_frame(Command.SYNACK, 1, b"no route")
    assert session.end_stream() == []


def test_a_stream_closed_before_its_syn_sends_nothing_and_its_id_is_not_used_up() -> None:
    """ "A stream closed before its SYN sends nothing and gives its session back"."""
    session = make_session(FIXED)
    assert session.open_stream(ADDRESS) == 1
    assert session.end_stream() == []
    assert session.open_stream(ADDRESS) == 1
    records = session.data_records(memoryview(b"ClientHello"))
    assert sizes(records) == [600, 700]
    assert frames(records) == [settings_frame(FIXED), SYN_1, ADDRESS_1, Frame(Command.PSH, 1, b"ClientHello")]


def test_stream_ids_rise_from_1_and_one_that_sent_no_syn_leaves_no_gap() -> None:
    """SYN: "ids rise within a session, from 1"."""
    session = make_session(BARE)
    seen = []
    for number in range(10):
        session.open_stream(ADDRESS)
        if number % 3 == 1:
            session.end_stream()
            session.open_stream(ADDRESS)
        seen += [
            frame.stream_id for frame in frames(session.opening_records()) if frame.command == Command.SYN
        ]
        session.end_stream()
    assert seen == list(range(1, 11))


def test_a_session_has_one_open_stream_at_a_time() -> None:
    session = make_session(BARE)
    session.open_stream(ADDRESS)
    with pytest.raises(RuntimeError, match="one open stream"):
        session.open_stream(ADDRESS)


def test_nothing_of_the_last_stream_is_told_of_the_next() -> None:
    session = with_open_stream()
    Driver(session).feed_frame(Command.SYNACK, 1, b"no route").feed_frame(Command.FIN, 1)
    assert session.acknowledged and session.peer_closed and session.refusal == "no route"
    session.end_stream()
    session.open_stream(ADDRESS)
    assert not (session.syn_sent or session.acknowledged or session.peer_closed or session.refusal)


# -- a FIN that may wait -------------------------------------------------------------------------


def past_padding() -> ClientSession:
    session = with_open_stream(FIXED)
    for _ in range(3):
        session.data_records(memoryview(b"data"))
    assert session.padding_is_over
    return session


def test_a_held_fin_leaves_with_the_next_stream_in_one_record_and_before_its_syn() -> None:
    session = past_padding()
    assert session.end_stream(hold_fin=True) == []
    assert session.has_held_fin
    session.open_stream(ADDRESS)
    records = session.data_records(memoryview(b"hello"))
    assert len(records) == 1
    assert frames(records, waste=True) == [
        Frame(Command.FIN, 1, b""),
        Frame(Command.SYN, 2, b""),
        Frame(Command.PSH, 2, ADDRESS),
        Frame(Command.PSH, 2, b"hello"),
    ]
    assert not session.has_held_fin


def test_a_held_fin_leaves_before_an_opening_without_data_too() -> None:
    session = past_padding()
    session.end_stream(hold_fin=True)
    session.open_stream(ADDRESS)
    sent = frames(session.opening_records())
    assert [(frame.command, frame.stream_id) for frame in sent] == [
        (Command.FIN, 1),
        (Command.SYN, 2),
        (Command.PSH, 2),
    ]


def test_a_held_fin_leaves_with_a_control_frame() -> None:
    session = past_padding()
    session.end_stream(hold_fin=True)
    assert frames(session.heart_request()) == [
        Frame(Command.FIN, 1, b""),
        Frame(Command.HEART_REQUEST, 0, b""),
    ]
    session = past_padding()
    session.end_stream(hold_fin=True)
    Driver(session).feed_frame(Command.HEART_REQUEST)
    assert frames(session.heart_responses()) == [
        Frame(Command.FIN, 1, b""),
        Frame(Command.HEART_RESPONSE, 0, b""),
    ]


def test_a_held_fin_leaves_alone_when_asked_for_and_once() -> None:
    session = past_padding()
    session.end_stream(hold_fin=True)
    assert session.held_fin() == [encode_frame(Command.FIN, 1)]
    assert session.held_fin() == [] and not session.has_held_fin
    session.open_stream(ADDRESS)
    assert frames(session.opening_records())[0].command == Command.SYN


def test_a_held_fin_stays_held_while_the_next_stream_is_given_up_before_its_syn() -> None:
    session = past_padding()
    session.end_stream(hold_fin=True)
    session.open_stream(ADDRESS)
    assert session.end_stream(hold_fin=True) == []
    assert session.held_fin() == [encode_frame(Command.FIN, 1)]


def test_while_packets_are_padded_no_fin_is_held() -> None:
    """ "Every later write counts": each packet has a size of its own to show."""
    session = with_open_stream(FIXED)
    assert sizes(session.end_stream(hold_fin=True)) == [700]
    assert not session.has_held_fin


def test_where_the_server_needs_no_fin_none_is_held() -> None:
    session = past_padding()
    Driver(session).feed_frame(Command.FIN, 1)
    assert session.end_stream(hold_fin=True) == []
    assert not session.has_held_fin


# -- what the server says of the stream ----------------------------------------------------------


def test_a_synack_without_data_says_that_the_target_was_reached() -> None:
    session = with_open_stream()
    driver = Driver(session).feed_frame(Command.SYNACK, 1)
    assert driver.kinds == [EventKind.OPENED]
    assert session.acknowledged and session.refusal is None


def test_a_synack_with_data_is_a_refusal_in_the_servers_words() -> None:
    words = (
        "open connection to 127.0.0.1:1 using outbound/direct[0]: dial tcp 127.0.0.1:1: connection refused"
    )
    session = with_open_stream()
    driver = Driver(session).feed_frame(Command.SYNACK, 1, words.encode())
    assert [(event.kind, event.text) for event in driver.events] == [(EventKind.REFUSED, words)]
    assert session.refusal == words


def test_a_refusal_of_blanks_is_a_refusal_all_the_same() -> None:
    session = with_open_stream()
    assert Driver(session).feed_frame(Command.SYNACK, 1, b" \n").kinds == [EventKind.REFUSED]
    assert session.refusal == "it gave no reason"
    assert session.end_stream() == []


def test_data_of_the_stream_is_handed_out_and_acknowledges_it() -> None:
    """A version 1 server sends no SYNACK, and mihomo's may come late: data says as much."""
    session = with_open_stream()
    driver = Driver(session).feed_frame(Command.PSH, 1, b"one").feed_frame(Command.PSH, 1, b"two")
    assert driver.log == [b"onetwo"]
    assert session.acknowledged
    assert driver.feed_frame(Command.SYNACK, 1).events == []


def test_a_psh_of_0_bytes_is_no_data_and_no_end() -> None:
    session = with_open_stream()
    driver = Driver(session)
    driver.feed_frame(Command.PSH, 1).feed_frame(Command.PSH, 1, b"data").feed_frame(Command.PSH, 1)
    assert driver.log == [b"data"]
    assert not session.peer_closed and not session.payload_left


def test_data_before_a_fin_is_handed_out_and_after_it_dropped() -> None:
    session = with_open_stream()
    driver = Driver(session).feed_frame(Command.PSH, 1, b"last")
    driver.feed_frame(Command.FIN, 1).feed_frame(Command.PSH, 1, b"too late")
    assert driver.payload == b"last"


def test_data_after_a_refusal_is_dropped() -> None:
    driver = Driver(with_open_stream()).feed_frame(Command.SYNACK, 1, b"no").feed_frame(Command.PSH, 1, b"x")
    assert driver.payload == b""


@pytest.mark.parametrize("command", [Command.SYNACK, Command.FIN, Command.PSH])
@pytest.mark.parametrize("data", [b"", b"words"])
@pytest.mark.parametrize("stream_id", [0, 2, 0xFFFFFFFF])
def test_frames_of_a_stream_that_never_was_mean_nothing(
    command: Command, data: bytes, stream_id: int
) -> None:
    session = with_open_stream()
    driver = Driver(session).feed_frame(command, stream_id, data)
    assert driver.log == []
    assert not (session.acknowledged or session.peer_closed or session.refusal)
    assert driver.feed_frame(Command.PSH, 1, b"still open").payload == b"still open"


@pytest.mark.parametrize("command", [Command.SYNACK, Command.FIN, Command.PSH])
@pytest.mark.parametrize("syn_sent", [True, False])
def test_late_frames_of_an_earlier_stream_mean_nothing_to_the_next(command: Command, syn_sent: bool) -> None:
    """ "PSH for a stream that is not open ... read to their length and dropped"; SYNACK and FIN likewise."""
    session = with_open_stream()
    session.end_stream()
    session.open_stream(ADDRESS)
    if syn_sent:
        session.opening_records()
    driver = Driver(session).feed_frame(command, 1, b"late")
    assert driver.log == []
    assert not (session.acknowledged or session.peer_closed or session.refusal)
    session.opening_records()
    assert driver.feed_frame(Command.PSH, 2, b"mine").log == [b"mine"]


@pytest.mark.parametrize("command", [Command.SYNACK, Command.FIN, Command.PSH])
@pytest.mark.parametrize("data", [b"", b"words"])
@pytest.mark.parametrize("stream_id", [0, 1, 2])
@pytest.mark.parametrize("acknowledged", [True, False])
def test_frames_of_any_stream_mean_nothing_while_none_is_open(
    command: Command, data: bytes, stream_id: int, acknowledged: bool
) -> None:
    """An idle session must go on being read to the end of it, whatever the server sends for stream 0.

    0 is ``stream_id`` of a session without stream: compared without care, such a frame is taken for one of
    the open stream.
    """
    session = with_open_stream()
    driver = Driver(session)
    if acknowledged:
        driver.feed_frame(Command.SYNACK, 1)
    session.end_stream()
    driver.log.clear()
    driver.feed_frame(command, stream_id, data)
    assert driver.log == []
    assert not (session.peer_closed or session.refusal is not None or session.payload_left)
    session.open_stream(ADDRESS)
    session.opening_records()
    assert driver.feed_frame(Command.PSH, 2, b"mine").log == [b"mine"]


@pytest.mark.parametrize("command", [Command.SYNACK, Command.FIN, Command.PSH])
def test_frames_for_a_stream_that_the_server_can_not_know_yet_mean_nothing(command: Command) -> None:
    session = make_session(BARE)
    session.open_stream(ADDRESS)
    driver = Driver(session).feed_frame(command, 1, b"early")
    assert driver.log == []
    assert not (session.acknowledged or session.peer_closed or session.refusal)


def test_a_stream_that_ends_inside_a_frame_leaves_the_rest_of_it_to_nobody() -> None:
    session = with_open_stream()
    driver = Driver(session)
    frame = encode_frame(Command.PSH, 1, b"wanted" + b"unread" * 100)
    driver.feed(frame[: HEADER_SIZE + 6])
    session.end_stream()
    assert session.skip_left == 600 and session.payload_left == 0
    session.open_stream(ADDRESS)
    session.opening_records()
    driver.feed(frame[HEADER_SIZE + 6 :] + encode_frame(Command.PSH, 2, b" mine"))
    assert driver.payload == b"wanted mine"


@pytest.mark.parametrize("cut", range(HEADER_SIZE + 5))
def test_a_stream_that_ends_while_its_synack_arrives_leaves_the_next_alone(cut: int) -> None:
    session = with_open_stream()
    frame = encode_frame(Command.SYNACK, 1, b"words")
    driver = Driver(session).feed(frame[:cut])
    session.end_stream()
    session.open_stream(ADDRESS)
    session.opening_records()
    driver.feed(frame[cut:])
    assert driver.log == []
    assert not session.acknowledged and session.refusal is None


def test_a_second_synack_means_nothing() -> None:
    session = with_open_stream()
    driver = Driver(session).feed_frame(Command.SYNACK, 1).feed_frame(Command.SYNACK, 1, b"changed my mind")
    assert driver.kinds == [EventKind.OPENED]
    assert session.refusal is None


# -- versions ------------------------------------------------------------------------------------


def test_the_version_is_unknown_until_the_server_says_it() -> None:
    session = with_open_stream()
    assert session.peer_version == 0
    driver = Driver(session).feed_frame(Command.SERVER_SETTINGS, 0, b"v=2")
    assert driver.kinds == [EventKind.SERVER_SETTINGS]
    assert session.peer_version == 2


def test_a_version_1_server_never_says_anything_and_the_stream_works() -> None:
    """ "No ServerSettings means a version 1 server: no SYNACK, no heartbeats"."""
    session = with_open_stream()
    driver = Driver(session).feed_frame(Command.PSH, 1, b"data").feed_frame(Command.FIN, 1)
    assert driver.kinds == [EventKind.PEER_CLOSED]
    assert driver.payload == b"data"
    assert session.peer_version == 0 and session.acknowledged


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (b"v=2", 2),
        (b"name=x\nv=2\n", 2),
        (b"v=1", 1),
        (b"", 1),
        (b"v=", 1),
        (b"v=two", 1),
        (b"v=-2", 1),
        ("v=²".encode(), 1),
        (b"v=" + b"9" * 5000, 1),
        (b"\xff\xfe", 1),
    ],
)
def test_server_settings_tell_the_version(data: bytes, version: int) -> None:
    session = with_open_stream()
    assert Driver(session).feed_frame(Command.SERVER_SETTINGS, 0, data).kinds == [EventKind.SERVER_SETTINGS]
    assert session.peer_version == version


# -- other frames of the server ------------------------------------------------------------------


@pytest.mark.parametrize("command", [Command.WASTE, Command.SYN, Command.SETTINGS, 11, 77, 255])
@pytest.mark.parametrize("size", [0, 1, MAX_DATA])
def test_padding_unknown_commands_and_those_of_clients_are_skipped(command: int, size: int) -> None:
    """ "Unknown commands ... are read to their length and dropped", and Waste; without keeping them."""
    session = with_open_stream()
    driver = Driver(session).feed_frame(command, 1, bytes(size)).feed_frame(Command.PSH, 1, b"next")
    assert driver.log == [b"next"]
    assert driver.most_wanted == HEADER_SIZE


def test_an_answer_in_http_is_no_frame() -> None:
    """Who sends it has understood nothing of the password: a wrong one, or no AnyTLS server."""
    session = with_open_stream()
    before = session.frames_received
    Driver(session).feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert session.frames_received == before


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (Command.FIN, EventKind.PEER_CLOSED),
        (Command.HEART_REQUEST, EventKind.HEART_REQUEST),
        (Command.HEART_RESPONSE, EventKind.HEART_RESPONSE),
    ],
)
def test_frames_with_data_where_none_is_expected_count_and_their_data_does_not(
    command: Command, kind: EventKind
) -> None:
    driver = Driver(with_open_stream()).feed_frame(command, 1, encode_frame(Command.ALERT, 0, b"no"))
    assert driver.kinds == [kind]
    assert driver.feed_frame(Command.HEART_REQUEST).kinds[-1] == EventKind.HEART_REQUEST


def test_a_padding_scheme_is_handed_on_raw_and_this_session_keeps_its_own() -> None:
    """UpdatePaddingScheme: "used by every session that this client opens from then on", not by this one."""
    session = make_session(FIXED)
    session.open_stream(ADDRESS)
    raw = b"stop=9\n1=1-1\n\xff"
    driver = Driver(session).feed_frame(Command.UPDATE_PADDING_SCHEME, 0, raw)
    assert [(event.kind, event.data) for event in driver.events] == [(EventKind.PADDING_SCHEME, raw)]
    assert sizes(session.data_records(memoryview(b"data"))) == [600, 700]


def test_an_alert_is_told_with_its_text() -> None:
    driver = Driver(with_open_stream()).feed_frame(Command.ALERT, 0, "Wartung um 3 Uhr früh".encode())
    assert [(event.kind, event.text) for event in driver.events] == [
        (EventKind.ALERT, "Wartung um 3 Uhr früh")
    ]


def test_an_alert_without_text_is_an_alert() -> None:
    driver = Driver(with_open_stream()).feed_frame(Command.ALERT)
    assert [(event.kind, event.text) for event in driver.events] == [(EventKind.ALERT, "it gave no reason")]


@pytest.mark.parametrize("command", [Command.ALERT, Command.SYNACK])
@pytest.mark.parametrize(
    "words",
    [
        b"\x1b[2J\x1b]0;title\x07 red \x1b[31m",
        b"two\r\nlines\tand a tab\0",
        b"not \xff\xfe UTF-8 \x80",
        "right to left \u202e mark, C1 \x9b31m, line \u2028 end".encode(),
        bytes(range(256)),
        b"\n" * MAX_DATA,
    ],
)
def test_the_servers_words_are_safe_to_print(command: Command, words: bytes) -> None:
    (event,) = Driver(with_open_stream()).feed_frame(command, 1, words).events
    assert event.text.isprintable()
    assert event.text == event.text.strip()
    for word in ("red", "lines", "UTF-8", "right"):
        assert (word in event.text) == (word.encode() in words)


def test_a_heart_request_is_answered_with_stream_id_0() -> None:
    """ "Answer with HeartResponse, same stream id (0)"."""
    session = with_open_stream()
    assert session.heart_responses() == []
    assert Driver(session).feed_frame(Command.HEART_REQUEST).kinds == [EventKind.HEART_REQUEST]
    assert session.heart_responses() == [b"\x09\0\0\0\0\0\0"]
    assert session.heart_responses() == []


def test_several_heart_requests_are_answered_in_one_packet() -> None:
    session = with_open_stream()
    Driver(session).feed(encode_frame(Command.HEART_REQUEST, 0) * 3)
    assert session.heart_responses() == [b"\x09\0\0\0\0\0\0" * 3]


def test_heart_responses_are_capped() -> None:
    session = with_open_stream()
    Driver(session).feed(encode_frame(Command.HEART_REQUEST, 0) * 10_000)
    assert session.heart_responses_due == MAX_HEART_RESPONSES
    assert len(frames(session.heart_responses())) == MAX_HEART_RESPONSES


def test_frames_are_counted_as_soon_as_their_header_is_there() -> None:
    """The first frame says that the password was right, even before all of it has come."""
    session = with_open_stream()
    driver = Driver(session).feed(HEADER.pack(Command.UPDATE_PADDING_SCHEME, 0, 100)[:-1])
    assert session.frames_received == 0
    driver.feed(b"\x64")
    assert session.frames_received == 1
    driver.feed(bytes(100)).feed(encode_frame(Command.WASTE, 0, b"x") * 5)
    assert session.frames_received == 6


def test_the_client_name_is_whole_in_the_settings() -> None:
    assert CLIENT.encode() in opened(make_session())[0].data
