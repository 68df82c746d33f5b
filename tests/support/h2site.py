"""A small HTTP/2 origin over TLS, on loopback.

``GET /`` a greeting, ``GET /bytes/N`` the same body as ``Site``'s, ``GET /headers`` the request's headers as
JSON pairs, ``POST /echo-hash`` length and SHA-256 of the body as JSON, ``GET /slow`` an answer that waits until
the site closes or :attr:`H2Site.release` is set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import select
import socket
import ssl
import threading
from dataclasses import dataclass, field
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from anytls_http.testing import Certificate, make_certificate
from anytls_http.testing.site import GREETING, body_bytes

Headers = list[tuple[str, str]]


@dataclass
class _Request:
    headers: Headers
    digest: Any = field(default_factory=hashlib.sha256)
    length: int = 0

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")


class H2Site:
    """An HTTP/2 site: ``with H2Site() as site: get(site.url + "/bytes/1000")``; speaks nothing but h2."""

    def __init__(self, certificate: Certificate | None = None, *names: str) -> None:
        self.certificate = certificate or make_certificate("localhost", "127.0.0.1", "::1", *names)
        self._context = self.certificate.server_context(["h2"])
        #: Connections taken, requests answered, and the most streams that were open at once.
        self.connections = 0
        self.requests = 0
        self.most_streams = 0
        self.release = threading.Event()
        self.closing = threading.Event()
        self._live: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._accepter = threading.Thread(target=self._accept, name="h2site-accept", daemon=True)

    def __enter__(self) -> Self:
        self._accepter.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The site's root, without a slash at the end."""
        return f"https://127.0.0.1:{self.port}"

    def ssl_context(self) -> ssl.SSLContext:
        """Return a client's context that trusts this site and nothing else."""
        return self.certificate.client_context()

    def close(self) -> None:
        """End everything, and wait until all threads have ended."""
        self.closing.set()
        self.release.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepter.join(5)
        with self._lock:
            live = dict(self._live)
        for thread, sock in live.items():
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            thread.join(5)

    def count_request(self) -> None:
        with self._lock:
            self.requests += 1

    def _accept(self) -> None:
        with self._listener:
            while not self.closing.is_set():
                try:
                    sock, _ = self._listener.accept()
                except OSError:
                    return
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self.connections += 1
                    thread = threading.Thread(target=self._serve, args=(sock,), name="h2site", daemon=True)
                    thread.start()
                    # Only a thread that has ended is forgotten, so that close() waits for the others.
                    self._live = {thread: sock for thread, sock in self._live.items() if thread.is_alive()}
                    self._live.setdefault(thread, sock)

    def _serve(self, sock: socket.socket) -> None:
        me = threading.current_thread()
        try:
            sock.settimeout(10)
            sock = self._context.wrap_socket(sock, server_side=True)
            with self._lock:
                self._live[me] = sock
            if not self.closing.is_set() and sock.selected_alpn_protocol() == "h2":
                _H2Connection(self, sock).run()
        except (OSError, ValueError, h2.exceptions.H2Error):
            pass  # the client left or sent nonsense
        finally:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_WR)
            sock.close()


class _H2Connection:
    """One HTTP/2 connection, on one thread: reads, answers, and sends bodies as the windows allow."""

    def __init__(self, site: H2Site, sock: ssl.SSLSocket) -> None:
        self._site = site
        self._sock = sock
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self._requests: dict[int, _Request] = {}
        self._bodies: dict[int, memoryview] = {}
        self._held: list[int] = []

    def run(self) -> None:
        self._h2.initiate_connection()
        self._flush()
        while not self._site.closing.is_set():
            if self._held and self._site.release.is_set():
                for stream_id in self._held:
                    self._answer(stream_id, b"at last\n")
                self._held.clear()
            self._send_bodies()
            self._flush()
            if self._held and not self._sock.pending() and not select.select([self._sock], [], [], 0.02)[0]:
                continue
            data = self._sock.recv(65536)
            if not data:
                return
            for event in self._h2.receive_data(data):
                self._take(event)

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            assert event.stream_id is not None
            headers = [(str(name), str(value)) for name, value in event.headers or []]
            self._requests[event.stream_id] = _Request(headers)
            self._site.most_streams = max(self._site.most_streams, len(self._requests))
        elif isinstance(event, h2.events.DataReceived):
            assert event.stream_id is not None
            if (request := self._requests.get(event.stream_id)) is not None:
                request.digest.update(event.data or b"")
                request.length += len(event.data or b"")
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            assert event.stream_id is not None
            self._site.count_request()
            self._route(event.stream_id, self._requests[event.stream_id])
        elif isinstance(event, h2.events.StreamReset):
            assert event.stream_id is not None
            self._forget(event.stream_id)

    def _route(self, stream_id: int, request: _Request) -> None:
        path = request.header(":path").split("?")[0]
        if path == "/":
            self._answer(stream_id, GREETING)
        elif path.startswith("/bytes/"):
            self._answer(stream_id, body_bytes(int(path[7:])))
        elif path == "/headers":
            self._answer(stream_id, json.dumps(request.headers).encode())
        elif path == "/echo-hash":
            self._answer(
                stream_id,
                json.dumps({"length": request.length, "sha256": request.digest.hexdigest()}).encode(),
            )
        elif path == "/slow":
            self._held.append(stream_id)
        else:
            self._answer(stream_id, b"no such page\n", 404)

    def _answer(self, stream_id: int, body: bytes, status: int = 200) -> None:
        headers = [(":status", str(status)), ("content-length", str(len(body)))]
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self._h2.send_headers(stream_id, headers)
            self._bodies[stream_id] = memoryview(body)

    def _send_bodies(self) -> None:
        for stream_id, body in list(self._bodies.items()):
            while True:
                size = min(
                    self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size, len(body)
                )
                if size <= 0 and body:
                    break
                piece, body = body[:size], body[size:]
                self._h2.send_data(stream_id, bytes(piece), end_stream=not body)
                self._bodies[stream_id] = body
                if not body:
                    self._forget(stream_id)
                    break
                self._flush()

    def _forget(self, stream_id: int) -> None:
        self._requests.pop(stream_id, None)
        self._bodies.pop(stream_id, None)
        if stream_id in self._held:
            self._held.remove(stream_id)

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._sock.sendall(data)
