"""An AnyTLS server on loopback, for tests: it works, and misbehaves when told to.

NOT FOR PRODUCTION: it dials whatever its clients ask for, has no limits on sessions or memory, and
is written to be watched and broken, not to be attacked. It logs nothing.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from anytls_http.protocol.frames import Command
from anytls_http.protocol.padding import DEFAULT_SCHEME

from .certificates import DEFAULT_NAMES, Certificate, make_certificate
from .channel import TLSChannel, remember_server_name
from .faults import Faults
from .session import ServerSession

#: Most seconds that :meth:`AnyTLSServer.close` waits for its threads.
CLOSE_TIMEOUT = 10.0

_default_certificate: Certificate | None = None


class AnyTLSServer:
    """A real AnyTLS server on loopback, with faults to order. For tests only.

    ::

        with AnyTLSServer() as server:
            server.routes["example.org", 443] = ("127.0.0.1", my_port)
            client = AnyTLSClient(server.outbound(heartbeat="1s"))
            ...
            server.wait_for(lambda: server.streams_opened == 2)
            server.close_sessions()

    Args:
        password: what clients have to know; can be changed while it runs.
        scheme: the padding scheme, as text or lines, that clients with another one are told;
            None is the protocol's default one.
        version: 2, or 1 for a server that sends no ServerSettings, no SYNACK and no heartbeats.
        certificate: what it shows; None is one for ``anytls.test``, ``localhost`` and the loopback addresses.
        host, port: where it listens; port 0 takes a free one, which :attr:`port` then names.
        alpn: protocols that it offers in the TLS handshake.
        minimum_tls, maximum_tls: TLS versions that it takes; None is the ssl module's choice.

    A server that was closed can be started again, on the same port; counters and records go on.
    """

    def __init__(
        self,
        password: str = "test-password",
        *,
        scheme: str | Iterable[str] | None = None,
        version: int = 2,
        certificate: Certificate | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        alpn: Iterable[str] = (),
        minimum_tls: ssl.TLSVersion | None = None,
        maximum_tls: ssl.TLSVersion | None = None,
    ) -> None:
        #: The password; sessions that begin after a change are checked against the new one.
        self.password = password
        #: The raw padding scheme; sessions that begin after a change are told the new one.
        self.scheme = _raw_scheme(scheme)
        #: The protocol version spoken.
        self.version = version
        #: The certificate shown.
        self.certificate = certificate or _shared_certificate()
        self.host = host
        self.port = port
        #: What the server does wrong; set its fields at any time.
        self.faults = Faults()
        #: Where targets really are: ``routes["example.org", 443] = ("127.0.0.1", 8443)``.
        self.routes: dict[tuple[str, int], tuple[str, int]] = {}
        #: Every TCP connection taken, in order, authenticated or not, over or not.
        self.connections: list[ServerSession] = []
        #: How many sessions authenticated, streams were opened, and so on, since the server was made.
        self.sessions_accepted = 0
        self.streams_opened = 0
        self.auth_failures = 0
        self.heartbeats_received = 0
        self._context = self.certificate.server_context(alpn)
        self._context.sni_callback = remember_server_name
        if minimum_tls is not None:
            self._context.minimum_version = minimum_tls
        if maximum_tls is not None:
            self._context.maximum_version = maximum_tls
        self._changed = threading.Condition()
        self._freeze_new = False
        self._listener: socket.socket | None = None
        self._accepter: threading.Thread | None = None
        self._threads: list[ServerSession] = []

    def __repr__(self) -> str:
        state = "listening" if self._listener is not None else "closed"
        return (
            f"<AnyTLSServer {self.host}:{self.port}, {state}, {self.sessions_accepted} sessions, "
            f"{self.streams_opened} streams, {self.auth_failures} wrong passwords>"
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- life --

    def start(self) -> None:
        """Listen and take sessions. Does nothing when it does so already."""
        if self._listener is not None:
            return
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family, backlog=256)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._accepter = threading.Thread(
            target=self._accept, args=(listener,), name=f"anytls-test-server-{self.port}", daemon=True
        )
        self._accepter.start()

    def close(self) -> None:
        """Stop listening, end every session, and wait (at most 10 s) until all threads have ended."""
        self.stop_listening()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        self.close_sessions()
        for session in self._living():
            if not session.join(max(0.0, deadline - time.monotonic())):
                raise RuntimeError(f"a thread of the test server did not end: {session!r}")

    def stop_listening(self) -> None:
        """Refuse new connections; the sessions that exist go on. :meth:`start` takes them again."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        # The accepting thread closes its socket itself: closing it here would not wake it.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            # Where shutdown doesn't wake accept (macOS, Windows), a connection does.
            socket.create_connection((self.host, self.port), timeout=0.2).close()
        assert self._accepter is not None
        self._accepter.join(CLOSE_TIMEOUT)

    def outbound(self, **extra: Any) -> dict[str, Any]:
        """Return the sing-box outbound that reaches this server, as a dict.

        ``extra`` fields are added to it or replace its own; those of ``tls`` are merged one by one,
        and a field of None is left out: ``server.outbound(heartbeat="1s", tls={"server_name": "other.test"})``.
        """
        tls = {
            "enabled": True,
            "server_name": self.certificate.name,
            "certificate": self.certificate.ca_pem,
            **extra.pop("tls", {}),
        }
        fields = {
            "type": "anytls",
            "server": self.host,
            "server_port": self.port,
            "password": self.password,
            "tls": {name: value for name, value in tls.items() if value is not None},
            **extra,
        }
        return {name: value for name, value in fields.items() if value is not None}

    # -- what happened --

    @property
    def sessions(self) -> list[ServerSession]:
        """Every session that authenticated, in order, over or not."""
        return [session for session in list(self.connections) if session.authenticated]

    @property
    def live_sessions(self) -> list[ServerSession]:
        """The sessions that are authenticated and not over."""
        return [session for session in self.sessions if not session.closed]

    @property
    def unauthenticated_bytes(self) -> int:
        """Plaintext bytes received on connections that never authenticated: 0 unless a client spoke too soon."""
        return sum(session.bytes_received for session in list(self.connections) if not session.authenticated)

    def wait_for(self, predicate: Callable[[], bool], timeout: float = 5.0) -> bool:
        """Wait until ``predicate()`` is true, looking after everything that happens here; returns True.

        Raises :class:`TimeoutError` after ``timeout`` seconds, telling the server's state.
        """
        with self._changed:
            if self._changed.wait_for(predicate, timeout):
                return True
        raise TimeoutError(f"waited {timeout:g} s in vain: {self!r}")

    # -- what it does when told to --

    def close_sessions(self, reset: bool = False) -> None:
        """End every session now: orderly, or with a TCP reset. New ones are welcome."""
        for session in self._living():
            session.close(reset)

    def freeze(self, new_sessions: bool = True) -> None:
        """Go silent: stop reading and writing on every session while TCP stays open, as a stopped process does.

        ``new_sessions``: connections made from now on are taken and get no answer either, not even to
        their TLS handshake; with False they are served as usual.
        """
        self._freeze_new = new_sessions
        for session in self._living():
            session.freeze()

    def thaw(self) -> None:
        """End :meth:`freeze`: everything goes on where it stopped."""
        self._freeze_new = False
        for session in self._living():
            session.thaw()

    def send_frame(self, command: int, stream_id: int = 0, data: bytes = b"") -> None:
        """Send any frame to every live session; ``server.live_sessions[n].send_frame`` is for one."""
        for session in self.live_sessions:
            with contextlib.suppress(OSError):  # it ended a moment ago
                session.send_frame(command, stream_id, data)

    def send_raw(self, data: bytes) -> None:
        """Send plaintext, frames or not, to every live session."""
        for session in self.live_sessions:
            with contextlib.suppress(OSError):
                session.send_raw(data)

    def alert(self, text: str) -> None:
        """Send an Alert to every live session, and close it."""
        for session in self.live_sessions:
            with contextlib.suppress(OSError):
                session.alert(text)

    def push_scheme(self, scheme: str | Iterable[str]) -> None:
        """Send a padding scheme to every live session, and keep it for those to come."""
        self.scheme = _raw_scheme(scheme)
        self.send_frame(Command.UPDATE_PADDING_SCHEME, 0, self.scheme)

    # -- for the sessions --

    def changed(self) -> None:
        """Wake those who wait for something to happen."""
        with self._changed:
            self._changed.notify_all()

    def count(self, name: str) -> None:
        """Add one to a counter."""
        with self._changed:
            setattr(self, name, getattr(self, name) + 1)
            self._changed.notify_all()

    # -- the accepting thread --

    def _living(self) -> list[ServerSession]:
        """Return the sessions whose thread hasn't ended: only the thread's end counts, so that close() waits for it."""
        with self._changed:
            self._threads = [session for session in self._threads if not session.join()]
            return list(self._threads)

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError as exc:
                    if self._listener is listener and exc.errno in (
                        errno.EMFILE,
                        errno.ENFILE,
                        errno.ECONNABORTED,
                    ):
                        continue
                    return
                if self._listener is not listener or self.faults.close_on_accept:
                    sock.close()
                    if self._listener is not listener:
                        return
                    continue
                self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        try:
            channel = TLSChannel(sock, self._context)
        except OSError:  # it is gone already
            sock.close()
            return
        with self._changed:
            session = ServerSession(self, channel, len(self.connections) + 1)
            if self._freeze_new:
                session.freeze()
            self.connections.append(session)
            session.start()
            self._threads.append(session)
            self._changed.notify_all()


def _shared_certificate() -> Certificate:
    """Return the certificate of every server that was given none: made once, at the first need."""
    global _default_certificate
    if _default_certificate is None:
        _default_certificate = make_certificate(*DEFAULT_NAMES)
    return _default_certificate


def _raw_scheme(scheme: str | Iterable[str] | None) -> bytes:
    if scheme is None:
        return DEFAULT_SCHEME.raw
    return (scheme if isinstance(scheme, str) else "\n".join(scheme)).encode()
