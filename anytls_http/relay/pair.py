"""One pair: a real socket (*local*) and a stream in the tunnel, and what is to be done with the events of both.

Every call here is the relay thread's, and none ever waits. Of each direction at most one piece is kept, the
rest of what the other side didn't take whole; while there is one, nothing more is read: that is the
back-pressure. Besides, the session keeps the ciphertext of one piece that the connection didn't take.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Protocol

from anytls_http.errors import AnyTLSTimeout
from anytls_http.net.waiting import AT_ONCE

from .poller import GONE, READABLE, WRITABLE

logger = logging.getLogger("anytls_http.relay")

#: Bytes that one direction of a pair moves at the most before the other pairs have their turn.
TURN = 256 * 1024
#: Seconds that a stream is kept for a TCP client that has ended its direction: it may be gone, or still wait
#: for an answer (the tunnel has no half-close to tell the target). The first: nothing was sent since the
#: target last answered.
ANSWERED_PATIENCE = 0.1
UNANSWERED_PATIENCE = 1.5
#: Seconds that a local socket stays open after the last byte was sent to it, so that its peer can read that
#: in peace: closing with unread data would reset the connection.
LINGER = 1.0

#: What :meth:`Pair.pump` returns: nothing can be moved before the next event, another thread is in the session
#: for a moment, or the turn is over and there is more.
IDLE, SOON, MORE = range(3)

#: SO_LINGER: on, zero seconds; closing then sends a reset.
RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Stream(Protocol):
    """What the relay needs of a stream (``sockets.StreamSocket`` has it)."""

    def _read_into(self, view: memoryview, deadline: float | None) -> int: ...

    def _write_some(
        self, view: memoryview, deadline: float | None, stall: float | None, keep_unsent: bool
    ) -> int: ...

    @property
    def _has_unsent(self) -> bool: ...

    @property
    def _is_blocked(self) -> bool: ...

    def _flush_unsent(self) -> bool: ...

    def _attach_relay(self, on_input: Callable[[], None]) -> int: ...

    def _detach_relay(self) -> None: ...

    def _forget(self) -> None: ...

    def close(self) -> None: ...


class Pair:
    """``local`` and ``stream``; ``on_end`` is called once, by the relay thread, when the pair is over.

    ``bytes_up`` and ``bytes_down`` count what was moved; ``error`` is what ended the stream, None for an end.
    """

    def __init__(
        self,
        local: socket.socket,
        stream: Stream,
        on_end: Callable[[Pair], None] | None = None,
        head: bytes = b"",
    ) -> None:
        self.local = local
        self.stream: Stream | None = stream
        self.bytes_up = 0
        self.bytes_down = 0
        self.error: BaseException | None = None
        self.over = False
        #: When :meth:`expire` is due (``time.monotonic()``), None for never.
        self.deadline: float | None = None
        self.local_fd = local.fileno()
        self.remote_fd = -1
        self._on_end = on_end
        self._is_tcp = local.family != getattr(socket, "AF_UNIX", None)
        #: Whether an event tells that the local peer has closed both directions, so that one alone means something.
        self.tells_gone = False
        # What is known of the descriptors: true until a call would block.
        self.local_readable = self.local_writable = True
        self.remote_readable = self.remote_writable = True
        self._local_ended = False  # nothing more comes from the local side
        self._local_gone = False  # ... and nobody is there to take anything
        self._up_failed = False  # the stream takes nothing more; what it still gives is read
        self._down_failed = False  # the local side takes nothing more; what it still gives is passed on
        self._remote_ended = False
        self._answered = True
        self._moved_at_eof = 0
        self._up = memoryview(head)
        self._down = memoryview(b"")
        #: Set by any thread, which then pokes the relay: the pair is to end now.
        self.unwanted = False

    def told(self, fd: int, events: int) -> None:
        """Take note of events on one of the two descriptors."""
        if fd == self.local_fd:
            self.local_readable |= bool(events & READABLE)
            self.local_writable |= bool(events & WRITABLE)
            # Of TCP too: both directions are over, or it was reset.
            self._local_gone |= bool(events & GONE)
        else:
            self.remote_readable |= bool(events & READABLE)
            self.remote_writable |= bool(events & WRITABLE)

    def poked(self) -> None:
        """Another thread has read from the session: what is there now, no event tells."""
        self.remote_readable = True
        if self.unwanted and not self.over:
            self._close()

    def pump(self, buffer: memoryview) -> int:
        """Move what can be moved now, within a turn; return IDLE, SOON or MORE."""
        stream = self.stream
        if stream is None:
            return self._drain_local(buffer)
        outcome = max(self._pump_up(stream, buffer), self._pump_down(stream, buffer))
        if self.stream is not None:
            self._look_for_the_end(stream)
        return outcome

    # -- from the local side to the target ---------------------------------------------------------------

    def _pump_up(self, stream: Stream, buffer: memoryview) -> int:
        budget = TURN
        while budget > 0:
            try:
                if stream._has_unsent and not self._up_failed:
                    if not self.remote_writable:
                        return IDLE
                    if not stream._flush_unsent():
                        return SOON
                if self._up:
                    view = self._up
                elif self._local_ended or not self.local_readable:
                    return IDLE
                else:
                    count = self._receive(buffer)
                    if not count:
                        return IDLE
                    budget -= count
                    if self._up_failed:
                        continue
                    view = buffer[:count]
                self._pass_on(stream, view)
            except AnyTLSTimeout:
                if not stream._is_blocked:
                    return SOON  # another thread was sending
                self.remote_writable = False
                return IDLE
            except OSError:
                # The reading side tells what it was: an end with data before it, or an error.
                self._up_failed = True
                self._up = memoryview(b"")
                self.remote_readable = True
        return MORE

    def _pass_on(self, stream: Stream, view: memoryview) -> None:
        self._answered = False
        while view:
            try:
                count = stream._write_some(view, AT_ONCE, None, True)
            except AnyTLSTimeout:
                self._up = memoryview(bytes(view))
                raise
            self.bytes_up += count
            view = view[count:]
        self._up = memoryview(b"")

    def _receive(self, buffer: memoryview) -> int:
        """Read from the local side; 0 when nothing is there, or it has ended."""
        try:
            count = self.local.recv_into(buffer)
        except BlockingIOError:
            self.local_readable = False
            return 0
        except OSError:
            self._local_gone = True
            count = 0
        if not count:
            self._local_ended = True
        return count

    # -- from the target to the local side ---------------------------------------------------------------

    def _pump_down(self, stream: Stream, buffer: memoryview) -> int:
        budget = TURN
        while budget > 0:
            if self._down:
                if not self.local_writable:
                    return IDLE
                self._give(self._down)
                continue
            if self._remote_ended:
                self._end_stream()
                return MORE
            if not self.remote_readable or not self.local_writable:
                return IDLE
            try:
                count = stream._read_into(buffer, AT_ONCE)
            except AnyTLSTimeout:
                self.remote_readable = False
                return IDLE
            except OSError as exc:
                self.error = exc
                count = 0
            if not count:
                self._remote_ended = True
                continue
            self._answered = True
            budget -= count
            self._give(buffer[:count])
        return MORE

    def _give(self, view: memoryview) -> None:
        if self._down_failed:
            return
        count = 0
        try:
            count = self.local.send(view)
        except BlockingIOError:
            self.local_writable = False
        except OSError:
            self._down_failed = True
            self._down = memoryview(b"")
            return
        self.bytes_down += count
        left = view[count:]
        self._down = memoryview(bytes(left)) if left else memoryview(b"")

    # -- the end -----------------------------------------------------------------------------------------

    def _look_for_the_end(self, stream: Stream) -> None:
        if not self._local_ended and not (self._local_gone and not self.local_readable):
            return
        if (self._up or stream._has_unsent) and not self._up_failed:
            return  # what was sent before the end is still passed on
        if self._local_gone or self._down_failed:
            self._close()
        elif self.deadline is None and not (self.tells_gone and not self._is_tcp):
            self._set_patience()

    def _set_patience(self) -> None:
        self.deadline = time.monotonic() + (ANSWERED_PATIENCE if self._answered else UNANSWERED_PATIENCE)
        self._moved_at_eof = self.bytes_down

    def expire(self) -> None:
        """The deadline has come."""
        self.deadline = None
        if self.stream is None:
            self._close()
        elif self._down or self.bytes_down != self._moved_at_eof:
            self._set_patience()  # something still moves; a client that is gone shows when it is sent to
        else:
            self._close()

    def _end_stream(self) -> None:
        """The target's side is over, and all of it was passed on: end the local side, in peace."""
        self._release_stream()
        if self._local_gone or self._local_ended or self.error is not None:
            self._close()
            return
        try:
            self.local.shutdown(socket.SHUT_WR)
        except OSError:
            self._close()
            return
        self.deadline = time.monotonic() + LINGER
        self._up = memoryview(b"")

    def _drain_local(self, buffer: memoryview) -> int:
        budget = TURN
        while budget > 0:
            if self._local_ended or self._local_gone:
                self._close()
                return IDLE
            if not self.local_readable:
                return IDLE
            budget -= self._receive(buffer)
        return MORE

    def _release_stream(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            self.on_release()
            self.remote_fd = -1
            stream._detach_relay()
            stream.close()

    def on_release(self) -> None:
        """Replaced by the relay: stop watching the stream's descriptor."""

    def _close(self) -> None:
        self.over = True
        self._release_stream()

    def finish(self) -> None:
        """Close the local side; nothing watches it any more."""
        self._release_stream()
        if self.error is not None:
            logger.info("a relayed stream broke: %a", str(self.error))
            if self._is_tcp:
                with contextlib.suppress(OSError):
                    self.local.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.local.close()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)
