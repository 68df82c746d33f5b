"""What every part of a session needs: its state, its two roles, how it ends, and what it tells.

Two roles, each a lock: the *reader* waits for ciphertext, decrypts and parses (``session_input.py``,
``session_reading.py``); the *writer* makes packets, encrypts and sends (``session_writing.py``; the order of
the packets is the order of the ciphertext). Whoever polls the descriptor holds the reader's role, so nobody
else can drain it and leave him asleep. A session is closed by anybody at any time: TCP's shutdown wakes who is inside,
and the last one out closes the descriptor.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from anytls_http.errors import AnyTLSError, AnyTLSTimeout, AuthenticationError, SessionClosed, StreamRefused
from anytls_http.net.tls import TLSConnection
from anytls_http.protocol.session import ClientSession

from . import rules
from .events import Event as PoolEvent

if TYPE_CHECKING:
    from .lease import Lease
    from .session import Session
    from .state import PoolState

# Life of the descriptor: it may be closed once nobody watches it any more, and nobody is inside.
OPEN, MAY_CLOSE, CLOSED = range(3)


class StreamEnded(SessionClosed):
    """The stream is over, by one side's close; its session goes on."""


class SessionCore:
    """The state of a session. Public attributes are facts for the rules and the statistics."""

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
        "lease",
        "round_trip",
        "sequence",
        "shortest_trip",
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

        self.lease: weakref.ref[Lease] | None = None  #: its user's
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
        self.shortest_trip = round_trip  #: seconds: one slow answer says little about the way
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

    @property
    def is_draining(self) -> bool:
        """Whether what an ended stream has left is still coming; the session is nobody's until then."""
        return self.heartbeats_answered < self._drained_by

    def is_silent(self) -> bool:
        """Whether nothing was received for so long that life must be proven before data is trusted to it."""
        last = self.last_received
        return last < self._state.suspect_since or self._state.clock() - last > rules.silence_limit(
            self._state.options
        )

    @property
    def has_unsent(self) -> bool:
        """Whether ciphertext waits for the connection to take it."""
        return self._tls.has_unsent

    @property
    def has_held_fin(self) -> bool:
        """Whether the FIN of the last stream waits for the next one's SYN."""
        return self._protocol.has_held_fin

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self.has_stream else "idle"
        return f"<Session #{self.sequence} {state}, {self._state.clock() - self.created_at:.0f} s old>"

    def _stream_is_over(self, stream_id: int) -> bool:
        protocol = self._protocol
        if self.closed:
            raise self.error or SessionClosed("the connection was closed")
        if protocol.stream_id != stream_id:
            raise StreamEnded("the stream was closed")
        if protocol.refusal is not None:
            raise StreamRefused(f"{self.target}: the server refused: {protocol.refusal}")
        return protocol.peer_closed

    def _over_or_dead(self) -> bool:
        protocol = self._protocol
        return protocol.peer_closed or protocol.refusal is not None or self.closed

    @property
    def whole(self) -> Session:
        """The session itself: no other class is built on this one."""
        return cast("Session", self)

    # -- roles -----------------------------------------------------------------------------------------

    def _take_reader_briefly(self) -> bool:
        """Take the reader's role unless its holder waits for data; one that only parses is done in a moment."""
        if self._reader.acquire(False):
            return True
        return not self._reader_waits and self._reader.acquire(timeout=0.01)

    def _leave_reading(self) -> None:
        """Give the reader's role back; the thread's buffer is lent for as long only."""
        plain = self._plain
        if plain and type(plain.obj) is not bytes:
            self._plain = memoryview(bytes(plain))
        self._reader.release()
        self._after_role()

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
        self._state.session_ended(self.whole, reason)
        self._tell(
            "session_closed",
            reason=reason,
            detail=str(self.error or ""),
            seconds=self._state.clock() - self.created_at,
        )
        self._tls.shutdown()
        self._descriptor = MAY_CLOSE
        self._after_role()

    def close_interrupted(self) -> None:
        """End the session, since its user was interrupted who knows where in it."""
        self.close("error", SessionClosed("the session's user was interrupted"))

    @property
    def is_released(self) -> bool:
        """Whether the descriptor is closed."""
        return self._descriptor == CLOSED

    def release(self) -> None:
        """Close the descriptor of a session that has ended, although a role is held: by an interrupted thread."""
        if self._descriptor == MAY_CLOSE and self._on_input is None:
            self._descriptor = CLOSED
            self._tls.close()

    def close_inherited(self) -> None:
        """In a forked child: forget the session without a word to the server or the parent."""
        self._reader = threading.Lock()
        self._writer = threading.Lock()
        self._life = threading.Lock()
        self.closed = True
        self._on_input = None
        self._descriptor = CLOSED
        self._drop_input()
        self.error = SessionClosed("this connection belongs to the process that was forked")
        self._tls.close_inherited()

    def _drop_input(self) -> None:
        """Forget what was taken in and has no reader yet."""
        self._plain = memoryview(b"")
        self._protocol.payload_left = 0

    def _break(self, exc: BaseException) -> AnyTLSError:
        """The session can't go on, and ``exc`` says why (the end of a stream alone is no such thing).

        Returns the error to raise: the first that befell the session, in its user's words.
        """
        if isinstance(exc, (StreamRefused, StreamEnded)):
            return exc
        if isinstance(exc, SessionClosed):
            exc = self._ended(exc)
            self.close("peer", exc)
        elif isinstance(exc, AnyTLSTimeout):
            # Who comes later must not take it for a time-out of their own, and try again for ever.
            self.close("error", SessionClosed("the session was given up: a write on it timed out"))
        elif isinstance(exc, AnyTLSError):
            self.close("peer" if isinstance(exc, AuthenticationError) else "error", exc)
        else:
            # An interrupt may have come between a read and its bookkeeping.
            exc = SessionClosed(f"the session was interrupted: {type(exc).__name__}")
            self.close("error", exc)
        return self.error or exc

    def _ended(self, cause: SessionClosed | None = None) -> AnyTLSError:
        """Return the error for a session that has ended: by the server, unless it was closed here."""
        if self.closed:
            return self.error or SessionClosed("the connection was closed")
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
        """Take in what the server sent before the end; the reading part does it."""
        raise NotImplementedError

    def _tell(
        self, name: str, *, reason: str = "", target: str = "", detail: str = "", seconds: float | None = None
    ) -> None:
        if self._state.events.wants(name):
            self._events.append(PoolEvent(name, self.sequence, reason, target, detail, seconds))
