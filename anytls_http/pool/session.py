"""One session of the pool: the protocol over one TLS connection, driven by its callers' threads.

There is no reader thread. A session has at most one open stream, so the thread that calls ``receive``
reads the TLS connection itself, and the thread that calls ``send`` writes. The parts lie in files of
their own, each built on the one before: ``session_core.py`` (state, roles, the end),
``session_writing.py``, ``session_input.py``, ``session_reading.py``; here are the stream's life and the
proof of the session's.
"""

from __future__ import annotations

from anytls_http.errors import AnyTLSError, AnyTLSTimeout, SessionClosed
from anytls_http.net.waiting import AT_ONCE, deadline_after, earlier, remaining
from anytls_http.protocol.session import ClientSession

from . import rules
from .session_reading import MAX_FILLS, SessionReading

__all__ = ["MAX_FILLS", "Session"]

#: A stream closed with more than this unread takes its session along: reading the rest costs more than a dial.
MAX_UNREAD = 64 * 1024
#: Who awaits a sign of life, and finds another thread reading, looks so often whether that has got one (seconds).
LOOK_AGAIN = 0.01


class Session(SessionReading):
    """One authenticated session; it has at most one open stream, owned by one socket.

    Made by ``dialer.dial``.
    """

    __slots__ = ()

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
                unread = protocol.payload_left + self._tls.unread()
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

    # -- life ------------------------------------------------------------------------------------------

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
        seconds = rules.proof_patience(self._state.shortest_trip(self.shortest_trip))
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
        while not self._reader.acquire(timeout=LOOK_AGAIN):
            # The other thread takes the input in, and goes on waiting for its own.
            if self.last_received > since or self.closed:
                return
            if remaining(deadline) == 0:
                raise AnyTLSTimeout("timed out while another thread was reading")
        try:
            while self.last_received <= since and not self.closed and not self._unusable:
                self._wait_for_input(deadline)
                if not self._parse_what_is_there():
                    raise self._ended()
        finally:
            self._leave_reading()
