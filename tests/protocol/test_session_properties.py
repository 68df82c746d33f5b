"""What holds for any bytes from a server, cut anywhere, and for anything that its user does meanwhile."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from anytls_http.protocol.frames import HEADER, HEADER_SIZE, MAX_DATA, Command, encode_frame
from anytls_http.protocol.padding import DEFAULT_SCHEME, PaddingScheme
from anytls_http.protocol.session import MAX_HEART_RESPONSES, NO_REASON, ClientSession, Event, Piece
from tests.protocol.driver import ADDRESS, BARE, FIXED, Driver, frames, make_session, with_open_stream

COMMANDS = st.one_of(st.sampled_from([int(command) for command in Command]), st.integers(0, 255))
STREAM_IDS = st.one_of(st.integers(0, 3), st.integers(0, 0xFFFFFFFF))
DATA = st.one_of(
    st.just(b""),
    st.binary(max_size=40),
    st.sampled_from([b"v=2", b"v=1", b"stop=3\n1=9-9", b"connection refused"]),
    st.integers(0, MAX_DATA).map(bytes),
)
FRAMES = st.lists(st.builds(encode_frame, COMMANDS, STREAM_IDS, DATA), max_size=12).map(b"".join)
#: Frames, then something that is none.
STREAMS = st.builds(lambda whole, rest: whole + rest, FRAMES, st.binary(max_size=30))
SCHEMES = st.sampled_from([DEFAULT_SCHEME, FIXED, BARE])


def facts(session: ClientSession) -> tuple[object, ...]:
    """All that a user can see of a session."""
    return (
        session.stream_id,
        session.syn_sent,
        session.acknowledged,
        session.peer_closed,
        session.refusal,
        session.peer_version,
        session.frames_received,
        session.heart_responses_due,
        session.payload_left,
        session.skip_left,
        len(session.wanted),
    )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


# -- cut anywhere --------------------------------------------------------------------------------


@given(STREAMS, st.lists(st.integers(0, 1 << 20), max_size=30))
def test_any_stream_cut_anywhere_parses_alike(data: bytes, places: list[int]) -> None:
    whole = Driver(with_open_stream()).feed(data)
    pieces = Driver(with_open_stream()).feed_all(cut(data, places))
    assert pieces.log == whole.log
    assert facts(pieces.session) == facts(whole.session)


#: What a download is made of, and what may come between: data of the open stream, of others, empty, and its end.
DOWNLOADS = st.lists(
    st.builds(
        encode_frame,
        st.sampled_from(
            [Command.PSH] * 6 + [Command.FIN, Command.WASTE, Command.SYNACK, Command.HEART_REQUEST]
        ),
        st.sampled_from([1] * 6 + [0, 2]),
        DATA,
    ),
    max_size=12,
).map(b"".join)


@given(st.one_of(STREAMS, DOWNLOADS), st.lists(st.integers(0, 1 << 20), max_size=30))
def test_the_short_way_through_a_download_is_the_same(data: bytes, places: list[int]) -> None:
    whole = Driver(with_open_stream()).feed(data)
    short = Driver(with_open_stream()).feed_all(cut(data, places), short=True)
    assert short.log == whole.log
    assert facts(short.session) == facts(whole.session)


def test_the_short_way_is_for_more_data_of_an_open_stream() -> None:
    session = with_open_stream()
    header = memoryview(encode_frame(Command.PSH, 1, b"data"))
    assert not session.payload_follows(header)  # the first, which opens the stream
    Driver(session).feed_frame(Command.SYNACK, 1)
    assert session.payload_follows(header)
    assert session.payload_left == 4


@given(
    st.lists(st.builds(encode_frame, COMMANDS, STREAM_IDS, st.binary(max_size=20)), max_size=10).map(b"".join)
)
def test_any_stream_byte_by_byte_parses_alike(data: bytes) -> None:
    whole = Driver(with_open_stream()).feed(data)
    single = Driver(with_open_stream()).feed_all(bytes([byte]) for byte in data)
    assert single.log == whole.log
    assert facts(single.session) == facts(whole.session)


@given(st.binary(max_size=3000), st.lists(st.integers(1, 500), max_size=40), SCHEMES)
def test_what_the_user_sends_arrives_whole_and_in_order(
    data: bytes, steps: list[int], scheme: PaddingScheme
) -> None:
    session = make_session(scheme)
    session.open_stream(ADDRESS)
    written = list(session.opening_records())
    rest = memoryview(data)
    for step in steps:
        if rest:
            written += session.data_records(rest[:step])
            rest = rest[step:]
    if rest:
        written += session.data_records(rest)
    written += session.end_stream()
    sent = frames(written)
    assert [frame.command for frame in sent[:3]] == [Command.SETTINGS, Command.SYN, Command.PSH]
    assert b"".join(frame.data for frame in sent[3:]) == data
    assert (sent[-1].command, sent[-1].stream_id) == (Command.FIN, 1)


@given(
    st.lists(st.sampled_from(["open", "data", "end", "end later", "heart", "fin"]), max_size=60),
    SCHEMES,
)
def test_frames_leave_in_the_order_of_what_the_user_did(steps: list[str], scheme: PaddingScheme) -> None:
    """SYN, address, data, FIN of one stream after the other, wherever a FIN was held; ids rise by one."""
    session = make_session(scheme)
    written: list[Piece] = []
    expected: list[tuple[int, int]] = []
    for step in steps:
        if step == "open" and not session.stream_id:
            session.open_stream(ADDRESS)
        elif step == "data" and session.stream_id:
            if not session.syn_sent:
                expected += [(Command.SYN, session.stream_id), (Command.PSH, session.stream_id)]
            expected.append((Command.PSH, session.stream_id))
            written += session.data_records(memoryview(b"data"))
        elif step in ("end", "end later") and session.stream_id:
            if session.syn_sent:
                expected.append((Command.FIN, session.stream_id))
            written += session.end_stream(hold_fin=step == "end later")
        elif step == "heart":
            expected.append((Command.HEART_REQUEST, 0))
            written += session.heart_request()
        elif step == "fin":
            written += session.held_fin()
    written += session.held_fin()
    sent = frames(written)
    assert not sent or sent[0].command == Command.SETTINGS
    assert [(frame.command, frame.stream_id) for frame in sent[1:]] == expected
    ids = [stream_id for command, stream_id in expected if command == Command.SYN]
    assert ids == list(range(1, len(ids) + 1))


# -- hostile servers -----------------------------------------------------------------------------


def survives(session: ClientSession, data: bytes) -> None:
    """Whatever has come: bounded memory, an answer to each of the user's calls, and no exception."""
    driver = Driver(session).feed(data)
    assert driver.most_wanted <= MAX_DATA
    assert session.heart_responses_due <= MAX_HEART_RESPONSES
    # A byte costs its sender seven at least: what is kept never outgrows what was sent.
    assert len(driver.events) <= len(data) // HEADER_SIZE
    assert sum(len(event.text.replace(NO_REASON, "")) + len(event.data) for event in driver.events) <= len(
        data
    )
    assert all(event.text.isprintable() for event in driver.events)
    assert len(driver.payload) <= len(data)
    assert len(frames(session.heart_responses())) <= MAX_HEART_RESPONSES + 1
    session.heart_request()
    if session.stream_id:
        session.end_stream()
    driver.check()
    session.open_stream(ADDRESS)
    session.data_records(memoryview(b"data"))
    driver.feed(bytes(MAX_DATA + HEADER_SIZE))


@given(st.binary(max_size=4000), st.sampled_from(["new", "held", "open"]))
def test_random_bytes_do_no_harm(data: bytes, stage: str) -> None:
    session = make_session(BARE)
    if stage != "new":
        session.open_stream(ADDRESS)
    if stage == "open":
        session.opening_records()
    survives(session, data)


@given(STREAMS)
def test_random_frames_do_no_harm(data: bytes) -> None:
    survives(with_open_stream(FIXED), data)


@given(COMMANDS, STREAM_IDS, st.integers(0, MAX_DATA))
def test_no_header_makes_it_keep_more_than_a_frame(command: int, stream_id: int, size: int) -> None:
    session = with_open_stream()
    driver = Driver(session).feed(HEADER.pack(command, stream_id, size))
    assert driver.most_wanted <= max(size, HEADER_SIZE)
    expected = size if command in (5, 6, 7, 10) and size else HEADER_SIZE
    assert len(session.wanted) == expected


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_a_megabyte_of_noise_ends_without_harm(seed: int) -> None:
    survives(with_open_stream(), random.Random(seed).randbytes(1 << 20))


def test_endless_frames_of_every_kind_keep_nothing() -> None:
    for command in range(256):
        session = with_open_stream()
        driver = Driver(session).feed(encode_frame(command, 0, b"x") * 50)
        assert len(driver.events) <= 50
        assert session.heart_responses_due <= MAX_HEART_RESPONSES
        assert len(session.wanted) == HEADER_SIZE


# -- streams after one another -------------------------------------------------------------------


@dataclass
class Reader:
    """Collects the data of each stream apart."""

    driver: Driver
    received: dict[int, bytes] = field(default_factory=dict)

    def feed(self, data: bytes) -> None:
        self.driver.log.clear()
        self.driver.feed(data)
        stream_id = self.driver.session.stream_id
        self.received[stream_id] = self.received.get(stream_id, b"") + self.driver.payload


#: A frame whose data says which stream it is of; or what the user does between two reads.
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([Command.PSH, Command.PSH, Command.SYNACK, Command.FIN]),
            st.integers(0, 5),
            st.integers(0, 9),
            st.integers(0, 40),
        ),
        st.sampled_from(["open", "announce", "end"]),
    ),
    max_size=40,
)


@given(STEPS)
@example(["open", "announce", "end", (Command.PSH, 0, 1, 40)])  # stream 0 is no stream
@example(["open", "announce", (Command.PSH, 1, 9, 9), "end", "open", "announce"])  # ends inside a frame
def test_no_stream_ever_gets_a_byte_of_another(steps: list[str | tuple[Command, int, int, int]]) -> None:
    """Nor does any user's timing break the frames: the client may close at any byte."""
    session = make_session(BARE)
    reader = Reader(Driver(session))
    waiting = b""
    for step in steps:
        if isinstance(step, tuple):
            command, stream_id, size, read = step
            waiting += encode_frame(command, stream_id, bytes([stream_id]) * size)
            reader.feed(waiting[:read])
            waiting = waiting[read:]
        elif step == "open" and not session.stream_id:
            session.open_stream(ADDRESS)
        elif step == "announce":
            session.opening_records()
        elif step == "end" and session.stream_id:
            session.end_stream()
        reader.driver.check()
    reader.feed(waiting)
    assert not reader.received.get(0)
    for stream_id, data in reader.received.items():
        assert data == bytes([stream_id]) * len(data)
    assert len(session.wanted) == HEADER_SIZE and not session.skip_left and not session.payload_left


@given(STEPS)
def test_events_of_a_stream_come_only_while_it_is_open(
    steps: list[str | tuple[Command, int, int, int]],
) -> None:
    session = make_session(BARE)
    driver = Driver(session)
    for step in steps:
        if isinstance(step, tuple):
            command, stream_id, size, _ = step
            before = len(driver.log)
            driver.feed_frame(command, stream_id, bytes(size))
            happened: list[Event | bytes] = driver.log[before:]
            if not session.syn_sent or not session.stream_id or stream_id != session.stream_id:
                assert not [item for item in happened if isinstance(item, Event)]
        elif step == "open" and not session.stream_id:
            session.open_stream(ADDRESS)
        elif step == "announce":
            session.opening_records()
        elif step == "end" and session.stream_id:
            session.end_stream()
