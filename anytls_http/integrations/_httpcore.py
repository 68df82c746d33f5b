"""The tunnel under httpcore, written once for httpcore and httpcore2; ``_httpx.py`` has the transport above it.

Two seams of httpcore are filled: a network *backend* opens streams through the tunnel, and a network
*stream* moves the bytes of one of them. Errors become httpcore's, which its own logic asks for (a connect
error, a failed write); which one is decided by what was going on:

| going on | time-out | refused, or not authenticated | any other error of the tunnel or of TLS |
| --- | --- | --- | --- |
| connecting, TLS with the target included | ``ConnectTimeout`` | ``ConnectError`` | ``ConnectError`` |
| reading | ``ReadTimeout`` | ``ConnectError`` | ``ReadError`` |
| writing | ``WriteTimeout`` | ``ConnectError`` | ``WriteError`` |

A refused stream has delivered nothing, so it is a connect error whenever it is noticed; whatever else
happens after user data was written is none, since connect errors invite sending a POST again. httpcore
goes on to read after a failed write, so that an early answer isn't lost; errors of the tunnel are
sticky, and the read raises them again.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any, ClassVar, NoReturn, Self

from anytls_http.client import AnyTLSClient
from anytls_http.errors import AnyTLSTimeout, AuthenticationError, StreamRefused
from anytls_http.net.waiting import deadline_after
from anytls_http.sockets import AnyTLSSocket, AnyTLSTLSSocket

#: Errors that say that the target got nothing at all, whenever they come.
NOTHING_DELIVERED = (StreamRefused, AuthenticationError)


class Asked(threading.local):
    """What a thread's transport asks of the streams under it, through httpcore, which knows nothing of it."""

    #: A request was begun, and nothing of it was handed to a stream yet.
    new_request = False
    #: The session under a kept-alive connection was found dead, before a byte of the request was written.
    found_dead = False
    #: How long its connecting may take, in seconds.
    connect_timeout: float | None = None
    #: How much of that a proof of life has used up (seconds).
    proof_took = 0.0

    def left_to_connect(self, timeout: float | None) -> float | None:
        """Return what is left of the connect time-out."""
        return None if timeout is None else max(0.0, timeout - self.proof_took)


asked = Asked()


class TunnelStream:
    """One stream of the tunnel, or TLS with the target inside it, as httpcore's ``NetworkStream``."""

    #: The module ``httpcore`` or ``httpcore2``.
    core: ClassVar[Any]

    def __init__(self, sock: AnyTLSSocket | AnyTLSTLSSocket) -> None:
        self._sock = sock
        self._served = False  # something was read: what is written next may be a new request
        #: Several requests may be on it at once (HTTP/2): who begins one has to call :meth:`prove_alive` before.
        self.is_shared = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return up to ``max_bytes``, b"" at the end; ``timeout`` in seconds."""
        self._served = True
        sock = self._sock
        try:
            data = sock._read(max_bytes, None if timeout is None else time.monotonic() + timeout)
        except AnyTLSTimeout as exc:
            raise self.core.ReadTimeout(exc) from exc
        except NOTHING_DELIVERED as exc:
            raise self.core.ConnectError(exc) from exc
        except OSError as exc:
            raise self.core.ReadError(exc) from exc
        if not data and not sock._opened:
            raise self.core.ReadError("the server closed the stream without a word on the target")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of ``buffer``; give up after ``timeout`` seconds without progress."""
        # Also where nothing is left to write: with HTTP/2 another thread may have sent it.
        is_new, asked.new_request = asked.new_request, False
        if not buffer:
            return
        if is_new and self._served and not self.is_shared and not self.prove_alive():
            self._sock.close()
            asked.found_dead = True
            # No WriteError: httpcore would go on to read the answer to what was never sent.
            raise self.core.ReadError("the session under the kept-alive connection is dead")
        try:
            self._sock._write(buffer, timeout)
        except AnyTLSTimeout as exc:
            raise self.core.WriteTimeout(exc) from exc
        except NOTHING_DELIVERED as exc:
            raise self.core.ConnectError(exc) from exc
        except OSError as exc:
            raise self.core.WriteError(exc) from exc

    def prove_alive(self) -> bool:
        """Whether this kept-alive stream may be trusted with a new request, of which nothing was sent yet.

        The proof is a part of connecting, without it there would be a new connection: raises ``ConnectTimeout``.
        """
        begin = time.monotonic()
        try:
            if self.is_shared and self._sock._has_ended():
                return False
            return self._sock._prove_alive(deadline_after(asked.left_to_connect(asked.connect_timeout)))
        except AnyTLSTimeout as exc:
            raise self.core.ConnectTimeout(exc) from exc
        except OSError:
            return False  # it ended otherwise
        finally:
            asked.proof_took += time.monotonic() - begin

    def close(self) -> None:
        """End the stream and give its session back."""
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Self:
        """Do a TLS handshake with the target; ``timeout`` in seconds. Returns the stream to use from then on."""
        sock = self._sock
        if isinstance(sock, AnyTLSTLSSocket):
            raise TypeError("TLS has been started on this stream already")
        try:
            return type(self)(sock._start_tls(ssl_context, server_hostname, deadline_after(timeout)))
        except AnyTLSTimeout as exc:
            sock.close()
            raise self.core.ConnectTimeout(exc) from exc
        except (OSError, ValueError) as exc:  # ValueError: a name that can't be a certificate's
            sock.close()
            raise self.core.ConnectError(exc) from exc
        except BaseException:
            sock.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        """Return ``ssl_object``, ``client_addr``, ``server_addr`` (the target) or ``is_readable``; None for others.

        ``socket`` is None too: the TCP socket below belongs to the session, and would lead around the tunnel.
        """
        sock = self._sock
        if info == "is_readable":
            return sock.is_readable()
        if info == "ssl_object":
            return sock._ssl_object if isinstance(sock, AnyTLSTLSSocket) else None
        if info == "server_addr":
            return sock.getpeername()
        if info == "client_addr":
            return sock.getsockname()
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self._sock!r}>"


class TunnelBackend:
    """Opens streams through the tunnel, as httpcore's ``NetworkBackend``."""

    core: ClassVar[Any]
    stream_class: ClassVar[type[TunnelStream]]

    def __init__(self, client: AnyTLSClient) -> None:
        self._client = client

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        """Return a stream to ``host``, whose name the server resolves; ``timeout`` in seconds."""
        try:
            left = asked.left_to_connect(timeout)
            return self.stream_class(self._client.create_connection((host, port), left))
        except AnyTLSTimeout as exc:
            raise self.core.ConnectTimeout(exc) from exc
        except OSError as exc:
            raise self.core.ConnectError(exc) from exc

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> NoReturn:
        """Refuse: the tunnel leads to TCP targets only."""
        raise TypeError("a Unix domain socket can't be reached through the tunnel")

    def sleep(self, seconds: float) -> None:
        """Wait ``seconds`` between two tries."""
        time.sleep(seconds)
