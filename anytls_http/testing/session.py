"""One session on the test server: authentication, frames, and its streams, on a thread of its own."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ssl
import struct
import threading
import time
from typing import TYPE_CHECKING

from anytls_http.protocol.frames import HEADER, HEADER_SIZE, MAX_DATA, Command, encode_frame
from anytls_http.protocol.settings import parse_settings

from .channel import TLSChannel
from .faults import Faults
from .streams import ServerStream

if TYPE_CHECKING:
    from .server import AnyTLSServer

#: Record sizes are kept for the first so many records of a session: enough for any padding, and bounded.
MAX_RECORD_SIZES = 20_000
#: Bytes before the padding in the authentication: a hash and a length.
AUTHENTICATION_SIZE = 32 + 2


class ServerSession:
    """A client's connection as the server sees it; what it records can be read from any thread."""

    def __init__(self, server: AnyTLSServer, channel: TLSChannel, seq: int) -> None:
        self._server = server
        self._channel = channel
        #: 1 for the server's first connection, and so on.
        self.seq = seq
        #: Why the TLS handshake failed; None when it didn't.
        self.handshake_error: str | None = None
        #: Whether the TLS handshake is done.
        self.handshake_done = False
        #: Whether the password was right.
        self.authenticated = False
        #: Whether the session is over.
        self.closed = False
        #: What the client said in its Settings; empty until they have come.
        self.settings: dict[str, str] = {}
        #: Every stream that was opened, in order.
        self.streams: list[ServerStream] = []
        #: Bytes of plaintext in each TLS record received, authentication included (the first 20,000 records).
        self.record_sizes: list[int] = []
        #: Bytes of plaintext received and sent, frames and authentication included.
        self.bytes_received = 0
        self.bytes_sent = 0
        #: HeartRequests received, and HeartResponses (to HeartRequests sent by :meth:`send_frame`).
        self.heartbeats_received = 0
        self.heart_responses_received = 0
        #: Frames received, as (command, stream id, size of the data); the first 20,000.
        self.frames: list[tuple[int, int, int]] = []
        #: ``time.monotonic()`` of the accept.
        self.accepted_at = time.monotonic()
        self._open: dict[int, ServerStream] = {}
        self._buffer = bytearray()
        self._settings_seen = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"anytls-test-session-{seq}", daemon=True)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "authenticated" if self.authenticated else "new"
        return f"<session {self.seq}, {state}, {len(self.streams)} streams, {len(self._open)} of them open>"

    @property
    def faults(self) -> Faults:
        """The server's faults."""
        return self._server.faults

    @property
    def server_name(self) -> str | None:
        """The name in the client's TLS hello (SNI); None when it sent none."""
        return self._channel.server_name

    @property
    def tls_version(self) -> str | None:
        """``TLSv1.3`` or ``TLSv1.2``; None before the handshake."""
        return self._channel.tls_version

    @property
    def alpn_protocol(self) -> str | None:
        """The application protocol agreed on in the TLS handshake."""
        return self._channel.alpn_protocol

    @property
    def peer_address(self) -> tuple[str, int]:
        """The client's TCP address."""
        host, port = self._channel.peer_address[:2]
        return host, port

    # -- actions, from any thread --

    def send_frame(self, command: int, stream_id: int = 0, data: bytes = b"") -> None:
        """Send any frame. Raises :class:`OSError` when the session is closed."""
        self.send_raw(encode_frame(command, stream_id, data))

    def send_raw(self, data: bytes | bytearray | memoryview) -> None:
        """Send plaintext as it is, frames or not. Raises :class:`OSError` when the session is closed."""
        self._channel.write(data)
        self.bytes_sent += len(data)

    def alert(self, text: str) -> None:
        """Send an Alert and close the session."""
        self.send_frame(Command.ALERT, 0, text.encode())
        self.close()

    def freeze(self) -> None:
        """Stop reading and writing; the TCP connection stays open, and the kernel goes on acknowledging."""
        self._channel.running.clear()

    def thaw(self) -> None:
        """Go on after :meth:`freeze`."""
        self._channel.running.set()

    def close(self, reset: bool = False) -> None:
        """End the session now: with TLS's and TCP's orderly end, or with a TCP reset."""
        self._closing = True
        self._channel.shutdown(reset)
        # The session's thread may be waiting in one of them.
        for stream in list(self._open.values()):
            stream.close()

    # -- for the server and the streams --

    def start(self) -> None:
        """Start the session's thread."""
        self._thread.start()

    def join(self, timeout: float = 0.0) -> bool:
        """Wait up to ``timeout`` seconds for the session's threads to end; True when they have."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def route(self, host: str, port: int) -> tuple[str, int]:
        """Return where to dial for a target."""
        return self._server.routes.get((host, port), (host, port))

    def stream_dialled(self, stream: ServerStream, error: str | None) -> None:
        """Tell the client how the dial ended."""
        speaks_v2 = self._server.version >= 2 and self.settings.get("v", "1") != "1"
        if error is None:
            stream.opened = True
            if speaks_v2:
                self.send_frame(Command.SYNACK, stream.id)
        else:
            stream.refused = error
            if speaks_v2:
                self.send_frame(Command.SYNACK, stream.id, error.encode()[:MAX_DATA])
            self.send_frame(Command.FIN, stream.id)
        self._server.changed()

    def stream_ended(self, stream: ServerStream) -> None:
        """Forget an open stream; its record stays."""
        self._open.pop(stream.id, None)
        self._server.changed()

    # -- the session's own thread --

    def _run(self) -> None:
        try:
            if self._shake_hands() and self._authenticate():
                while record := self._read():
                    self._buffer += record
                    self._take_frames()
        except (OSError, ValueError):
            pass  # the connection broke, or the client sent nonsense: either way the session ends
        finally:
            self._end()

    def _end(self) -> None:
        self.close()
        for stream in self.streams:
            stream.join(self.faults.dial_timeout + 1)
        self._channel.close()
        self.closed = True
        self._server.changed()

    def _shake_hands(self) -> bool:
        try:
            self._channel.handshake()
        except (ssl.SSLError, OSError) as exc:
            self.handshake_error = getattr(exc, "reason", None) or str(exc)
            return False
        self.handshake_done = True
        self._server.changed()
        return True

    def _authenticate(self) -> bool:
        """Check the first record: all of the authentication has to be in it."""
        record = self._read()
        expected = hashlib.sha256(self._server.password.encode()).digest()
        padding = struct.unpack_from(">H", record, 32)[0] if len(record) >= AUTHENTICATION_SIZE else 0
        size = AUTHENTICATION_SIZE + padding
        self.authenticated = len(record) >= size and hmac.compare_digest(record[:32], expected)
        if not self.authenticated:
            # A client that left without a byte (after a certificate that it didn't like) didn't fail here.
            if record:
                self._server.count("auth_failures")
            return False
        self._server.count("sessions_accepted")
        self._buffer += record[size:]
        if self.faults.close_after_authentication:
            return False
        self._take_frames()
        return True

    def _read(self) -> bytes:
        record = self._channel.read_record()
        self.bytes_received += len(record)
        if record and len(self.record_sizes) < MAX_RECORD_SIZES:
            self.record_sizes.append(len(record))
        self._server.changed()
        return record

    def _take_frames(self) -> None:
        buffer = self._buffer
        while len(buffer) >= HEADER_SIZE and not self._closing:
            command, stream_id, size = HEADER.unpack_from(buffer)
            end = HEADER_SIZE + size
            if len(buffer) < end:
                return
            data = bytes(buffer[HEADER_SIZE:end])
            del buffer[:end]
            if len(self.frames) < MAX_RECORD_SIZES:
                self.frames.append((command, stream_id, size))
            self._take(command, stream_id, data)

    def _take(self, command: int, stream_id: int, data: bytes) -> None:
        if command == Command.PSH:
            if (stream := self._open.get(stream_id)) is not None:
                stream.take(data)
        elif command == Command.SYN:
            self._open_stream(stream_id)
        elif command == Command.FIN:
            if (stream := self._open.pop(stream_id, None)) is not None:
                stream.close()
        elif command == Command.SETTINGS:
            self._take_settings(data)
        elif command == Command.HEART_REQUEST:
            self.heartbeats_received += 1
            self._server.count("heartbeats_received")
            if self.faults.answer_heartbeats and self._server.version >= 2:
                self.send_frame(Command.HEART_RESPONSE, stream_id)
        elif command == Command.HEART_RESPONSE:
            self.heart_responses_received += 1
        self._server.changed()

    def _open_stream(self, stream_id: int) -> None:
        if not self._settings_seen:
            self.alert("client did not send its settings")
            return
        stream = ServerStream(self, stream_id)
        self.streams.append(stream)
        self._open[stream_id] = stream
        self._server.count("streams_opened")

    def _take_settings(self, data: bytes) -> None:
        self.settings = dict(parse_settings(data))
        self._settings_seen = True
        if self.faults.ignore_settings:
            return
        scheme = self._server.scheme
        if self.settings.get("padding-md5") != hashlib.md5(scheme, usedforsecurity=False).hexdigest():
            self.send_frame(Command.UPDATE_PADDING_SCHEME, 0, scheme)
        if self._server.version >= 2 and self.settings.get("v", "1") != "1":
            with contextlib.suppress(OSError):
                self.send_frame(Command.SERVER_SETTINGS, 0, f"v={self._server.version}".encode())
