"""The reader's role of a session: ciphertext in, frames parsed, payload straight to who reads the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anytls_http.errors import AnyTLSError, AnyTLSTimeout, DialError, SessionClosed
from anytls_http.net.scratch import DECRYPTED, scratch
from anytls_http.net.tls_engine import END, NEED_INPUT, RECORD_SIZE
from anytls_http.net.waiting import AT_ONCE, deadline_after, earlier, remaining
from anytls_http.protocol.frames import HEADER_SIZE
from anytls_http.protocol.padding import PaddingScheme
from anytls_http.protocol.session import Event, EventKind

from .events import logger
from .session_core import OPEN
from .session_writing import SessionWriting

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes that a look without waiting parses at the most, so that endless padding can't hold its caller.
MAX_LOOK = 256 * 1024
#: With less than this (bytes) still wanted, what was read is handed out: more would cost a record's leftover.
MIN_ROOM = RECORD_SIZE // 2
#: Reads from the connection that one call without waiting makes at the most.
MAX_FILLS = 16


class SessionReading(SessionWriting):
    """What a session receives."""

    __slots__ = ()

    # -- the stream ------------------------------------------------------------------------------------

    def receive(
        self,
        stream_id: int,
        size: int,
        to: memoryview | Callable[[memoryview], object],
        deadline: float | None,
    ) -> int:
        """Hand up to ``size`` bytes of the stream on, waiting for the first only; return the count, 0 at its end.

        ``to``: a buffer of ``size`` bytes, or what gets one piece after the other, each valid during its call. Raises
        :class:`StreamRefused`, :class:`SessionClosed`, :class:`AuthenticationError`, or
        :class:`AnyTLSTimeout` at ``deadline``, all with nothing taken.
        """
        if not self._reader.acquire(False) and not self._reader.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was reading")
        try:
            if not self._protocol.syn_sent and self._protocol.stream_id == stream_id:
                self._send_opening(deadline)
            count = self._receive(stream_id, size, to, deadline)
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

    def _receive(
        self,
        stream_id: int,
        size: int,
        to: memoryview | Callable[[memoryview], object],
        deadline: float | None,
    ) -> int:
        protocol = self._protocol
        engine = self._tls.engine
        total = 0
        waits = 0
        while total < size and not self._unusable:
            plain = self._plain
            left = protocol.payload_left
            if plain and protocol.stream_id == stream_id:
                while plain and total < size:
                    if left:
                        piece = plain[: min(left, size - total)]
                        count = len(piece)
                        if isinstance(to, memoryview):
                            to[total : total + count] = piece
                        else:
                            to(piece)
                        plain = plain[count:]
                        left -= count
                        protocol.payload_left = left
                        total += count
                    elif not self.closed and protocol.payload_follows(plain):
                        plain = plain[HEADER_SIZE:]
                        left = protocol.payload_left
                    else:
                        break
                self._plain = plain
                if total == size:
                    break
            if left and protocol.stream_id == stream_id:
                pass  # more of it is to be decrypted
            elif total and self._over_or_dead():
                break  # what was read is handed out; the end, or the error, is for the next call
            elif self._stream_is_over(stream_id):
                break
            elif plain:
                self._parse_plain()
                continue
            if total and (size - total < MIN_ROOM or (engine.drained and not self._tls.feed_more())):
                break
            if engine.drained and (self._tls.reads_first or not protocol.acknowledged):
                count = NEED_INPUT
            else:
                try:
                    if not isinstance(to, memoryview):
                        count = self._decrypt(size - total)
                    elif left < RECORD_SIZE:
                        count = self._decrypt(RECORD_SIZE)  # a header's, with what comes after it
                    else:  # all of it is the stream's: no copy
                        count = engine.decrypt_into(to[total : total + min(left, size - total)])
                        if count > 0:
                            protocol.payload_left = left - count
                            total += count
                except AnyTLSError:
                    if total:
                        break  # the next call meets it too
                    raise
            if count > 0:
                continue
            if total:
                break
            if count == END:
                raise self._ended()
            # A server that sends without end what is nobody's data must not hold its reader past the deadline.
            if waits and remaining(deadline) == 0 and (deadline != AT_ONCE or waits >= MAX_FILLS):
                self.poke_relay()
                raise AnyTLSTimeout("timed out while waiting for data")
            self._wait_for_input(deadline)
            waits += 1
        return total

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

    @property
    def has_input_at_hand(self) -> bool:
        """Whether something has been read from the connection that is not parsed yet."""
        return bool(self._plain) or self._tls.has_input_at_hand

    # -- input and frames ------------------------------------------------------------------------------

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

    def _note_input(self) -> None:
        now = self._state.clock()
        if self.heart_sent_at is not None:
            seconds = now - self.heart_sent_at
            self.heart_sent_at = None
            if self.has_stream or self.is_draining:
                # The answer may have waited for its reader, or be an old stream's rest.
                self._tell("heartbeat")
            else:
                self.round_trip = seconds
                self.shortest_trip = min(self.shortest_trip, seconds)
                self._tell("heartbeat", seconds=seconds)
        self.last_received = now

    def _decrypt(self, wanted: int = 0) -> int:
        """Decrypt a whole record, and up to ``wanted`` bytes where they are there.

        Returns the count, NEED_INPUT or END. In few large steps, since each call of OpenSSL gives up the GIL.
        The caller holds the reader's role, and nothing decrypted is left.
        """
        buffer = scratch(DECRYPTED)
        if wanted < len(buffer):
            buffer = buffer[: max(wanted, RECORD_SIZE)]
        count = self._tls.engine.decrypt_into(buffer)
        if count > 0:
            self._plain = buffer[:count]
        return count

    def _parse_one(self) -> int:
        """Decrypt where nothing is left of before, and parse up to the next payload, an event or the end of it.

        Returns the bytes parsed, NEED_INPUT or END. The caller holds the reader's role.
        """
        if not self._plain:
            count = self._decrypt()
            if count <= 0:
                return count
        return self._parse_plain()

    def _parse_plain(self) -> int:
        """Parse what was decrypted up to the next payload, an event or the end of it; return the bytes parsed."""
        protocol = self._protocol
        plain = self._plain
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

    # -- without waiting -------------------------------------------------------------------------------

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

    # -- what frames mean for the client ---------------------------------------------------------------

    def _stream_opened(self) -> None:
        self._tell("stream_opened", target=self.target)
        if self._state.refill.failures:
            self._state.note_success(self.whole)

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
