"""HTTP/1.1 on one stream of the tunnel: plain exchanges in few steps, all others by httpcore.

h11 and httpcore take half of the instructions of a small request by httpx, and copy each piece of a body three times
more (``docs/performance.md``). Nearly all exchanges are plain: a request without special wishes, and a response
whose head has come whole, and whose body has a length or is chunked. A connection that meets anything else is
httpcore's from then on: an upgrade, a body that ends with the connection, a header that h11 would refuse or repair, an
exchange that is traced. It gets the response from its first byte then, so that its rules and errors hold.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from typing import Any

from ._http1_bodies import READ_SIZE, ChunkedBody, MeasuredBody
from ._http1_heads import SMALL_BODY, PlainRequest, plain_request, plain_response


@functools.cache
def _loggers_of_steps(core: str) -> tuple[logging.Logger, logging.Logger]:
    """Return where httpcore logs its steps: asking for a logger takes a lock that all threads share."""
    return logging.getLogger(f"{core}.connection"), logging.getLogger(f"{core}.http11")


class HTTP1Connection:
    """A connection to one origin, in place of httpcore's ``HTTPConnection`` where there is no HTTP/2.

    One request at a time. ``core``: the module ``httpcore`` or ``httpcore2``, whose exceptions it raises;
    ``bytes_class``: of request bodies that are all there; ``origin``, ``options``: those of httpcore's.
    """

    def __init__(self, core: Any, bytes_class: Any, origin: Any, **options: Any) -> None:
        self._core = core
        self._bytes_class = bytes_class
        self._origin = origin
        self._options = options
        self.stream: Any = None
        self._delegate: Any = None  # httpcore's connection, once there is one
        self._state = "new"  # then "active", "idle" and so on, at the end "closed"
        self._expires = float("inf")
        self._lock = threading.Lock()
        self._loggers = _loggers_of_steps(core.__name__)

    def handle_request(self, request: Any) -> Any:
        """Send ``request`` and return the response, whose ``stream`` has to be closed.

        Raises httpcore's exceptions, ``ConnectionNotAvailable`` where the connection has ended or has a request.
        """
        if self._delegate is None:
            with self._lock:
                if self._state not in ("new", "idle"):
                    raise self._core.ConnectionNotAvailable()
                self._state = "active"
            try:
                plain = None
                if not self._is_traced(request):
                    plain = plain_request(request.method, request.url.target, request.headers)
                if plain is not None:
                    return self._exchange(request, plain)
                self._delegate = self._httpcores()
            except BaseException:
                self._end()
                raise
        elif self._state == "closed":
            raise self._core.ConnectionNotAvailable()
        return self._handle_by_httpcore(request)

    def _handle_by_httpcore(self, request: Any) -> Any:
        response = self._delegate.handle_request(request)
        if isinstance(response.extensions.get("network_stream"), _Resumed):
            response.extensions["network_stream"] = self.stream
        return response

    def _is_traced(self, request: Any) -> bool:
        """Whether somebody wants to be told of each of httpcore's steps."""
        if request.extensions.get("trace") is not None:
            return True
        connection, http11 = self._loggers
        return connection.isEnabledFor(logging.DEBUG) or http11.isEnabledFor(logging.DEBUG)

    def _httpcores(self) -> Any:
        """Return a connection of httpcore's in place of this one."""
        if self.stream is None:
            return self._core.HTTPConnection(self._origin, **self._options)
        return self._core.HTTP11Connection(self._origin, self.stream, self._options["keepalive_expiry"])

    def _connect(self, request: Any, timeout: float | None) -> Any:
        origin = self._origin
        host = origin.host.decode("ascii")
        stream = self._options["network_backend"].connect_tcp(host, origin.port, timeout)
        if origin.scheme in (b"https", b"wss"):
            context = self._options["ssl_context"]
            context.set_alpn_protocols(["http/1.1"])
            stream = stream.start_tls(context, request.extensions.get("sni_hostname") or host, timeout)
        return stream

    def _exchange(self, request: Any, plain: PlainRequest) -> Any:
        """Send a plain request, and read the head of its response."""
        core = self._core
        timeouts = request.extensions.get("timeout", {})
        stream = self.stream
        if stream is None:
            stream = self.stream = self._connect(request, timeouts.get("connect"))
        keeps = plain.keeps
        try:
            self._send(stream, request, plain, timeouts.get("write"))
        except core.WriteError:
            keeps = False  # there may be a response all the same: to a body that nobody wanted whole
        timeout = timeouts.get("read")
        data = stream.read(READ_SIZE, timeout)
        if not data:
            raise core.RemoteProtocolError("Server disconnected without sending a response.")
        response = plain_response(data, request.method)
        if response is None:
            return self.leave_to_httpcore(request, data, keeps)
        keeps = keeps and response.keeps
        first = data[response.size :]
        body: MeasuredBody | ChunkedBody
        if response.length is None:
            body = ChunkedBody(self, first, timeout, keeps, request)
        else:
            body = MeasuredBody(self, first, timeout, keeps, response.length)
        return Response(
            response.status,
            response.headers,
            body,
            {"http_version": b"HTTP/1.1", "reason_phrase": response.reason, "network_stream": stream},
        )

    def _send(self, stream: Any, request: Any, plain: PlainRequest, timeout: float | None) -> None:
        left = plain.length
        if left <= SMALL_BODY and isinstance(request.stream, self._bytes_class):
            body = b"".join(request.stream)
            if len(body) == left:
                stream.write(plain.head + body, timeout)  # one packet
                return
        stream.write(plain.head, timeout)
        for chunk in request.stream:
            left -= len(chunk)
            if left < 0:
                raise self._core.LocalProtocolError("Too much data for declared Content-Length")
            stream.write(chunk, timeout)
        if left:
            raise self._core.LocalProtocolError("Too little data for declared Content-Length")

    def broken(self, why: str) -> Exception:
        """Return the error of a server that breaks the rules of HTTP."""
        error: Exception = self._core.RemoteProtocolError(why)
        return error

    def leave_to_httpcore(self, request: Any, data: bytes, keeps: bool) -> Any:
        """Have httpcore read the response that begins with ``data``; this connection is httpcore's from now on."""
        resumed = _Resumed(self.stream, data)
        # To httpcore it is a request without a body, which it believes to send.
        said = [(name, value) for name, value in request.headers if name.lower() in (b"host", b"connection")]
        if not keeps:
            said = [said[0], (b"Connection", b"close")]
        stand_in = self._core.Request(
            request.method, request.url, headers=said, extensions=request.extensions
        )
        self._delegate = self._core.HTTP11Connection(self._origin, resumed, self._options["keepalive_expiry"])
        return self._handle_by_httpcore(stand_in)

    def end_response(self, keeps: bool) -> None:
        """The response has ended; ``keeps``: another request may follow."""
        if keeps:
            with self._lock:
                if self._state == "active":
                    expiry = self._options["keepalive_expiry"]
                    if expiry is not None:
                        self._expires = time.monotonic() + expiry
                    self._state = "idle"
        else:
            self._end()

    def _end(self) -> None:
        self._state = "closed"
        self.close()

    def close(self) -> None:
        """End the connection, and the request on it. One that isn't connected yet goes on."""
        # The state first: then nothing that ends meanwhile can make it idle again.
        if self._delegate is not None:
            self._state = "closed"
            self._delegate.close()
        elif self.stream is not None:
            self._state = "closed"
            self.stream.close()

    def is_available(self) -> bool:
        """Whether it takes a request."""
        if self._delegate is not None and self._state != "closed":
            return bool(self._delegate.is_available())
        return self._state == "idle"

    def has_expired(self) -> bool:
        """Whether it has ended, or is too old for another request."""
        if self._state == "closed":
            return True
        if self._delegate is not None:
            return bool(self._delegate.has_expired())
        # Something to read between two requests can only be the end.
        return self._state == "idle" and (
            time.monotonic() > self._expires or self.stream.get_extra_info("is_readable")
        )

    def is_idle(self) -> bool:
        """Whether it has no request, and takes one."""
        return self.is_available()

    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self._state == "closed" or (self._delegate is not None and self._delegate.is_closed())

    def info(self) -> str:
        """Return its target and its state in words."""
        if self._delegate is not None:
            return str(self._delegate.info())
        return f"{str(self._origin)!r}, HTTP/1.1, {self._state}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{self.info()}]>"


class Response:
    """A response, with the names of httpcore's."""

    __slots__ = ("extensions", "headers", "status", "stream")

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], stream: Any, extensions: dict[str, Any]
    ) -> None:
        self.status = status
        self.headers = headers
        self.stream = stream
        self.extensions = extensions


class _Resumed:
    """A stream on which a request was sent and the first bytes of its response were read, as httpcore's stream."""

    def __init__(self, stream: Any, data: bytes) -> None:
        self._stream = stream
        self._data = data
        self._is_sent = False

    def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        self._is_sent = True
        if self._data:
            data, self._data = self._data[:max_bytes], self._data[max_bytes:]
            return data
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._is_sent:
            self._stream.write(buffer, timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
