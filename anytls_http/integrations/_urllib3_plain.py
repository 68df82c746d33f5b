"""urllib3's connection, whose plain requests leave in one step, and whose responses come without detours.

urllib3 and http.client build the head of a request by one method and several checks per header, and look at that of a
response four times. What is plain (``_http1_heads.py``) is written and read at once here, by their public names; the
rest is theirs.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Generator, Mapping
from http.client import CannotSendRequest
from typing import Any, NamedTuple

import urllib3.connection
from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HeaderParsingError
from urllib3.util import SKIP_HEADER
from urllib3.util.response import assert_header_parsing

from ._http1_heads import SMALL_BODY, PlainRequest, plain_request
from ._http_response import PlainMessage, TunnelResponse
from ._urllib3_headers import PlainHeaders

#: The methods whose requests need no length where they have no body.
BODYLESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})

logger = logging.getLogger("anytls_http.integrations")

_TAKEN = frozenset(inspect.signature(HTTPResponse).parameters)  # more with each version of urllib3


class PlainHTTPResponse(HTTPResponse):
    """urllib3's response, whose body doesn't pass through the buffer of a decoder where there is nothing to decode."""

    #: Where the body comes from, if that is known. Caches put a file of their own before it (CacheControl).
    source: TunnelResponse | None = None
    _known_encoded: bool | None = None

    @property
    def _is_encoded(self) -> bool:
        if self._known_encoded is None:
            self._known_encoded = self.headers.get("content-encoding") is not None
        return self._known_encoded

    def is_whole_and_below(self, size: int) -> bool:
        """Whether nothing was read yet of a body of a known length of up to ``size`` bytes, with nothing to decode."""
        length = self.length_remaining
        return length is not None and length <= size and not self.tell() and not self._is_encoded

    def read(
        self, amt: int | None = None, decode_content: bool | None = None, cache_content: bool = False
    ) -> bytes:
        """Read up to ``amt`` bytes of the body; arguments as ``HTTPResponse.read``."""
        if self._is_encoded:
            return super().read(amt, decode_content, cache_content)
        return self._piece(amt) or super().read(amt, False, cache_content)

    def stream(
        self, amt: int | None = 2**16, decode_content: bool | None = None
    ) -> Generator[bytes, None, None]:
        """Yield the body in pieces of up to ``amt`` bytes, as ``HTTPResponse.stream``."""
        if not self._is_encoded and "read" not in vars(self):  # somebody's own read is asked for each piece
            while piece := self._piece(amt):
                yield piece
        yield from super().stream(amt, decode_content)

    def _piece(self, amt: int | None) -> bytes:
        """Read a piece that isn't the last; nothing where it may be, or where it takes urllib3 to tell what it is."""
        source = self.source
        if source is None or self._fp is not source or source.fp is None:
            return b""
        left = self.length_remaining
        if amt is None or left is None or not 0 < amt < left:
            return b""
        try:
            data = source.read(amt)
        except BaseException:
            # An interrupt too: urllib3 gives the connection up, and has its say on the error, which is raised.
            with self._error_catcher():
                raise
        if not data:
            return super().read(amt, False)  # the body has ended too early: urllib3 says so
        self._fp_bytes_read += len(data)
        self.length_remaining = left - len(data)
        self._uncached_read_occurred = True
        return data


class _Asked(NamedTuple):
    """The request that awaits its response."""

    method: str
    url: str
    options: dict[str, Any]


class PlainHTTPConnection(HTTPConnection):
    """A connection of urllib3's; one response at a time, as with http.client."""

    response_class = TunnelResponse

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asked: _Asked | None = None
        self._previous: Any = None  # http.client's response that must have been read first

    def request(
        self, method: str, url: str, body: Any = None, headers: Any = None, *args: Any, **options: Any
    ) -> None:
        """Send a request, as urllib3's ``HTTPConnection.request``."""
        if self._previous is not None:
            if not self._previous.isclosed():
                raise CannotSendRequest("the response before was not read to its end")
            self._previous = None
        self._asked = None
        plain = None if args else self._as_plain(method, url, body, headers, options)
        if plain is None:
            super().request(method, url, body, headers, *args, **options)
            return
        if self.sock is None:
            self.connect()
        else:
            self.sock.settimeout(self.timeout)
        self._asked = _Asked(method, url, options)
        if not body:
            self._send_out(plain.head)
        elif len(body) <= SMALL_BODY:
            self._send_out(plain.head + body)  # one packet
        else:
            self._send_out(plain.head)
            self._send_out(body)

    def _send_out(self, data: bytes) -> None:
        sys.audit("http.client.send", self, data)
        self.sock.sendall(data)

    def _as_plain(
        self, method: str, url: str, body: Any, headers: Any, options: Mapping[str, Any]
    ) -> PlainRequest | None:
        """Return the head as urllib3 and http.client would send it, None where it takes them to tell."""
        if options.get("chunked") or self.debuglevel > 0 or not (body is None or type(body) is bytes):
            return None
        host = self.host
        if url[:1] != "/" or "%" in host:  # a URL may name another host, and a scope is not said
            return None
        if ":" in host:
            host = f"[{host}]"
        if self.port != self.default_port:
            host = f"{host}:{self.port}"
        try:
            items = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
            found = b"\n".join([name for name, _ in items]).lower().split(b"\n")
            # Without these, urllib3 and http.client would say something of their own.
            if b"user-agent" not in found or b"accept-encoding" not in found:
                return None
            items.insert(0, (b"Host", host.encode("ascii")))
            plain = plain_request(method.encode("ascii"), url.encode("ascii"), items)
        except (AttributeError, UnicodeEncodeError):  # not text, or not plain text
            return None
        if plain is None or plain.length != len(body or b"") or SKIP_HEADER.encode() in plain.head:
            return None
        if b"content-length" not in found and (body is not None or method not in BODYLESS):
            return None
        return plain

    def getresponse(self) -> Any:
        """Return the response to the request that was sent, as urllib3's ``HTTPConnection.getresponse``."""
        asked, self._asked = self._asked, None
        if asked is None:
            response = super().getresponse()
            self._previous = getattr(response, "_original_response", None)
            return response
        sock: Any = self.sock
        sock.settimeout(self.timeout)
        original = self.response_class(sock, method=asked.method)
        try:
            try:
                original.begin()
            except ConnectionError:
                self.close()
                raise
            if original.will_close:
                self.close()  # the connection is the response's then
            else:
                self._previous = original
        except BaseException:
            original.close()
            raise
        more = {"version_string": "HTTP/1.1", "sock_shutdown": sock.shutdown}
        response = PlainHTTPResponse(
            body=original,
            headers=_headers_of(original.msg, asked.url),
            status=original.status,
            version=original.version,
            reason=original.reason,
            preload_content=asked.options.get("preload_content", True),
            decode_content=asked.options.get("decode_content", True),
            original_response=original,
            enforce_content_length=asked.options.get("enforce_content_length", True),
            request_method=asked.method,
            request_url=asked.url,
            **{name: value for name, value in more.items() if name in _TAKEN},
        )
        response.source = original
        return response

    def close(self) -> None:
        """End the connection, and what it is about to say."""
        self._asked = None
        previous, self._previous = self._previous, None
        try:
            super().close()
        finally:
            if previous is not None:
                previous.close()


def _headers_of(message: Any, url: str) -> HTTPHeaderDict:
    """Return the headers for urllib3, which has its say on those that aren't plain."""
    if isinstance(message, PlainMessage):
        items = message.plain_items
        if items is not None and len(items) == len(message.plain):
            return PlainHeaders.of_plain(items, message.plain)
        return HTTPHeaderDict(message.items())
    try:
        assert_header_parsing(message)
    except (HeaderParsingError, TypeError) as exc:
        logger.warning("the headers of the response to %s could not all be read: %s", url, exc)
    normalized = getattr(urllib3.connection, "_normalize_header_values", None)  # of folded lines
    return HTTPHeaderDict(message.items() if normalized is None else normalized(message))
