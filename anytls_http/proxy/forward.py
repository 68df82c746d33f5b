"""One plain HTTP request and its answer, passed on in both directions at once.

The client's thread waits on two real sockets, the client's and the relay's end of the stream; so an
answer that comes before the request is whole (100 Continue, an early refusal) is passed on when it comes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterable
from http import HTTPStatus

import h11
from h11._headers import Headers

from anytls_http.relay import Pair, shared_relay
from anytls_http.relay.pair import UNANSWERED_PATIENCE
from anytls_http.sockets import AnyTLSSocket

from .incoming import ClientLeft, Incoming, shown

#: Bytes kept for a side that doesn't take them, before the other side is read no more.
KEEP = 128 * 1024
READ_SIZE = 64 * 1024
#: Seconds without a byte in any direction after which a request has failed.
INACTIVITY = 300.0

#: Of one connection only, never passed on (RFC 9110, 7.6.1); and what is the proxy's own.
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authorization",
    b"proxy-authenticate",
    b"te",
    b"trailer",
    b"upgrade",
}
#: What says how long a body is can't be a matter of one connection.
_FRAMING = {b"content-length", b"transfer-encoding"}
_SAFE = {b"GET", b"HEAD", b"OPTIONS"}
# As select.poll has them; Windows has no poll, and doesn't tell of an end without a read.
_IN, _OUT = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)
_GONE = getattr(select, "POLLRDHUP", 0)
_OVER = getattr(select, "POLLERR", 0) | getattr(select, "POLLHUP", 0) | _GONE


class Upstream:
    """A connection to a target, kept for the next request to the same."""

    def __init__(self, stream: AnyTLSSocket, host: str, port: int) -> None:
        self.address = (host, port)
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=KEEP)
        self._stream = stream
        self.sock, theirs = socket.socketpair()
        try:
            self._pair: Pair = shared_relay().join(theirs, stream)
        except BaseException:
            self.sock.close()
            theirs.close()
            stream.close()
            raise
        self.sock.setblocking(False)

    def fits(self, host: str, port: int) -> bool:
        """Whether it leads there and can take another request."""
        if self.address != (host, port) or self.http.our_state is not h11.IDLE:
            return False
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # it has ended, or sent what nobody asked for

    def prove_alive(self) -> bool:
        """Whether its session may be trusted with another request; a silent one must prove its life."""
        try:
            return self._stream._prove_alive(None)
        except OSError:
            return False

    def reusable(self) -> bool:
        """Make it ready for the next request; False where it can't be."""
        # What follows an answer was not asked for, and would be taken for the next one.
        if (
            self.http.our_state is h11.DONE
            and self.http.their_state is h11.DONE
            and self.http.trailing_data == (b"", False)
        ):
            self.http.start_next_cycle()
            return True
        return False

    @property
    def error(self) -> BaseException | None:
        """What broke the stream; None when it ended in order, as far as known."""
        return self._pair.error

    def close(self) -> None:
        """End the stream."""
        self.sock.close()


class Exchange:
    """Passes one request on to ``upstream``, and its answer back. Use once."""

    def __init__(
        self,
        client: Incoming,
        http: h11.Connection,
        upstream: Upstream,
        request: h11.Request,
        path: bytes,
        authority: str,
    ) -> None:
        self._client = client
        self._http = http
        self._upstream = upstream
        self._request = request
        self._to_client = bytearray()
        self._to_upstream = bytearray()
        self._switched = False
        self._heard = False  # something came back
        self._ended = False  # and that was all
        self._client_ended = False  # its direction
        self._answered = False
        self._finished = False
        #: Status and words, where no answer could be got; the client has been told nothing then.
        self.failure: tuple[int, str] | None = None
        self._give_upstream(upstream.http.send(_request_for(request, path, authority)))

    @property
    def may_repeat(self) -> bool:
        """Whether the request may be sent once more over another connection."""
        no_body = not any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in self._request.headers
        )
        return no_body and self._request.method in _SAFE

    def run(self) -> bool:
        """Do it. True where the upstream ended before a byte of an answer.

        Raises :class:`ClientLeft`; the connections can be used again as far as their h11 states say.
        """
        sock = self._client.sock
        sock.setblocking(False)
        client_fd, upstream_fd = sock.fileno(), self._upstream.sock.fileno()
        last = time.monotonic()
        self._take_request_body()
        while not self._finished or self._to_client:
            if self.failure is not None:
                return self._ended and not self._heard
            mask = self._client_mask() | (_OUT if self._to_client else 0)
            deadline = last + INACTIVITY
            if self._client_ended and not self._to_upstream and (self._switched or not self._answered):
                deadline = last + UNANSWERED_PATIENCE
            events = dict(_poll(client_fd, mask, upstream_fd, self._upstream_mask(), deadline))
            if not events:
                if self._client_ended:
                    raise ClientLeft("the client left before the answer was whole")
                self._fail(HTTPStatus.GATEWAY_TIMEOUT, f"nothing moved for {INACTIVITY:.0f} s")
                continue
            last = time.monotonic()
            told = events.get(client_fd, 0)
            if told & _OVER and not told & _IN:
                if told & _OVER & ~_GONE:
                    raise ClientLeft("the client left before the answer was whole")
                self._client_ended = True  # one direction: it may still read, or be gone
            if told & _IN:
                self._read_client()
            if told & _OUT:
                self._write(sock, self._to_client)
            told = events.get(upstream_fd, 0)
            if told & _OUT and self._to_upstream:
                self._write_upstream()
            if told & ~_OUT and not self._finished:
                self._read_upstream()
        return False

    def _client_mask(self) -> int:
        if self._client_ended:
            return 0
        if self._wants_request():
            return _IN
        return 0 if self._switched else _GONE  # there more lies unread when its end has come

    def _upstream_mask(self) -> int:
        reading = not self._finished and len(self._to_client) < KEEP
        return (_IN if reading else 0) | (_OUT if self._to_upstream else 0)

    def _wants_request(self) -> bool:
        if len(self._to_upstream) >= KEEP:
            return False
        return self._switched or self._http.their_state is h11.SEND_BODY

    # -- the request -----------------------------------------------------------------------------------

    def _read_client(self) -> None:
        try:
            data = self._client.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as exc:
            raise ClientLeft(str(exc)) from exc
        if self._switched:
            if not data:
                self._client_ended = True
            self._to_upstream += data
            return
        try:
            self._http.receive_data(data)
            self._take_request_body()
        except h11.RemoteProtocolError as exc:
            if self._answered:
                raise ClientLeft(shown(exc)) from exc
            raise

    def _take_request_body(self) -> None:
        while self._http.their_state is h11.SEND_BODY:
            event = self._http.next_event()
            if not isinstance(event, (h11.Data, h11.EndOfMessage)):
                return
            if self._upstream.http.our_state is h11.SEND_BODY:
                self._give_upstream(self._upstream.http.send(event))
        if self._upstream.http.our_state is h11.SEND_BODY:  # the second time: its end was taken before
            self._give_upstream(self._upstream.http.send(h11.EndOfMessage()))

    def _give_upstream(self, data: bytes | None) -> None:
        if data:
            self._to_upstream += data

    def _write_upstream(self) -> None:
        try:
            self._write(self._upstream.sock, self._to_upstream)
        except ClientLeft:
            self._to_upstream.clear()  # its answer, or its end, is still to be read

    # -- the answer ------------------------------------------------------------------------------------

    def _read_upstream(self) -> None:
        try:
            data = self._upstream.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        error = None
        if data:
            self._heard = True
        else:
            self._ended = True
            error = self._upstream.error
        if self._switched:
            if not data:
                self._finished = True
            self._to_client += data
            return
        if error is not None:
            self._fail(HTTPStatus.BAD_GATEWAY, shown(error))
            return
        try:
            self._upstream.http.receive_data(data)
            self._take_answer()
        except h11.ProtocolError as exc:
            self._fail(HTTPStatus.BAD_GATEWAY, f"the target's answer is not HTTP: {shown(exc)}")

    def _take_answer(self) -> None:
        while not self._finished and not self._switched:
            event = self._upstream.http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.ConnectionClosed):
                self._fail(HTTPStatus.BAD_GATEWAY, "the target closed the connection without an answer")
                return
            if isinstance(event, h11.InformationalResponse):
                self._pass_on_interim(event)
            elif isinstance(event, h11.Response):
                self._answered = True
                self._give_client(
                    h11.Response(
                        status_code=event.status_code, headers=_end_to_end(event.headers), reason=event.reason
                    )
                )
            elif isinstance(event, h11.EndOfMessage):
                self._give_client(h11.EndOfMessage(headers=event.headers))
                self._finished = True
            elif isinstance(event, h11.Data):
                self._give_client(event)

    def _pass_on_interim(self, event: h11.InformationalResponse) -> None:
        switching = event.status_code == HTTPStatus.SWITCHING_PROTOCOLS
        if self._http.their_http_version == b"1.0" and not switching:
            return
        kept = list(event.headers.raw_items()) if switching else _end_to_end(event.headers)
        self._give_client(
            h11.InformationalResponse(status_code=event.status_code, headers=kept, reason=event.reason)
        )
        if switching:
            self._switched = self._answered = True
            self._to_client += self._upstream.http.trailing_data[0]
            self._to_upstream += self._http.trailing_data[0]

    def _give_client(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._to_client += data
            with contextlib.suppress(BlockingIOError):
                self._write(self._client.sock, self._to_client)

    def _write(self, sock: socket.socket, data: bytearray) -> None:
        try:
            count = sock.send(data)
        except BlockingIOError:
            return
        except OSError as exc:
            raise ClientLeft(str(exc)) from exc
        del data[:count]

    def _fail(self, status: int, text: str) -> None:
        if self._answered:
            if self._http.their_http_version == b"1.0":  # nothing else tells it from a whole one
                self._client.reset()
            raise ClientLeft(text)  # all that can still be said is that the answer broke off
        self.failure = (status, text)


def _request_for(request: h11.Request, path: bytes, authority: str) -> h11.Request:
    """Return the request as the target gets it."""
    headers = [(b"Host", authority.encode("latin-1"))]
    kept = _end_to_end(request.headers)
    drop = {b"host"}
    if any(name.lower() == b"transfer-encoding" for name, _ in kept):
        drop.add(b"content-length")  # RFC 9112, 6.3: who passes both on helps to smuggle a request
    headers += [(name, value) for name, value in kept if name.lower() not in drop]
    upgrade = [value for name, value in request.headers if name == b"upgrade"]
    if upgrade:
        headers += [(b"Connection", b"upgrade"), (b"Upgrade", upgrade[0])]
    return h11.Request(method=request.method, target=path, headers=headers)


def _end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers that are passed on, spelled as they came."""
    drop = set(_HOP_BY_HOP)
    for name, value in headers:
        if name == b"connection":
            drop.update(token.strip().lower() for token in value.split(b","))
    drop -= _FRAMING
    return [(name, value) for name, value in headers.raw_items() if name.lower() not in drop]


def _poll(
    first: int, first_mask: int, second: int, second_mask: int, deadline: float
) -> list[tuple[int, int]]:
    """Wait for events on two descriptors, as ``select.poll`` tells them; nothing at the deadline."""
    seconds = max(0.0, deadline - time.monotonic())
    if not hasattr(select, "poll"):
        return _select(((first, first_mask), (second, second_mask)), seconds)
    poller = select.poll()
    poller.register(first, first_mask)
    poller.register(second, second_mask)
    return poller.poll(seconds * 1000)


def _select(masks: Iterable[tuple[int, int]], seconds: float) -> list[tuple[int, int]]:
    readers = [fd for fd, mask in masks if mask & _IN]
    writers = [fd for fd, mask in masks if mask & _OUT]
    readable, writable, _ = select.select(readers, writers, [], seconds)
    told = [(fd, (_IN if fd in readable else 0) | (_OUT if fd in writable else 0)) for fd, _ in masks]
    return [(fd, events) for fd, events in told if events]
