"""What arrives on a session: ciphertext decrypted, frames parsed, and what each means for the client.

The methods here are for who holds the reader's role; ``session_reading.py`` hands the payload on.
"""

from __future__ import annotations

from anytls_http.errors import AnyTLSError, DialError, SessionClosed
from anytls_http.net.scratch import DECRYPTED, scratch
from anytls_http.net.tls_engine import END, NEED_INPUT, RECORD_SIZE
from anytls_http.net.waiting import AT_ONCE
from anytls_http.protocol.padding import PaddingScheme
from anytls_http.protocol.session import Event, EventKind

from .events import logger
from .session_writing import SessionWriting

#: Bytes that a look without waiting parses at the most, so that endless padding can't hold its caller.
MAX_LOOK = 256 * 1024


class SessionInput(SessionWriting):
    """What a session takes in."""

    __slots__ = ()

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

    def _decrypt(self, wanted: int = 0, least: int = 1) -> int:
        """Decrypt a whole record, and up to ``wanted`` bytes where they are there; ``least`` as for the engine.

        Returns the count, NEED_INPUT or END. In few large steps, since each call of OpenSSL gives up the GIL.
        The caller holds the reader's role, and nothing decrypted is left.
        """
        buffer = scratch(DECRYPTED)
        if wanted < len(buffer):
            buffer = buffer[: max(wanted, RECORD_SIZE)]
        count = self._tls.engine.decrypt_into(buffer, least)
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
