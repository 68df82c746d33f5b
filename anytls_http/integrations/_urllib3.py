"""urllib3's connections over the tunnel; ``_urllib3_pool.py`` has their pools, ``requests.py`` the adapter above.

urllib3 keeps its own logic of pools, retries and certificates. What is ours is where a connection comes
from, how TLS is put on it, whether a kept-alive one still lives, and which of urllib3's exceptions an
error of the tunnel is:

| error of the tunnel | connecting, TLS with the target included | sending | awaiting the answer |
| --- | --- | --- | --- |
| ``AnyTLSTimeout`` | ``ConnectTimeoutError`` | ``ReadTimeoutError`` | ``ReadTimeoutError`` |
| ``StreamRefused`` | ``NewConnectionError`` | told by the read | ``NewConnectionError`` |
| ``AuthenticationError``, ``CertificateError`` | :class:`FinalError` | told by the read | :class:`FinalError` |
| ``SessionClosed`` | ``NewConnectionError`` | told by the read | ``ProtocolError`` |
| others | ``NewConnectionError`` | ``ProtocolError`` | ``ProtocolError`` |

urllib3 counts a ``NewConnectionError`` against the retries for connecting. That is right for a refused
stream, which has delivered nothing, unless its body can't be sent again: then it is a :class:`FinalError`.
"""

from __future__ import annotations

import ssl
import sys
import time
from typing import Any

from urllib3.connection import HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from anytls_http.client import AnyTLSClient
from anytls_http.errors import (
    AnyTLSError,
    AnyTLSTimeout,
    AuthenticationError,
    CertificateError,
    ClientClosed,
    SessionClosed,
    StreamRefused,
)
from anytls_http.net.waiting import deadline_after

from ._urllib3_plain import PlainHTTPConnection
from ._urllib3_tls import TunnelContext, TunnelContexts

#: Errors that the next try would only meet again.
POINTLESS_TO_RETRY = (AuthenticationError, CertificateError, ClientClosed)


class FinalError(HTTPError):
    """An error that urllib3's retries must leave alone; the adapter turns it into requests' exception.

    ``cause``: the error of the tunnel.
    """

    def __init__(self, cause: AnyTLSError) -> None:
        super().__init__(str(cause))
        self.cause = cause

    def __reduce__(self) -> tuple[type[FinalError], tuple[AnyTLSError]]:
        return type(self), (self.cause,)


class TunnelHTTPConnection(PlainHTTPConnection):
    """A connection to a plain http target through ``tunnel``."""

    def __init__(self, *args: Any, tunnel: AnyTLSClient, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tunnel_client = tunnel
        self._served = False  # a request before: the session may have died since
        self._body_can_be_sent_again = True

    @property
    def is_connected(self) -> bool:
        """Whether the connection is there and the target hasn't ended it. Never waits."""
        # urllib3 would look at the descriptor, which a stream hasn't got.
        sock: Any = self.sock
        return sock is not None and not sock.is_readable()

    def _new_conn(self) -> Any:
        try:
            sock = self._tunnel_client.create_connection(
                (self._dns_host, self.port),
                self.timeout,
                self.source_address,  # type: ignore[arg-type]  # None, or create_connection says why not
            )
        except (AnyTLSError, OSError) as exc:
            self._raise_connect_error(exc)
        if self.socket_options is not None and self.socket_options is not self.default_socket_options:
            try:
                for option in self.socket_options:
                    sock.setsockopt(*option)
            except OSError as exc:
                sock.close()
                self._raise_connect_error(exc)
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock

    def _raise_connect_error(self, exc: Exception) -> None:
        if isinstance(exc, AnyTLSTimeout):
            message = f"Connection to {self.host} timed out: {exc} (connect timeout={self.timeout})"
            raise ConnectTimeoutError(self, message) from exc
        if isinstance(exc, AnyTLSError) and isinstance(exc, POINTLESS_TO_RETRY):
            raise FinalError(exc) from exc
        raise NewConnectionError(self, f"Failed to establish a new connection: {exc}") from exc

    def request(self, method: str, url: str, body: Any = None, *args: Any, **kwargs: Any) -> None:
        """Send a request; on a kept-alive connection that was silent for long, only once it has proven its life."""
        if self._served:
            self._prove_alive(self.sock)
        # urllib3 rewinds files, but a used up generator would go out as an empty body.
        self._body_can_be_sent_again = body is None or isinstance(body, (bytes, str)) or hasattr(body, "tell")
        try:
            super().request(method, url, body, *args, **kwargs)
        except AnyTLSTimeout as exc:
            raise ReadTimeoutError(self, url, f"Sending timed out: {exc}") from exc  # type: ignore[arg-type]
        except (SessionClosed, StreamRefused, AuthenticationError):
            # The target may have answered early. If it hasn't, the read raises the same error.
            pass

    def _prove_alive(self, sock: Any) -> None:
        """Close the connection where its session is dead, for a new one to be made: not a byte was sent yet.

        urllib3 has set ``timeout`` to the connect time-out; the proof and the new connection share it.
        """
        deadline = deadline_after(self.timeout)
        try:
            if sock._prove_alive(deadline):
                return
        except AnyTLSTimeout as exc:
            self._raise_connect_error(exc)
        except OSError:
            pass  # it ended otherwise
        self.close()  # http.client connects again where there is no socket
        if deadline is not None:
            self.timeout = max(0.0, deadline - time.monotonic())

    def close(self) -> None:
        """End the connection; the next request makes a new one."""
        self._served = False
        super().close()

    def getresponse(self) -> Any:
        """Return the response to the request that was sent."""
        self._served = True
        try:
            return super().getresponse()
        except StreamRefused as exc:
            if self._body_can_be_sent_again:
                self._raise_connect_error(exc)
            raise FinalError(exc) from exc
        except (AuthenticationError, ClientClosed) as exc:
            raise FinalError(exc) from exc


class TunnelHTTPSConnection(TunnelHTTPConnection, HTTPSConnection):
    """A connection to an https target: TLS inside the tunnel, with urllib3's rules about certificates."""

    def __init__(self, *args: Any, contexts: TunnelContexts, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._contexts = contexts

    def connect(self) -> None:
        """Open the stream and do the TLS handshake with the target."""
        given = self.ssl_context
        context = self._contexts.get(self) if given is None else TunnelContext(given)
        self.ssl_context = context  # type: ignore[assignment]
        try:
            super().connect()
        except ssl.SSLError:
            raise  # urllib3 knows what to do
        except (AnyTLSError, OSError) as exc:
            self._raise_connect_error(exc)
        finally:
            self.ssl_context = given
