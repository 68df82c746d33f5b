"""The session against a server that keeps the rules in any order of events, with bytes cut anywhere.

The model is the server's own book: which stream it knows, and what it has sent on it. ``fuzz/`` has the servers
that keep no rule.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anytls_http.protocol.frames import MAX_DATA, Command, encode_frame
from anytls_http.protocol.padding import DEFAULT_SCHEME
from anytls_http.protocol.session import Piece
from tests.protocol.driver import ADDRESS, BARE, FIXED, Driver, frames, make_session


class SessionAndServer(RuleBasedStateMachine):
    @initialize(scheme=st.sampled_from([BARE, FIXED, DEFAULT_SCHEME]))
    def begin(self, scheme: object) -> None:
        self.session = make_session(scheme)  # type: ignore[arg-type]
        self.driver = Driver(self.session)
        self.way: bytearray = bytearray()  # sent by the server, not yet read by the client
        self.server_stream = 0  # the stream that the server has open
        self.last_stream = 0
        self.acknowledged: set[int] = set()
        self.sent: dict[int, bytes] = {}  # by the server, on each stream
        self.received: dict[int, bytes] = {}  # by the user, on each stream
        self.uploaded: dict[int, bytes] = {}
        self.arrived: dict[int, bytes] = {}

    def _left(self, records: list[Piece]) -> None:
        """The server takes what the client sends."""
        for frame in frames([bytes(record) for record in records]):
            stream = frame.stream_id
            if frame.command == Command.SYN:
                assert self.server_stream == 0, "a second open stream"
                assert stream > self.last_stream, "ids rise"
                self.server_stream = self.last_stream = stream
                self.sent[stream] = b""
                self.arrived[stream] = b""
            elif frame.command == Command.PSH:
                if stream == self.server_stream:
                    self.arrived[stream] += frame.data
            elif frame.command == Command.FIN and stream == self.server_stream:
                self.server_stream = 0
            elif frame.command == Command.HEART_REQUEST:
                self.way += encode_frame(Command.HEART_RESPONSE, 0)

    # The user.

    @precondition(lambda self: not self.session.stream_id)
    @rule()
    def open(self) -> None:
        stream = self.session.open_stream(ADDRESS)
        self.received[stream] = b""
        self.uploaded[stream] = b""

    @precondition(lambda self: self.session.stream_id)
    @rule(data=st.binary(min_size=1, max_size=50), times=st.sampled_from([1, 1, 1, 3000]))
    def send(self, data: bytes, times: int) -> None:
        session = self.session
        if session.peer_closed or session.refusal is not None:
            return  # its caller looks first
        stream = session.stream_id
        self._left(session.data_records(memoryview(data * times)))
        self.uploaded[stream] += data * times

    @precondition(lambda self: self.session.stream_id)
    @rule(hold=st.booleans())
    def close(self, hold: bool) -> None:
        self._left(self.session.end_stream(hold_fin=hold))

    @rule()
    def late_fin(self) -> None:
        self._left(self.session.held_fin())

    @rule()
    def heartbeat(self) -> None:
        self._left(self.session.heart_request())

    @rule()
    def answer(self) -> None:
        self._left(self.session.heart_responses())

    # The server.

    @precondition(lambda self: self.server_stream and self.server_stream not in self.acknowledged)
    @rule(refused=st.booleans())
    def acknowledge(self, refused: bool) -> None:
        stream = self.server_stream
        self.acknowledged.add(stream)
        self.way += encode_frame(Command.SYNACK, stream, b"no" if refused else b"")
        if refused:
            self.way += encode_frame(Command.FIN, stream)
            self.server_stream = 0

    @precondition(lambda self: self.server_stream in self.acknowledged)
    @rule(data=st.binary(max_size=50), times=st.sampled_from([1, 1, 1, 1000]))
    def download(self, data: bytes, times: int) -> None:
        data = (data * times)[:MAX_DATA]
        self.sent[self.server_stream] += data
        self.way += encode_frame(Command.PSH, self.server_stream, data)

    @precondition(lambda self: self.server_stream in self.acknowledged)
    @rule()
    def finish(self) -> None:
        self.way += encode_frame(Command.FIN, self.server_stream)
        self.server_stream = 0

    @rule(command=st.sampled_from([Command.WASTE, Command.HEART_REQUEST, 77]), size=st.integers(0, 300))
    def noise(self, command: int, size: int) -> None:
        self.way += encode_frame(command, 0, bytes(size))

    @precondition(lambda self: not self.session.stream_id and not self.server_stream)
    @rule(size=st.integers(1, 3000), arrives=st.integers(1, 3000))
    def request(self, size: int, arrives: int) -> None:
        """What happens most, in one step: else the draw seldom gets so far."""
        self.open()
        self.send(b"GET", 1)
        self.acknowledge(False)
        self.download(bytes(range(256)), -(-size // 256))
        self._deliver(arrives)

    # The way between them.

    @rule(size=st.integers(1, 2000))
    def deliver(self, size: int) -> None:
        self._deliver(size)

    @rule()
    def deliver_all(self) -> None:
        self._deliver(len(self.way))

    def _deliver(self, size: int) -> None:
        before = len(self.driver.payload)
        stream = self.session.stream_id
        self.driver.feed(bytes(self.way[:size]))
        del self.way[:size]
        if stream:
            self.received[stream] += self.driver.payload[before:]
        else:
            assert len(self.driver.payload) == before, "data for nobody"

    @invariant()
    def each_stream_has_its_own_bytes(self) -> None:
        if not hasattr(self, "session"):
            return
        for stream, data in self.received.items():
            assert self.sent.get(stream, b"").startswith(data)
        for stream, data in self.arrived.items():
            assert (ADDRESS + self.uploaded[stream]).startswith(data)
        session = self.session
        if session.stream_id and session.peer_closed and session.refusal is None:
            # A stream is at its end only when all of it was read.
            assert self.received[session.stream_id] == self.sent[session.stream_id]

    def teardown(self) -> None:
        if not hasattr(self, "session"):
            return
        stream = self.session.stream_id
        self._deliver(len(self.way))
        if stream and self.session.syn_sent and self.session.refusal is None:
            assert self.received[stream] == self.sent[stream]
            if self.server_stream == stream:
                assert self.arrived[stream] == ADDRESS + self.uploaded[stream]
        assert not self.session.in_mid_frame


TestSessionAndServer = SessionAndServer.TestCase
TestSessionAndServer.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
