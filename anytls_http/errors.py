"""Every exception that this package raises.

One base, :class:`AnyTLSError`; each leaf is also the built-in exception that it means, so that code
written for plain sockets (urllib3, ``http.client``) treats it rightly without knowing this package.
All of them carry one message and can be pickled. None ever holds a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "AnyTLSError",
    "AnyTLSTimeout",
    "AuthenticationError",
    "CertificateError",
    "ClientClosed",
    "ConfigError",
    "DialError",
    "SessionClosed",
    "StreamRefused",
]


class AnyTLSError(Exception):
    """Base of all errors of this package."""

    def bare(self) -> Self:
        """Return a copy to keep: one that was raised keeps alive the frames that it went through, and all in them."""
        return type(self)(*self.args)


class ConfigError(AnyTLSError, ValueError):
    """The configuration is wrong: names the field's path, what it got and what it takes."""


class DialError(AnyTLSError, ConnectionError):
    """The AnyTLS server could not be reached: name lookup, TCP or TLS failed."""


class CertificateError(AnyTLSError, ConnectionError):
    """The server's certificate was not accepted; nothing was sent to that server."""


class AuthenticationError(AnyTLSError, ConnectionError):
    """The server closed the session right after authentication: most likely a wrong password.

    Raised only while the client has never received a frame; later the same close is
    :class:`SessionClosed`.
    """


class StreamRefused(AnyTLSError, ConnectionRefusedError):
    """The server could not reach the target; the message holds the server's words."""


class SessionClosed(AnyTLSError, ConnectionResetError):
    """The session under this stream ended before the stream did."""


class AnyTLSTimeout(AnyTLSError, TimeoutError):
    """The caller's deadline passed."""


class ClientClosed(AnyTLSError, OSError):
    """The client was closed, before or during the call."""
