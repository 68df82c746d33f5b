"""The HTTP side: CONNECT, and plain requests with the whole URI, parsed by h11."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

import h11

from anytls_http.errors import AnyTLSError
from anytls_http.sockets import AnyTLSSocket

from .forward import Exchange, Upstream
from .incoming import ClientLeft, Credentials, Incoming, shown
from .verdicts import http_status

#: Most bytes of a request's head.
MAX_HEAD = 64 * 1024
#: Seconds for a request's head, once it has begun; and for our own answer.
HEAD_TIMEOUT = 8.0

#: Opens a stream to (host, port), known to be open; raises AnyTLSError.
Connect = Callable[[str, int], AnyTLSSocket]

_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]@/?#]+))(?::(?P<port>[0-9]{1,5}))?")


class Target(NamedTuple):
    """Where a request goes: connect there, and send this target with this Host."""

    host: str
    port: int
    path: bytes
    authority: str


class Tunnel(NamedTuple):
    """The connection becomes a tunnel: ``head`` came after the request and goes to the target first."""

    stream: AnyTLSSocket
    head: bytes


class BadRequest(Exception):
    """The request can't be served; ``status`` and the text say why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Conversation:
    """The HTTP connection of one client, over as many requests as it sends."""

    def __init__(self, client: Incoming, connect: Connect, credentials: Credentials | None) -> None:
        self._client = client
        self._connect = connect
        self._credentials = credentials
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._upstream: Upstream | None = None
        self._method = b""  # of the request that is served, once it is known

    def serve(self) -> Tunnel | bool:
        """Serve the requests that are there.

        Returns the tunnel that a CONNECT asked for, True when the next request may be waited for, False
        when the client must be closed. Raises :class:`ClientLeft`.
        """
        while True:
            self._method = b""
            try:
                request = self._next_request()
                if request is None:
                    return False
                self._method = request.method
                self._check_password(request)
                if request.method == b"CONNECT":
                    return self._tunnel(request)
                self._forward(request)
            except BadRequest as exc:
                self._refuse(exc.status, str(exc))
            except h11.RemoteProtocolError as exc:
                self._refuse(exc.error_status_hint, shown(exc))
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return False
            self._http.start_next_cycle()
            if not self._http.trailing_data[0]:
                return True

    def close(self) -> None:
        """Close the connection to the last target."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()

    def _next_request(self) -> h11.Request | None:
        self._client.limit(HEAD_TIMEOUT)
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is h11.NEED_DATA:
                self._http.receive_data(self._client.receive())
            else:
                return None

    def _check_password(self, request: h11.Request) -> None:
        if self._credentials is None:
            return
        for name, value in request.headers:
            if name == b"proxy-authorization":
                scheme, _, encoded = value.partition(b" ")
                if scheme.lower() != b"basic":
                    break
                try:
                    username, _, password = base64.b64decode(encoded, validate=True).partition(b":")
                except binascii.Error:
                    break
                if self._credentials.match(username, password):
                    return
        raise BadRequest(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, "user name and password, please")

    def _tunnel(self, request: h11.Request) -> Tunnel | bool:
        host, port = split_authority(request.target.decode("latin-1"), None)
        while self._http.next_event() not in (h11.PAUSED, h11.NEED_DATA):
            pass
        self.close()
        stream = self._open(host, port)
        try:
            self._client.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        except ClientLeft:
            stream.close()
            raise
        return Tunnel(stream, self._http.trailing_data[0])

    def _forward(self, request: h11.Request) -> None:
        target = parse_target(request.target.decode("latin-1"))
        upstream = self._upstream
        reused = upstream is not None and upstream.fits(target.host, target.port) and upstream.prove_alive()
        if not reused:
            self.close()
            upstream = self._upstream = Upstream(
                self._open(target.host, target.port), target.host, target.port
            )
        assert upstream is not None
        exchange = Exchange(self._client, self._http, upstream, request, target.path, target.authority)
        try:
            again = exchange.run() and reused and exchange.may_repeat
            if again:  # the kept connection ended just then, and not a byte of an answer had come
                self.close()
                upstream = self._upstream = Upstream(
                    self._open(target.host, target.port), target.host, target.port
                )
                exchange = Exchange(
                    self._client, self._http, upstream, request, target.path, target.authority
                )
                exchange.run()
            failure = exchange.failure
        except BaseException:
            self.close()
            raise
        if not upstream.reusable():
            self.close()
        if failure is not None:
            raise BadRequest(failure[0], failure[1])

    def _open(self, host: str, port: int) -> AnyTLSSocket:
        try:
            return self._connect(host, port)
        except AnyTLSError as exc:
            raise BadRequest(http_status(exc), shown(exc)) from exc

    def _refuse(self, status: int, text: str) -> None:
        """Answer with an error of our own, where an answer can still be given."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise ClientLeft("the answer broke off")
        body = f"anytls-http: {text}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            headers.append(("Proxy-Authenticate", 'Basic realm="anytls-http"'))
        response = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)
        self._client.limit(HEAD_TIMEOUT)
        data = self._http.send(response) or b""
        if self._method != b"HEAD":
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        self._client.send(data)
        self._drain_request()

    def _drain_request(self) -> None:
        """Read the rest of a request that is there already, so that the connection can go on."""
        try:
            while self._http.their_state is h11.SEND_BODY:
                if self._http.next_event() is h11.NEED_DATA:
                    return
        except h11.RemoteProtocolError:
            return


def parse_target(target: str) -> Target:
    """Split an absolute URI. Raises :class:`BadRequest`."""
    scheme, separator, rest = target.partition("://")
    if not separator:
        raise BadRequest(
            HTTPStatus.BAD_REQUEST, "this is a proxy: it takes CONNECT, and requests with the whole URL"
        )
    if scheme.lower() != "http":
        raise BadRequest(HTTPStatus.NOT_IMPLEMENTED, f"no {shown(scheme, 20)} URLs: for https, use CONNECT")
    end = min((i for i in map(rest.find, "/?#") if i >= 0), default=len(rest))
    authority = rest[:end].rpartition("@")[2]
    path = rest[end:].partition("#")[0]
    host, port = split_authority(authority, 80)
    if not path.startswith("/"):
        path = "/" + path
    return Target(host, port, path.encode("latin-1"), authority)


def split_authority(authority: str, default: int | None) -> tuple[str, int]:
    """Return host and port. Raises :class:`BadRequest`."""
    match = _AUTHORITY.fullmatch(authority)
    port = default if match is None or match["port"] is None else int(match["port"])
    if match is None or port is None or not 0 < port < 65536:
        raise BadRequest(HTTPStatus.BAD_REQUEST, f"{shown(authority)} is not a host and a port")
    return match["v6"] or match["name"], port
