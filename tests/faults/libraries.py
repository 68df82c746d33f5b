"""The ways in that the faults are tried through, with the same handles: sockets, httpx, httpx2 and requests."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from anytls_http import AnyTLSClient, AnyTLSError, AnyTLSTimeout


class Way:
    """One library: ``open`` gives a session with ``get(url)`` and ``post(url, data)``, which return the body."""

    name = ""
    #: What a request raises when the user's time-out is over after it was sent.
    timeout_error: tuple[type[Exception], ...] = ()
    #: What any failure of the tunnel is mapped to.
    errors: tuple[type[Exception], ...] = ()
    #: Whether connections are kept alive between requests.
    keeps_alive = True

    def open(
        self, client: AnyTLSClient, timeout: float, connections: int = 100
    ) -> contextlib.AbstractContextManager[Any]:
        raise NotImplementedError


class _HttpxSession:
    def __init__(self, http: Any) -> None:
        self._http = http

    def get(self, url: str) -> bytes:
        content: bytes = self._http.get(url).raise_for_status().content
        return content

    def post(self, url: str, data: bytes) -> bytes:
        content: bytes = self._http.post(url, content=data).raise_for_status().content
        return content


class Httpx(Way):
    def __init__(self, name: str) -> None:
        self.name = name
        self._module: Any = importlib.import_module(name)
        self._transport = importlib.import_module(f"anytls_http.integrations.{name}").AnyTLSTransport
        self.timeout_error = (self._module.ReadTimeout,)
        self.errors = (self._module.TransportError,)

    @contextlib.contextmanager
    def open(self, client: AnyTLSClient, timeout: float, connections: int = 100) -> Iterator[_HttpxSession]:
        limits = self._module.Limits(max_connections=connections, max_keepalive_connections=connections)
        transport = self._transport(client, verify=False, limits=limits)
        with self._module.Client(transport=transport, timeout=timeout) as http:
            yield _HttpxSession(http)


class _RequestsSession:
    def __init__(self, session: Any, timeout: float) -> None:
        self._session = session
        self._timeout = timeout

    def get(self, url: str) -> bytes:
        return self._answer(self._session.get(url, timeout=self._timeout))

    def post(self, url: str, data: bytes) -> bytes:
        return self._answer(self._session.post(url, data=data, timeout=self._timeout))

    def _answer(self, response: Any) -> bytes:
        response.raise_for_status()
        content: bytes = response.content
        return content


class Requests(Way):
    name = "requests"

    def __init__(self) -> None:
        self._module: Any = importlib.import_module("requests")
        self.timeout_error = (self._module.exceptions.ReadTimeout,)
        self.errors = (self._module.exceptions.RequestException,)

    @contextlib.contextmanager
    def open(
        self, client: AnyTLSClient, timeout: float, connections: int = 100
    ) -> Iterator[_RequestsSession]:
        from anytls_http.integrations.requests import AnyTLSAdapter

        with self._module.Session() as session:
            adapter = AnyTLSAdapter(client, pool_maxsize=connections)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            yield _RequestsSession(session, timeout)


class _SocketSession:
    """One connection for each request."""

    def __init__(self, client: AnyTLSClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    def get(self, url: str) -> bytes:
        return self._request("GET", url, b"")

    def post(self, url: str, data: bytes) -> bytes:
        return self._request("POST", url, data)

    def _request(self, method: str, url: str, data: bytes) -> bytes:
        host, _, path = url.removeprefix("http://").partition("/")
        name, _, port = host.partition(":")
        head = f"{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        with self._client.create_connection((name, int(port)), timeout=self._timeout) as sock:
            sock.sendall(head.encode() + data)
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
        head_end = answer.index(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer[:40]
        return answer[head_end + 4 :]


class Sockets(Way):
    name = "socket"
    timeout_error = (AnyTLSTimeout,)
    errors = (AnyTLSError,)
    keeps_alive = False

    @contextlib.contextmanager
    def open(self, client: AnyTLSClient, timeout: float, connections: int = 100) -> Iterator[_SocketSession]:
        yield _SocketSession(client, timeout)


NAMES = ["socket", "httpx", "httpx2", "requests"]


def way_of(name: str) -> Way:
    """Return the library called ``name``."""
    if name == "socket":
        return Sockets()
    return Requests() if name == "requests" else Httpx(name)
