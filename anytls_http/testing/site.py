"""A small HTTP/1.1 site on loopback, plain or with TLS, for tests and the demo. Not for production.

| request | answer |
| --- | --- |
| ``GET /`` | a short text |
| ``GET /bytes/N`` | N bytes, always the same ones: :func:`body_bytes` gives them, :func:`body_sha256` their hash |
| ``POST /echo-hash`` | JSON: ``length`` and ``sha256`` of the body that came (Content-Length or chunked) |
| ``GET /headers`` | JSON: the request's headers, as a list of pairs |
| ``GET /slow?seconds=S`` | a short text, after S seconds |
| ``GET /stream?count=N&pause=S&size=B`` | N chunks (default 5) of B bytes (1000), S seconds (0.02) between them |
| ``GET /status/N`` | status N |
| ``GET /redirect?to=URL`` | status 302 |
| ``GET /close`` | a short text without Content-Length, ended by closing the connection |
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import random
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, Self, cast

from .certificates import Certificate, make_certificate

#: Body of ``GET /``.
GREETING = b"hello from the other side of the tunnel\n"
#: Bytes of a body that are made, sent and hashed at once.
BLOCK_SIZE = 1 << 18
#: Most seconds that :meth:`Site.close` waits for its threads.
CLOSE_TIMEOUT = 5.0

_BLOCK = random.Random(20).randbytes(BLOCK_SIZE)


def body_blocks(size: int) -> Iterator[bytes]:
    """Yield the body of ``/bytes/size`` in blocks; each begins with its number, so that no two are alike."""
    for number, start in enumerate(range(0, size, BLOCK_SIZE)):
        yield (number.to_bytes(8, "big") + _BLOCK[8:])[: size - start]


def body_bytes(size: int) -> bytes:
    """Return the body of ``/bytes/size``."""
    return b"".join(body_blocks(size))


def body_sha256(size: int) -> str:
    """Return the SHA-256 of the body of ``/bytes/size``, as hex."""
    digest = hashlib.sha256()
    for block in body_blocks(size):
        digest.update(block)
    return digest.hexdigest()


class Site:
    """An HTTP/1.1 site on loopback: ``with Site() as site: get(site.url + "/bytes/1000")``.

    Args:
        tls: serve https instead of http.
        certificate: for ``tls``; None is a new one for ``localhost``, the loopback addresses and ``names``.
        names: more names for that certificate.
        host, port: where it listens; port 0 takes a free one, which :attr:`port` then names.
    """

    def __init__(
        self,
        tls: bool = False,
        *,
        certificate: Certificate | None = None,
        names: Iterable[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.host = host
        self.port = port
        #: The certificate shown; None without TLS.
        self.certificate: Certificate | None = None
        self._context: ssl.SSLContext | None = None
        if tls:
            self.certificate = certificate or make_certificate("localhost", "127.0.0.1", "::1", *names)
            self._context = self.certificate.server_context(["http/1.1"])
        #: How many TCP connections were taken, and requests answered.
        self.connections = 0
        self.requests = 0
        #: Method and path of each request, in order (the first 10,000).
        self.log: list[tuple[str, str]] = []
        #: Set when the site closes; slow answers end then.
        self.closing = threading.Event()
        self._changed = threading.Condition()
        self._live: dict[threading.Thread, socket.socket] = {}
        self._listener: socket.socket | None = None
        self._accepter: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Site {self.url}, {self.connections} connections, {self.requests} requests>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The site's root, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._context else 'http'}://{host}:{self.port}"

    @property
    def ca_pem(self) -> str:
        """The authority that a client has to trust, as PEM text. Raises :class:`ValueError` without TLS."""
        if self.certificate is None:
            raise ValueError("this site has no TLS")
        return self.certificate.ca_pem

    def ssl_context(self, alpn: Iterable[str] = ()) -> ssl.SSLContext:
        """Return a client's context that trusts this site and nothing else."""
        if self.certificate is None:
            raise ValueError("this site has no TLS")
        return self.certificate.client_context(alpn)

    def start(self) -> None:
        """Listen and answer. Does nothing when it does so already."""
        if self._listener is not None:
            return
        self.closing.clear()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family, backlog=256)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._accepter = threading.Thread(
            target=self._accept, args=(listener,), name=f"anytls-test-site-{self.port}", daemon=True
        )
        self._accepter.start()

    def close(self) -> None:
        """Stop listening, end every connection, and wait (at most 5 s) until all threads have ended."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self.closing.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            # Where shutdown doesn't wake accept (macOS, Windows), a connection does.
            socket.create_connection((self.host, self.port), timeout=0.2).close()
        assert self._accepter is not None
        self._accepter.join(CLOSE_TIMEOUT)
        self.close_connections()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for thread in self._living():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise RuntimeError(f"a thread of the test site did not end: {thread.name}")

    def close_connections(self) -> None:
        """End every connection now, whatever it is doing; new ones are welcome."""
        for sock in self._living().values():
            with contextlib.suppress(OSError):
                # The base class's method: SSLSocket's own would take the TLS object from the thread that uses it.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def count_request(self, method: str, path: str) -> None:
        """Record one request."""
        with self._changed:
            self.requests += 1
            if len(self.log) < 10_000:
                self.log.append((method, path))
            self._changed.notify_all()

    def _living(self) -> dict[threading.Thread, socket.socket]:
        with self._changed:
            return dict(self._live)

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while not self.closing.is_set():
                try:
                    sock, address = listener.accept()
                except OSError as exc:
                    if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                        continue
                    return
                if self.closing.is_set():
                    sock.close()
                    return
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._changed:
                    self.connections += 1
                    thread = threading.Thread(
                        target=self._serve,
                        args=(sock, address),
                        name=f"anytls-test-site-{self.port}-{self.connections}",
                        daemon=True,
                    )
                    thread.start()
                    # Only a thread that has ended is forgotten, so that close() waits for the others.
                    self._live = {thread: sock for thread, sock in self._live.items() if thread.is_alive()}
                    self._live.setdefault(thread, sock)

    def _serve(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        me = threading.current_thread()
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                with self._changed:
                    self._live[me] = sock
                if self.closing.is_set():  # close() may have seen the plain socket, which is no more
                    return
                sock.do_handshake()
            _Handler(sock, address, cast(Any, self))
        except (OSError, ValueError):
            pass  # the client left or sent nonsense, or close_connections() was called
        finally:
            # An orderly end first: closing with unread data would reset what was sent.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_WR)
            sock.close()


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection; its ``server`` is the :class:`Site`."""

    protocol_version = "HTTP/1.1"
    wbufsize = 0

    @property
    def _site(self) -> Site:
        return cast(Site, self.server)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        self._site.count_request(self.command, self.path)
        self._drain_body()
        path = parts.path
        if path == "/":
            self._answer(GREETING)
        elif path.startswith("/bytes/") and path[7:].isdecimal():
            self._answer_blocks(int(path[7:]))
        elif path == "/headers":
            self._answer(json.dumps(self.headers.items()).encode(), "application/json")
        elif path == "/slow":
            self._site.closing.wait(float(query.get("seconds", "1")))
            self._answer(b"at last\n")
        elif path == "/stream":
            self._answer_chunks(
                int(query.get("count", "5")),
                float(query.get("pause", "0.02")),
                int(query.get("size", "1000")),
            )
        elif path.startswith("/status/") and path[8:].isdecimal():
            self._answer(b"", status=int(path[8:]))
        elif path == "/redirect":
            self._answer(b"", status=302, location=query.get("to", "/"))
        elif path == "/close":
            self._answer_until_close()
        else:
            self._answer(b"no such page\n", status=404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._site.count_request(self.command, self.path)
        digest = hashlib.sha256()
        length = 0
        for piece in self._body():
            digest.update(piece)
            length += len(piece)
        if urllib.parse.urlsplit(self.path).path != "/echo-hash":
            self._answer(b"no such page\n", status=404)
            return
        self._answer(
            json.dumps({"length": length, "sha256": digest.hexdigest()}).encode(), "application/json"
        )

    do_PUT = do_POST

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self._exactly(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self._exactly(min(left, BLOCK_SIZE))
            left -= len(piece)
            yield piece

    def _exactly(self, size: int) -> bytes:
        piece = self.rfile.read(size)
        if len(piece) < size:
            raise ConnectionAbortedError("the client left in the middle of its body")
        return piece

    def _drain_body(self) -> None:
        for _ in self._body():
            pass

    def end_headers(self) -> None:
        # RFC 9112: a server that is going to close says so; else the client's next request races with it.
        if self.close_connection:
            self.send_header("Connection", "close")
        super().end_headers()

    def _answer(
        self, body: bytes, content_type: str = "text/plain", *, status: int = 200, location: str | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if location is not None:
            self.send_header("Location", location)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer_blocks(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            for block in body_blocks(size):
                self.wfile.write(block)

    def _answer_chunks(self, count: int, pause: float, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        for number in range(count):
            if number:
                self._site.closing.wait(pause)
            self.wfile.write(b"%x\r\n%b\r\n" % (size, bytes([number % 256]) * size))
        self.wfile.write(b"0\r\n\r\n")

    def _answer_until_close(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.close_connection = True
        self.end_headers()
        self.wfile.write(GREETING)
