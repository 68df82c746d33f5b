"""The reader's role of a session: what ``session_input.py`` has parsed, straight to who reads the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anytls_http.errors import AnyTLSError, AnyTLSTimeout
from anytls_http.net.tls_engine import END, NEED_INPUT, RECORD_SIZE, WHOLE_RECORD
from anytls_http.net.waiting import AT_ONCE, deadline_after, earlier, remaining
from anytls_http.protocol.frames import HEADER_SIZE

from .session_core import OPEN
from .session_input import SessionInput

if TYPE_CHECKING:
    from collections.abc import Callable

#: With less than this (bytes) still wanted, what was read is handed out: more would cost a record's leftover. Not where
#: the reader would only ask for the rest at once.
MIN_ROOM = RECORD_SIZE // 2
#: Reads from the connection that one call without waiting makes at the most.
MAX_FILLS = 16


class SessionReading(SessionInput):
    """What a stream receives."""

    __slots__ = ()

    # -- the stream ------------------------------------------------------------------------------------

    def receive(
        self,
        stream_id: int,
        size: int,
        to: memoryview | Callable[[memoryview], object],
        deadline: float | None,
        room: int = MIN_ROOM,
    ) -> int:
        """Hand up to ``size`` bytes of the stream on, waiting for the first only; return the count, 0 at its end.

        ``to``: a buffer of ``size`` bytes, or what gets one piece after the other, each valid during its call.
        ``room``: with less than this (bytes) still wanted, what was read is handed out, although more is there. Raises
        :class:`StreamRefused`, :class:`SessionClosed`, :class:`AuthenticationError`, or
        :class:`AnyTLSTimeout` at ``deadline``, all with nothing taken.
        """
        if not self._reader.acquire(False) and not self._reader.acquire(timeout=remaining(deadline)):
            raise AnyTLSTimeout("timed out while another thread was reading")
        try:
            if not self._protocol.syn_sent and self._protocol.stream_id == stream_id:
                self._send_opening(deadline)
            count = self._receive(stream_id, size, to, deadline, room)
        except AnyTLSTimeout:
            if not self._protocol.syn_sent:
                self.poke_relay()  # another thread was writing: no event will tell of its end
            elif deadline != AT_ONCE:
                self._timed_out = True
            raise
        except AnyTLSError as exc:
            raise self._break(exc) from exc.__cause__
        except BaseException as exc:
            self._drop_input()  # what follows would come after a gap
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
        room: int,
    ) -> int:
        protocol = self._protocol
        tls = self._tls
        engine = tls.engine
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
            if total and size - total < room:
                break
            if engine.hungry and not tls.feed_more() and total:
                break
            # What is at hand makes a record whole that isn't yet.
            least = WHOLE_RECORD if tls.arrived else 1
            if engine.drained and (tls.reads_first or not protocol.acknowledged):
                count = NEED_INPUT
            else:
                try:
                    if not isinstance(to, memoryview):
                        count = self._decrypt(size - total, least)
                    elif left < RECORD_SIZE:
                        count = self._decrypt(RECORD_SIZE, least)  # a header's, with what comes after it
                    else:  # all of it is the stream's: no copy
                        count = engine.decrypt_into(to[total : total + min(left, size - total)], least)
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

    def has_ended(self, stream_id: int) -> bool:
        """Whether the stream, or the session, has ended, as far as can be told without waiting."""
        self.look(stream_id)
        return self._protocol.stream_id != stream_id or self._over_or_dead()

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
