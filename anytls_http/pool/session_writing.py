"""The writer's role of a session: packets out, by callers and, without ever waiting, by others beside them."""

from __future__ import annotations

from anytls_http.errors import AnyTLSError, AnyTLSTimeout
from anytls_http.net.tls_engine import RECORD_SIZE
from anytls_http.net.waiting import AT_ONCE, remaining
from anytls_http.protocol.frames import HEADER_SIZE, MAX_DATA

from .session_core import SessionCore, StreamEnded

#: Most user bytes of one write: as two frames they fill whole TLS records, of which there are so few that packet and
#: ciphertext stay below 128 KiB each, from where on glibc's malloc asks the kernel for its memory.
WRITE_SIZE = 7 * RECORD_SIZE - 2 * HEADER_SIZE
#: While data is uploaded, look for a refusal or a FIN each time so many bytes were sent.
LOOK_EVERY = 512 * 1024


class SessionWriting(SessionCore):
    """What a session sends."""

    __slots__ = ()

    def look(self, stream_id: int | None = None) -> bool:
        """Take in what has arrived; the reading part does it."""
        raise NotImplementedError

    # -- user data -------------------------------------------------------------------------------------

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

    # -- what goes out beside it, if it goes at once ---------------------------------------------------

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

    def send_heartbeat(self) -> bool:
        """Send a HeartRequest, if the connection takes it at once; False when it has to wait.

        Never waits itself: a writer who is blocked has the role, and its data tells as much. Nor is anything
        asked while data lies here that its reader leaves: the server may be blocked by that, and sing-box
        ends a session on which its answer can't leave for 5 s.
        """
        if self._protocol.payload_left and not self._reader_waits:
            return False
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
