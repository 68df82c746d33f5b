"""One session of the pool: the protocol over one TLS connection, driven by its callers' threads.

There is no reader thread. Two roles, each a lock: the *reader* waits for ciphertext, decrypts and
parses; the *writer* makes packets, encrypts and sends (the order of the packets is the order of the
ciphertext). Whoever polls the descriptor holds the reader's role, so nobody else can drain it and
leave him asleep. A session is closed by anybody at any time: TCP's shutdown wakes who is inside, and
the last one out closes the descriptor.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from anytls_http.errors import (
    AnyTLSError,
    AnyTLSTimeout,
    AuthenticationError,
    DialError,
    SessionClosed,
    StreamRefused,
)
from anytls_http.net.scratch import RECORD, scratch
from anytls_http.net.tls import TLSConnection
from anytls_http.net.tls_engine import END, NEED_INPUT
from anytls_http.net.waiting import AT_ONCE, deadline_after, earlier, remaining
from anytls_http.protocol.frames import MAX_DATA
from anytls_http.protocol.padding import PaddingScheme
from anytls_http.protocol.session import ClientSession, Event, EventKind

from . import rules
from .events import Event as PoolEvent
from .events import logger

if TYPE_CHECKING:
    from .state import PoolState

# Life of the descriptor: it may be closed once nobody watches it any more, and nobody is inside.
OPEN, MAY_CLOSE, CLOSED = range(3)

#: Most user bytes of one write: two whole PSH frames. Larger steps cost more memory and gain nothing.
WRITE_SIZE = 2 * MAX_DATA
#: A stream closed with more than this unread takes its session along: reading the rest costs more than a dial.
MAX_UNREAD = 64 * 1024
#: Bytes that a look without waiting parses at the most, so that endless padding can't hold its caller.
MAX_LOOK = 256 * 1024
#: Reads from the connection that one call without waiting makes at the most.
MAX_FILLS = 16
#: While data is uploaded, look for a refusal or a FIN each time so many bytes were sent.
LOOK_EVERY = 512 * 1024


class StreamEnded(SessionClosed):
    """The stream is over, by one side's close; its session goes on."""


class Session:
    """One authenticated session; it has at most one open stream, owned by one socket.

    Made by ``dialer.dial``. Public attributes are facts for the rules and the statistics.
    """

    __slots__ = (
        "__weakref__",
        "_descriptor",
        "_drained_by",
        "_error",
        "_events",
        "_life",
        "_on_input",
        "_plain",
        "_protocol",
        "_reader",
        "_reader_waits",
        "_sent_since_look",
        "_shortest_trip",
        "_state",
        "_timed_out",
        "_tls",
        "_unusable",
        "_writer",
        "bytes_received",
        "bytes_sent",
        "closed",
        "created_at",
        "expires_at",
        "heart_sent_at",
        "heartbeats_answered",
        "heartbeats_sent",
        "idle_since",
        "last_received",
        "last_upload",
        "round_trip",
        "sequence",
        "streams_opened",
        "target",
        "unasked_bytes",
    )

    def __init__(
        self, state: PoolState, tls: TLSConnection, protocol: ClientSession, sequence: int, round_trip: float
    ) -> None:
        now = state.clock()
        lifetime = rules.lifetime(state.options, state.rng)
        self._state = state
        self._tls = tls
        self._protocol = protocol
        self._reader = threading.Lock()
        self._writer = threading.Lock()
        self._life = threading.Lock()  # who closes first
        self._reader_waits = False
        self._descriptor = OPEN
        self._events: deque[PoolEvent] = deque()  # told when no role is held
        self._plain = memoryview(b"")  # decrypted, not yet parsed: at most a record
        self._unusable = False  # for a next stream; this one may go on
        self._sent_since_look = 0
        self._timed_out = False  # a reader of the open stream has waited in vain
        self._drained_by = 0  # the answer, by its number, that comes after all that an ended stream has left
        self._on_input: Callable[[], None] | None = None  # set while a relay watches the descriptor

        self.sequence = sequence
        self.created_at = now
        self.expires_at = None if lifetime is None else now + lifetime
        self.idle_since = now
        self.last_received = now
        self.last_upload = 0.0  #: when a stream's opening or its data was last written
        self.heart_sent_at: float | None = None  #: the HeartRequest that waits for a frame
        self.heartbeats_sent = 0
        self.heartbeats_answered = 0
        self.round_trip = round_trip  #: seconds, as last measured
        self._shortest_trip = round_trip  # one slow answer says little about the way
        self.closed = False
        self._error: AnyTLSError | None = None
        self.target = ""  #: ``host:port`` of the open stream
        self.streams_opened = 0
        self.unasked_bytes = 0  #: read since the last stream has ended
        self.bytes_sent = 0
        self.bytes_received = 0

    # -- facts -----------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the TCP descriptor, for the watcher; -1 when closed."""
        return self._tls.fileno()

    @property
    def error(self) -> AnyTLSError | None:
        """What ended the session, an exception of one's own for each who raises it."""
        return self._error and self._error.bare()

    @error.setter
    def error(self, error: AnyTLSError | None) -> None:
        self._error = error and error.bare()

    @property
    def frames_received(self) -> int:
        """Frames received so far."""
        return self._protocol.frames_received

    @property
    def server_version(self) -> int:
        """The protocol's version that the server said on this session, 0 until it did (version 1 never does)."""
        return self._protocol.peer_version

    @property
    def local_address(self) -> tuple[object, ...] | None:
        """The session's own TCP address."""
        return self._tls.local_address

    @property
    def acknowledged(self) -> bool:
        """Whether the server said that the open stream's target was reached."""
        return self._protocol.acknowledged

    @property
    def has_stream(self) -> bool:
        """Whether a stream is open (or held)."""
        return self._protocol.stream_id != 0

    def is_silent(self) -> bool:
        """Whether nothing was received for so long that life must be proven before data is trusted to it."""
        last = self.last_received
        return last < self._state.suspect_since or self._state.clock() - last > rules.silence_limit(
            self._state.options
        )

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self.has_stream else "idle"
        return f"<Session #{self.sequence} {state}, {self._state.clock() - self.created_at:.0f} s old>"

    # -- streams ---------------------------------------------------------------------------------------

    def open_stream(self, address: bytes, target: str) -> int:
        """Begin a stream and return its id; nothing is sent before :meth:`send`, :meth:`receive` or :meth:`look`."""
        self.target = target
        self.streams_opened += 1
        self._timed_out = False
        self.unasked_bytes = 0
        return self._protocol.open_stream(address)

    def end_stream(self, may_wait: bool = True) -> bool:
        """End the stream, with a FIN where the server needs one; True when the session may be used again.

        A session with another thread inside, with too much unread, or whose connection doesn't take
        the FIN at once, is closed instead. One on which more is still coming is given to the maintenance
        thread, which puts it back when all that has come: on a slow link, what senders and routers hold
        of a large download takes long, and the next stream would have to wait for it. ``may_wait``: where
        the server is near, it waits for that itself, a few milliseconds.
        """
        protocol = self._protocol
        self._tell("stream_closed", target=self.target)
        # The maintenance thread may be inside for a moment, with a report from before the session was taken.
        if self._take_reader_briefly():
            try:
                if self._writer.acquire(timeout=0.01):
                    try:
                        reusable = not self.closed and not self._unusable and self._finish(protocol)
                    finally:
                        self._writer.release()
                    if self.is_draining and may_wait and self.round_trip < rules.NEAR:
                        self._drain(deadline_after(rules.DRAIN_WAIT))
                else:
                    reusable = False
            finally:
                self._leave_reading()
        else:
            reusable = False
        if reusable and self.is_draining and not self.closed:
            self._state.drain(self)
            reusable = False
        elif not reusable or self.closed:
            reusable = False
            self.close("error" if self._error else "client_closed")
        self._after_role()
        return reusable

    def _finish(self, protocol: ClientSession) -> bool:
        if self._tls.has_unsent:
            return False
        state = self._state
        more = False
        try:
            if not protocol.peer_closed and protocol.syn_sent and protocol.refusal is None:
                if not self._parse_what_is_there():
                    raise self._ended()
                unread = protocol.payload_left + self._tls.unread_in_kernel()
                if protocol.payload_left and not protocol.peer_closed and unread > MAX_UNREAD:
                    return False
                more = self._more_is_coming()
                if self._timed_out and self.last_upload > self.last_received:
                    # It may have frozen a moment ago, and others with it: they must prove that they live.
                    state.suspect_since = max(state.suspect_since, self.last_upload)
                    raise SessionClosed("the session gave no sign of life until the reader's time-out")
                if more and (state.server_version < 2 or state.watcher is None):
                    if protocol.in_mid_frame:
                        return False
                    more = False  # nothing would tell when all has come
            # Where a next stream follows soon, the FIN leaves with its SYN: one system call, one wake-up of
            # the server less. The maintenance thread sends it a moment later otherwise.
            records = protocol.end_stream(hold_fin=state.watcher is not None and not more)
            if more:
                # The server answers in order: what comes before this answer is the old stream's.
                records += protocol.heart_request()
                self.heartbeats_sent += 1
                self._drained_by = self.heartbeats_sent
            if records:
                self._tls.write(records, AT_ONCE, keep_unsent=True)
        except AnyTLSError as exc:
            self.error = exc
            return False
        return not self._tls.has_unsent

    def _more_is_coming(self) -> bool:
        """Drop what has arrived for the stream that is being ended; return whether the server was not through with it.

        What tells: data that its user has left, a frame or a TLS record of which a part has come, a target
        that is still being connected to (until then sing-box takes nothing more), an upload on its way.
        """
        protocol = self._protocol
        left = 0
        while protocol.payload_left and not self._over_or_dead() and left < MAX_UNREAD:
            left += protocol.payload_left
            protocol.skip_left, protocol.payload_left = protocol.payload_left, 0
            if not self._parse_what_is_there():
                raise self._ended()
        if protocol.peer_closed:
            return False
        return (
            left > 0
            or protocol.in_mid_frame
            or self._tls.engine.partial
            or not protocol.acknowledged
            or (self.last_upload > self.last_received and self._tls.unacknowledged() > MAX_UNREAD)
        )

    def _drain(self, deadline: float | None) -> None:
        """Read what an ended stream has left, until ``deadline``. The caller holds the reader's role."""
        try:
            while self.is_draining and not self.closed:
                self._wait_for_input(deadline)
                if not self._parse_what_is_there():
                    raise self._ended()
        except AnyTLSTimeout:
            pass
        except AnyTLSError as exc:
            self._break(exc)
        except BaseException as exc:
            self._break(exc)
            raise

    @property
    def is_draining(self) -> bool:
        """Whether what an ended stream has left is still coming; the session is nobody's until then."""
        return self.heartbeats_answered < self._drained_by

    # -- reading ---------------------------------------------------------------------------------------

    def receive(self, stream_id: int, view: memoryview, deadline: float | None) -> int:
        """Fill ``view`` with what the stream has, waiting for the first byte only; return the count, 0 at its end.

        Raises :class:`StreamRefused`, :class:`SessionClosed`, :class:`AuthenticationError`, or
        :class:`AnyTLSTimeout` at ``deadline``.
        """
        if not self._reader.acquire(False) and not self._reader.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was reading")
        try:
            if not self._protocol.syn_sent and self._protocol.stream_id == stream_id:
                self._send_opening(deadline)
            count = self._receive(stream_id, view, deadline)
        except AnyTLSTimeout:
            if not self._protocol.syn_sent:
                self.poke_relay()  # another thread was writing: no event will tell of its end
            elif deadline != AT_ONCE:
                self._timed_out = True
            raise
        except AnyTLSError as exc:
            raise self._break(exc) from exc.__cause__
        except BaseException as exc:
            self._break(exc)
            raise
        finally:
            self._leave_reading()
        self.bytes_received += count
        return count

    def _receive(self, stream_id: int, view: memoryview, deadline: float | None) -> int:
        protocol = self._protocol
        engine = self._tls.engine
        total = 0
        size = len(view)
        waits = 0
        while total < size and not self._unusable:
            if protocol.payload_left and protocol.stream_id == stream_id:
                plain = self._plain
                if plain:
                    count = min(len(plain), protocol.payload_left, size - total)
                    view[total : total + count] = plain[:count]
                    self._plain = plain[count:]
                else:
                    count = engine.decrypt_into(view[total : total + protocol.payload_left])
                if count > 0:
                    protocol.payload_left -= count
                    total += count
                    if total < size and (self._plain or not engine.drained):
                        continue
                    break
            elif self._stream_is_over(stream_id):
                break
            else:
                count = self._parse_one()
                if count > 0:
                    continue
            if total:
                break  # what was read is handed out; the end, or the wait, is for the next call
            if count == END:
                raise self._ended()
            # A server that sends without end what is nobody's data must not hold its reader past the deadline.
            if waits and remaining(deadline) == 0 and (deadline != AT_ONCE or waits >= MAX_FILLS):
                self.poke_relay()
                raise AnyTLSTimeout("timed out while waiting for data")
            self._wait_for_input(deadline)
            waits += 1
        return total

    def _stream_is_over(self, stream_id: int) -> bool:
        protocol = self._protocol
        if self.closed:
            raise self.error or SessionClosed("the connection was closed")
        if protocol.stream_id != stream_id:
            raise StreamEnded("the stream was closed")
        if protocol.refusal is not None:
            raise StreamRefused(f"{self.target}: the server refused: {protocol.refusal}")
        return protocol.peer_closed

    def _parse_one(self) -> int:
        """Parse what is buffered up to the next payload, an event or the end of a record.

        Returns the bytes read or parsed, NEED_INPUT or END. A record is read whole: its frames are mostly
        small, and each call of OpenSSL gives up the GIL. The caller holds the reader's role.
        """
        protocol = self._protocol
        plain = self._plain
        if not plain:
            record = scratch(RECORD)
            count = self._tls.engine.decrypt_into(record)
            if count <= 0:
                return count
            plain = record[:count]
        size = len(plain)
        event: Event | None = None
        acknowledged = protocol.acknowledged
        while plain and event is None and not protocol.payload_left:
            if protocol.skip_left:
                count = min(protocol.skip_left, len(plain))
                protocol.skip_left -= count
            else:
                wanted = protocol.wanted
                count = min(len(wanted), len(plain))
                wanted[:count] = plain[:count]
                event = protocol.filled(count)
            plain = plain[count:]
        self._plain = plain
        if event is not None:
            self._handle(event)
        elif (
            protocol.acknowledged and not acknowledged
        ):  # by data: a version 1 server has no other word for it
            self._stream_opened()
        return size - len(plain)

    def _leave_reading(self) -> None:
        """Give the reader's role back; the thread's buffer is lent for as long only."""
        if self._plain:
            self._plain = memoryview(bytes(self._plain))
        self._reader.release()
        self._after_role()

    def _wait_for_input(self, deadline: float | None) -> None:
        self._answer()
        self._reader_waits = True
        try:
            received = self._tls.receive(deadline)
        finally:
            self._reader_waits = False
        if received:
            self._note_input()
        elif not self._unusable:  # else it is our own end of the reading; writing goes on
            self._tls.engine.feed_end()

    def _over_or_dead(self) -> bool:
        protocol = self._protocol
        return protocol.peer_closed or protocol.refusal is not None or self.closed

    def _note_input(self) -> None:
        now = self._state.clock()
        if self.heart_sent_at is not None:
            seconds = now - self.heart_sent_at
            self.heart_sent_at = None
            if self.has_stream:
                self._tell("heartbeat")  # the answer may have waited long for its reader
            else:
                self.round_trip = seconds
                self._shortest_trip = min(self._shortest_trip, seconds)
                self._tell("heartbeat", seconds=seconds)
        self.last_received = now

    def _parse_what_is_there(self) -> bool:
        """Parse, without waiting, until payload, the stream's end or nothing is left; False at the end of the session.

        The caller holds the reader's role.
        """
        protocol = self._protocol
        budget = MAX_LOOK
        while not protocol.payload_left and not self._over_or_dead():
            count = self._parse_one()
            if count == END:
                return False
            if count == NEED_INPUT:
                if not self._tls.has_arrived():
                    break
                received = self._tls.receive(AT_ONCE)
                if received:
                    self._note_input()
                else:
                    self._tls.engine.feed_end()
                continue
            budget -= count
            if budget <= 0:
                break
        if not protocol.stream_id:
            self.unasked_bytes += MAX_LOOK - budget
        return True

    def look(self, stream_id: int | None = None) -> bool:
        """Take in what has arrived, without waiting.

        Returns whether the stream (with an id: an open one of its own) has something for its reader:
        data, its end, a refusal, or the session's end. Without an id: whether the session is usable.
        """
        protocol = self._protocol
        if self._reader.acquire(False):
            if self._nothing_has_come(stream_id):
                self._reader.release()
                if self._descriptor != OPEN:
                    self._after_role()
                return stream_id is None
        elif not self._take_reader_briefly():
            return stream_id is None  # another thread waits in it: nothing is there
        try:
            if self.closed or self._unusable:
                return stream_id is not None
            if stream_id is not None and not protocol.syn_sent:
                self._send_opening(AT_ONCE)
            alive = self._parse_what_is_there()
            self._answer()
            if not alive:
                raise self._ended()
        except AnyTLSTimeout:
            pass
        except AnyTLSError as exc:
            self._break(exc)
        finally:
            self._leave_reading()
            self.poke_relay()
        if stream_id is None:
            return not self.closed
        return (
            self.closed
            or protocol.stream_id != stream_id
            or bool(protocol.payload_left)
            or self._over_or_dead()
        )

    def _nothing_has_come(self, stream_id: int | None) -> bool:
        """The common case of :meth:`look`, which httpcore asks of each idle connection, under its pool's lock."""
        protocol = self._protocol
        return (
            self._tls.engine.drained
            and not self.closed
            and not self._unusable
            and not self._plain
            and protocol.stream_id == (stream_id or 0)
            and (protocol.syn_sent or not stream_id)
            and not protocol.peer_closed
            and protocol.refusal is None
            and not protocol.payload_left
            and not self._tls.has_unsent
            and not self._tls.has_arrived()
        )

    def _take_reader_briefly(self) -> bool:
        """Take the reader's role unless its holder waits for data; one that only parses is done in a moment."""
        if self._reader.acquire(False):
            return True
        return not self._reader_waits and self._reader.acquire(timeout=0.01)

    # -- writing ---------------------------------------------------------------------------------------

    def send(
        self,
        stream_id: int,
        data: memoryview,
        deadline: float | None,
        *,
        stall: float | None = None,
        keep_unsent: bool = False,
    ) -> int:
        """Send some of ``data`` and return how much, at least one byte.

        Waits until the connection has taken it, until ``deadline``, or for ``stall`` seconds without
        progress. With ``keep_unsent`` it never waits: raises :class:`AnyTLSTimeout` where an earlier rest
        isn't sent yet. A time-out in the midst of a packet breaks the session. Raises as :meth:`receive`.
        """
        if not self._writer.acquire(False) and not self._writer.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was sending")
        encrypted = False
        try:
            self._check_sendable(stream_id)
            protocol = self._protocol
            piece = data[: WRITE_SIZE if protocol.padding_is_over else MAX_DATA]
            if self._tls.has_unsent:
                self._tls.flush(deadline)
            encrypted = True
            self._write(protocol.data_records(piece), deadline, stall, keep_unsent)
            count = len(piece)
            self.bytes_sent += count
            self.last_upload = self._state.clock()
        except AnyTLSTimeout as exc:
            if encrypted:
                self._break(exc)
            raise
        except AnyTLSError as exc:
            raise self._break(exc) from exc.__cause__
        except BaseException as exc:
            self._break(exc)
            raise
        finally:
            self._writer.release()
            self._after_role()
        self._sent_since_look += count
        if self._sent_since_look > LOOK_EVERY:
            self._sent_since_look = 0
            self.look()
        return count

    def _check_sendable(self, stream_id: int) -> None:
        if self._stream_is_over(stream_id):
            raise StreamEnded("the server has closed the stream")

    def _write(
        self,
        records: list[bytes | bytearray | memoryview],
        deadline: float | None,
        stall: float | None = None,
        keep_unsent: bool = False,
    ) -> None:
        self._tls.write(records, deadline, stall=stall, keep_unsent=keep_unsent)
        if self._protocol.heart_responses_due:
            self._tls.write(self._protocol.heart_responses(), AT_ONCE, keep_unsent=True)

    def _send_opening(self, deadline: float | None) -> None:
        """Send SYN and address alone, where no data came first."""
        if not self._writer.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was sending")
        try:
            records = self._protocol.opening_records()
            if records:
                self._write(records, deadline, keep_unsent=deadline == AT_ONCE)
                self.last_upload = self._state.clock()
        except AnyTLSTimeout as exc:
            self._break(exc)
            raise
        finally:
            self._writer.release()

    def _answer(self) -> None:
        """Send, if it goes at once, what reading made due: HeartResponses, TLS's own answers, an unsent rest."""
        protocol = self._protocol
        if not protocol.heart_responses_due and not self._tls.has_unsent:
            return
        # A writer who holds the role sends the responses with its own data.
        if self._writer.acquire(blocking=False):
            try:
                self._tls.flush(AT_ONCE)
                if protocol.heart_responses_due and not self._tls.has_unsent:
                    self._write(protocol.heart_responses(), AT_ONCE, keep_unsent=True)
            except AnyTLSTimeout:
                pass
            finally:
                self._writer.release()

    # -- for the relay -------------------------------------------------------------------------------

    def attach_relay(self, on_input: Callable[[], None]) -> int:
        """Lend the TCP descriptor to a relay, which watches it; return it, -1 where the session has ended.

        It stays open until :meth:`detach_relay`, so that the end of the session shows on it. ``on_input``
        is called, from any thread, when something may have come that the descriptor no longer tells of:
        another thread took it in. Raises :class:`RuntimeError` while another thread is inside.
        """
        if not self._reader.acquire(timeout=1.0):
            raise RuntimeError("another thread is reading from this stream")
        try:
            if self._descriptor == CLOSED:
                return -1
            self._on_input = on_input
            return self._tls.fileno()
        finally:
            self._reader.release()
            self._after_role()

    def detach_relay(self) -> None:
        """The relay watches no longer; what waited for that, the descriptor's end above all, is done."""
        self._on_input = None
        self._after_role()

    def poke_relay(self) -> None:
        """Make the relay, where one watches, look at the stream again."""
        on_input = self._on_input
        if on_input is not None:
            on_input()

    @property
    def has_unsent(self) -> bool:
        """Whether ciphertext waits for the connection to take it."""
        return self._tls.has_unsent

    def flush_unsent(self) -> bool:
        """Send what waits, as far as it goes at once; False while another thread is sending.

        Raises :class:`AnyTLSTimeout` when the connection takes no more, and as :meth:`send`.
        """
        if not self._writer.acquire(blocking=False):
            return False
        try:
            self._tls.flush(AT_ONCE)
        except AnyTLSTimeout:
            raise
        except AnyTLSError as exc:
            raise self._break(exc) from exc.__cause__
        finally:
            self._writer.release()
            self._after_role()
        return True

    # -- life ------------------------------------------------------------------------------------------

    def send_heartbeat(self) -> bool:
        """Send a HeartRequest, if the connection takes it at once; False when it has to wait.

        Never waits itself: a writer who is blocked has the role, and its data tells as much.
        """
        if self.closed or self._unusable or not self._writer.acquire(blocking=False):
            return False  # (nobody reads an unusable one)
        try:
            if self._tls.has_unsent:
                return False
            now = self._state.clock()
            self._tls.write(self._protocol.heart_request(), AT_ONCE, keep_unsent=True)
            self.heartbeats_sent += 1
            if self.heart_sent_at is None:
                self.heart_sent_at = now
        except AnyTLSError as exc:
            self._break(exc)
            return False
        finally:
            self._writer.release()
            self._after_role()
        return True

    @property
    def has_held_fin(self) -> bool:
        """Whether the FIN of the last stream waits for the next one's SYN."""
        return self._protocol.has_held_fin

    def send_held_fin(self) -> None:
        """Send the FIN that was held, if there is one still; never waits."""
        if self.closed or not self._protocol.has_held_fin or not self._writer.acquire(blocking=False):
            return  # closed: the connection's end says as much; a writer takes it along
        try:
            self._tls.write(self._protocol.held_fin(), AT_ONCE, keep_unsent=True)
        except AnyTLSError as exc:
            self._break(exc)
        finally:
            self._writer.release()
            self._after_role()

    def may_be_mute(self) -> bool:
        """Whether a server that lives may rightly answer no heartbeat now (``design.md``, heartbeat's verdict)."""
        protocol = self._protocol
        if (
            not self.has_stream
            or not protocol.syn_sent
            or protocol.peer_closed
            or protocol.refusal is not None
        ):
            return False
        return (
            self.last_upload > self.last_received
            or not protocol.acknowledged
            or protocol.payload_left > 0
            or self._tls.has_unsent
        )

    def prove_alive(self, deadline: float | None) -> bool:
        """Ask a silent session for a sign of life and wait for any frame; False, and closed, without one.

        Waits for ``rules.proof_patience`` at the most, counted from a HeartRequest that is unanswered
        already; not at all where a session that was heard later has been found dead. Raises
        :class:`AnyTLSTimeout` where ``deadline`` comes before that.
        """
        since = self.last_received
        asked_at = self.heart_sent_at
        if not self.send_heartbeat():
            return not self.closed
        seconds = rules.proof_patience(self._shortest_trip)
        if since <= self._state.dead_since:
            seconds = 0.0
        elif asked_at is not None:
            seconds = max(0.0, seconds - (self._state.clock() - asked_at))
        patience = deadline_after(seconds)
        limit = earlier(patience, deadline)
        try:
            self._await_input(since, limit)
        except AnyTLSTimeout:
            if self.last_received > since:
                return True
            if limit is not patience:
                raise
            self.close("proof_of_life", SessionClosed("the session is dead: no answer to a heartbeat"))
        except AnyTLSError as exc:
            self._break(exc)
        return not self.closed

    def ping(self, deadline: float | None) -> float:
        """Send a HeartRequest on a session without stream, wait for its answer, and return the seconds that took.

        Raises :class:`AnyTLSTimeout` at ``deadline``: the session goes on; and as :meth:`receive`.
        """
        started = self._state.clock()
        if not self.send_heartbeat():
            if self.closed:
                raise self.error or SessionClosed("the connection was closed")
            raise AnyTLSTimeout("the connection takes no data")
        wanted = self.heartbeats_sent
        try:
            while self.heartbeats_answered < wanted and not self.closed:
                self._await_input(self.last_received, deadline)
        except AnyTLSTimeout:
            raise
        except AnyTLSError as exc:
            raise self._break(exc) from exc.__cause__
        if self.closed:
            raise self.error or SessionClosed("the connection was closed")
        return self._state.clock() - started

    def _await_input(self, since: float, deadline: float | None) -> None:
        if not self._reader.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was reading")
        try:
            while self.last_received <= since and not self.closed and not self._unusable:
                self._wait_for_input(deadline)
                if not self._parse_what_is_there():
                    raise self._ended()
        finally:
            self._leave_reading()

    def wait_open(self, stream_id: int, deadline: float | None, version_1_after: float) -> None:
        """Send the opening and wait for the server's word on the target.

        ``version_1_after``: seconds after which a server that has never said its version is taken for a
        version 1 server, which gives no such word. Raises as :meth:`receive`.
        """
        guess = None if self._state.server_version >= 2 else deadline_after(version_1_after)
        limit = earlier(guess, deadline)
        if not self._reader.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was reading")
        protocol = self._protocol
        waited = False
        try:
            self._send_opening(deadline)
            while not protocol.acknowledged and not self._stream_is_over(stream_id):
                count = self._parse_one()
                if count == END:
                    raise self._ended()
                if count != NEED_INPUT:
                    continue
                if protocol.peer_version >= 2:
                    limit = deadline
                try:
                    if waited and remaining(limit) == 0:
                        raise AnyTLSTimeout("timed out while waiting for the server to open the stream")
                    self._wait_for_input(limit)
                    waited = True
                except AnyTLSTimeout:
                    if limit is guess and protocol.peer_version < 2:
                        return
                    raise
            self._stream_is_over(stream_id)
        except AnyTLSTimeout:
            self._timed_out = deadline != AT_ONCE
            raise
        except AnyTLSError as exc:
            raise self._break(exc) from exc.__cause__
        except BaseException as exc:
            self._break(exc)
            raise
        finally:
            self._leave_reading()

    def stop_reading(self) -> None:
        """Wake who reads the stream: it sees the end. The session ends with this stream."""
        self._unusable = True
        self._tls.shutdown_reading()

    # -- the end ---------------------------------------------------------------------------------------

    def close(self, reason: str, error: AnyTLSError | None = None) -> None:
        """End the session, once; wakes who is inside. ``error`` is what they and later callers get."""
        with self._life:
            if self.closed:
                return
            self.error = error or self.error
            self.closed = True
        if self._writer.acquire(blocking=False):
            try:
                if reason not in ("proof_of_life", "heartbeat_timeout"):
                    self._tls.say_goodbye()
            finally:
                self._writer.release()
        self._state.session_ended(self, reason)
        self._tell(
            "session_closed",
            reason=reason,
            detail=str(self.error or ""),
            seconds=self._state.clock() - self.created_at,
        )
        self._tls.shutdown()
        self._descriptor = MAY_CLOSE
        self._after_role()

    def close_inherited(self) -> None:
        """In a forked child: forget the session without a word to the server or the parent."""
        self._reader = threading.Lock()
        self._writer = threading.Lock()
        self._life = threading.Lock()
        self.closed = True
        self._on_input = None
        self._descriptor = CLOSED
        self.error = SessionClosed("this connection belongs to the process that was forked")
        self._tls.close_inherited()

    def _after_role(self) -> None:
        """After a role was given back: tell the events, and as the last one out close the descriptor.

        Inside :meth:`close` the caller may hold a role: then it comes here again when it gives it back.
        """
        if not self._events and self._descriptor != MAY_CLOSE:
            return
        if self._reader.acquire(blocking=False):
            try:
                if not self._writer.acquire(blocking=False):
                    return
                try:
                    if self._descriptor == MAY_CLOSE and self._on_input is None:
                        self._descriptor = CLOSED
                        self._tls.close()
                finally:
                    self._writer.release()
            finally:
                self._reader.release()
            while self._events:
                self._state.events.emit(self._events.popleft())

    def _break(self, exc: BaseException) -> AnyTLSError:
        """The session can't go on, and ``exc`` says why (the end of a stream alone is no such thing).

        Returns the error to raise: the first that befell the session, in its user's words.
        """
        if isinstance(exc, (StreamRefused, StreamEnded)):
            return exc
        if isinstance(exc, SessionClosed):
            exc = self._ended(exc)
            self.close("peer", exc)
        elif isinstance(exc, AnyTLSError):
            self.close("peer" if isinstance(exc, AuthenticationError) else "error", exc)
        else:
            # An interrupt may have come between a read and its bookkeeping.
            exc = SessionClosed(f"the session was interrupted: {type(exc).__name__}")
            self.close("error", exc)
        return self.error or exc

    def _ended(self, cause: SessionClosed | None = None) -> AnyTLSError:
        """Return the error for a session that the server has ended."""
        if self.error is None:
            self._take_last_frames()
        if self.error is not None:
            return self.error
        if not self._state.frame_received and not self.frames_received:
            if (refusal := self._tls.last_words()) is not None:
                return refusal
            outbound = self._state.outbound
            return AuthenticationError(
                f"{outbound.server}:{outbound.server_port} closed the connection right after the "
                "authentication: wrong password, or not an AnyTLS server"
            )
        return cause or SessionClosed("the server closed the session")

    def _take_last_frames(self) -> None:
        """Take in what the server sent before the end: an upload reads nothing, and its write fails first.

        Frames tell that the password was right, and an alert tells why the session ended.
        """
        if not self._reader.acquire(blocking=False):
            return  # there is a reader, maybe this very thread
        try:
            self._parse_what_is_there()
        except DialError as exc:
            self.error = exc
        except AnyTLSError:
            pass  # the end, once more
        finally:
            self._leave_reading()

    # -- what frames mean for the client ---------------------------------------------------------------

    def _stream_opened(self) -> None:
        self._tell("stream_opened", target=self.target)
        if self._state.failures:
            self._state.note_success(self)

    def _handle(self, event: Event) -> None:
        state = self._state
        state.frame_received = True
        kind = event.kind
        if kind is EventKind.OPENED:
            self._stream_opened()
        elif kind is EventKind.REFUSED:
            self._tell("stream_failed", target=self.target, detail=event.text)
        elif kind is EventKind.HEART_RESPONSE:
            self.heartbeats_answered += 1
        elif kind is EventKind.SERVER_SETTINGS:
            state.server_version = self._protocol.peer_version
        elif kind is EventKind.PADDING_SCHEME:
            self._update_scheme(event.data)
        elif kind is EventKind.ALERT:
            logger.warning("[%s] alert from the server: %s", state.name, event.text)
            self._tell("alert", detail=event.text)
            self.close("alert", SessionClosed(f"the server ended the session: {event.text}"))

    def _update_scheme(self, raw: bytes) -> None:
        try:
            scheme = PaddingScheme.parse(raw)
        except ValueError as exc:
            logger.warning("[%s] the server sent an unusable padding scheme: %s", self._state.name, exc)
            return
        self._state.scheme = scheme
        logger.debug("[%s] padding scheme updated: %s", self._state.name, scheme.md5)
        self._tell("padding_updated", detail=scheme.md5)

    def _tell(
        self, name: str, *, reason: str = "", target: str = "", detail: str = "", seconds: float | None = None
    ) -> None:
        if self._state.events.wants(name):
            self._events.append(PoolEvent(name, self.sequence, reason, target, detail, seconds))
