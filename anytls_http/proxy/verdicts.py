"""What a failed connection is called in SOCKS and in HTTP."""

from __future__ import annotations

import enum
from http import HTTPStatus

from anytls_http.errors import AnyTLSTimeout, ClientClosed, StreamRefused


class Reply(enum.IntEnum):
    """SOCKS5 reply codes."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    CONNECTION_REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_TYPE_NOT_SUPPORTED = 8


# The server's words, as Go programs have them; anything else is a refusal.
_WORDS = (
    ("network is unreachable", Reply.NETWORK_UNREACHABLE),
    ("no route to host", Reply.HOST_UNREACHABLE),
    ("host is unreachable", Reply.HOST_UNREACHABLE),
    ("host is down", Reply.HOST_UNREACHABLE),
    ("no such host", Reply.HOST_UNREACHABLE),
    ("can't be a target", Reply.HOST_UNREACHABLE),
    ("name or service not known", Reply.HOST_UNREACHABLE),
    ("timeout", Reply.TTL_EXPIRED),
    ("timed out", Reply.TTL_EXPIRED),
    ("deadline exceeded", Reply.TTL_EXPIRED),
)


def socks_reply(exc: BaseException) -> Reply:
    """Return the SOCKS5 reply code that tells of ``exc``."""
    if isinstance(exc, AnyTLSTimeout):
        return Reply.TTL_EXPIRED
    if isinstance(exc, StreamRefused):
        # The last of them: before it stand names that the client chose.
        words = str(exc).rpartition(": ")[2].lower() if "the server refused" in str(exc) else str(exc)
        return next((reply for text, reply in _WORDS if text in words), Reply.CONNECTION_REFUSED)
    return Reply.GENERAL_FAILURE


def http_status(exc: BaseException) -> HTTPStatus:
    """Return the HTTP status that tells of ``exc``."""
    if isinstance(exc, ClientClosed):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if socks_reply(exc) is Reply.TTL_EXPIRED:
        return HTTPStatus.GATEWAY_TIMEOUT
    return HTTPStatus.BAD_GATEWAY
