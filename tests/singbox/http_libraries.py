"""httpx, httpx2 and requests with the same handles, and the exception that each raises for the same mishap.

Also what the tests ask of sing-box's log, of exceptions, and of the time that something took.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from anytls_http.testing import Site
from tests.support.singbox import SingBoxServer

NAMES = ["httpx", "httpx2", "requests"]


class Http:
    """A client of one of the libraries, over the tunnel."""

    #: The client of the tunnel.
    tunnel: Any

    def get(self, url: str) -> bytes:
        raise NotImplementedError

    def post(self, url: str, data: bytes | Iterable[bytes]) -> Any:
        """Return the answer's JSON."""
        raise NotImplementedError

    def stream(self, url: str, size: int | None = None) -> contextlib.AbstractContextManager[Iterator[bytes]]:
        """Give the body as it comes, in pieces of ``size`` bytes (None: whatever comes)."""
        raise NotImplementedError


class Library:
    """One library; the exceptions are named after what happened."""

    name = ""
    wrong_password: type[Exception]
    refused: type[Exception]
    tunnel_not_trusted: type[Exception]
    target_not_trusted: type[Exception]
    unreachable: type[Exception]
    connect_timeout: type[Exception]
    write_timeout: type[Exception]
    read_timeout: type[Exception]
    #: The server died while the answer was awaited; while the body was read.
    broken: type[Exception]
    body_broken: type[Exception]
    #: The origin ended the body too early.
    body_cut: type[Exception]

    def open(
        self,
        config_or_client: Any,
        *,
        ca_file: str | None = None,
        timeout: float = 10,
        retries: int = 0,
        http2: bool = False,
    ) -> contextlib.AbstractContextManager[Http]:
        """Open a client that trusts ``ca_file`` for targets; ``timeout`` (seconds): for connecting and each read."""
        raise NotImplementedError


class _HttpxHttp(Http):
    def __init__(self, client: Any) -> None:
        self.client = client
        self.tunnel = client._transport.client

    def get(self, url: str) -> bytes:
        content: bytes = self.client.get(url).raise_for_status().content
        return content

    def post(self, url: str, data: bytes | Iterable[bytes]) -> Any:
        return self.client.post(url, content=data).raise_for_status().json()

    @contextlib.contextmanager
    def stream(self, url: str, size: int | None = None) -> Iterator[Iterator[bytes]]:
        with self.client.stream("GET", url) as response:
            yield response.iter_bytes(size)


class Httpx(Library):
    def __init__(self, name: str) -> None:
        self.name = name
        module = self._module = importlib.import_module(name)
        self._transport = importlib.import_module(f"anytls_http.integrations.{name}").AnyTLSTransport
        self.wrong_password = self.refused = self.unreachable = module.ConnectError
        self.tunnel_not_trusted = self.target_not_trusted = module.ConnectError
        self.connect_timeout = module.ConnectTimeout
        self.write_timeout = module.WriteTimeout
        self.read_timeout = module.ReadTimeout
        self.broken = self.body_broken = module.ReadError
        self.body_cut = module.RemoteProtocolError

    @contextlib.contextmanager
    def open(
        self,
        config_or_client: Any,
        *,
        ca_file: str | None = None,
        timeout: float = 10,
        retries: int = 0,
        http2: bool = False,
    ) -> Iterator[Http]:
        verify = True if ca_file is None else ssl.create_default_context(cafile=ca_file)
        transport = self._transport(config_or_client, verify=verify, retries=retries, http2=http2)
        with self._module.Client(transport=transport, timeout=timeout) as client:
            yield _HttpxHttp(client)


class _RequestsHttp(Http):
    def __init__(self, session: Any, timeout: float) -> None:
        self.session = session
        self.timeout = timeout
        self.tunnel = session.get_adapter("http://").client

    def get(self, url: str) -> bytes:
        response = self.session.get(url, timeout=self.timeout)
        response.raise_for_status()
        content: bytes = response.content
        return content

    def post(self, url: str, data: bytes | Iterable[bytes]) -> Any:
        response = self.session.post(url, data=data, timeout=self.timeout)
        response.raise_for_status()
        return response.json()

    @contextlib.contextmanager
    def stream(self, url: str, size: int | None = None) -> Iterator[Iterator[bytes]]:
        with self.session.get(url, stream=True, timeout=self.timeout) as response:
            response.raise_for_status()
            # None would be the whole body at once where there is a Content-Length.
            yield response.iter_content(size or 65536)


class Requests(Library):
    name = "requests"

    def __init__(self) -> None:
        from anytls_http.integrations.requests import BodyBroken

        module = importlib.import_module("requests.exceptions")
        self.wrong_password = module.ProxyError
        self.tunnel_not_trusted = self.target_not_trusted = module.SSLError
        self.refused = self.unreachable = self.broken = module.ConnectionError
        self.connect_timeout = module.ConnectTimeout
        self.write_timeout = self.read_timeout = module.ReadTimeout  # it has no other
        self.body_broken = BodyBroken
        self.body_cut = module.ChunkedEncodingError

    @contextlib.contextmanager
    def open(
        self,
        config_or_client: Any,
        *,
        ca_file: str | None = None,
        timeout: float = 10,
        retries: int = 0,
        http2: bool = False,
    ) -> Iterator[Http]:
        import requests

        from anytls_http.integrations.requests import AnyTLSAdapter

        assert not http2
        with requests.Session() as session:
            session.trust_env = False  # a CA bundle in the environment would take the place of ours
            session.verify = ca_file or True
            adapter = AnyTLSAdapter(config_or_client, max_retries=retries)
            for old in session.adapters.values():
                old.close()
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            yield _RequestsHttp(session, timeout)


def library_of(name: str) -> Library:
    return Requests() if name == "requests" else Httpx(name)


class Seen:
    """Counts what sing-box logs of sessions and streams from its making on."""

    def __init__(self, server: SingBoxServer) -> None:
        self._server = server
        self._start = len(server.log())

    @property
    def log(self) -> str:
        return self._server.log()[self._start :]

    @property
    def sessions(self) -> int:
        """TCP connections of clients; one that never authenticated counts too."""
        return len(re.findall(r"inbound/anytls\[anytls-in\]: inbound connection from", self.log))

    @property
    def targets(self) -> list[str]:
        """``host:port`` of each stream, in order."""
        return re.findall(r"inbound/anytls\[anytls-in\]: (?:\[u\] )?inbound connection to (\S+)", self.log)


@contextlib.contextmanager
def raised(kind: type[Exception], cause: type[BaseException], words: str | None = None) -> Iterator[Any]:
    """Expect an exception of the library with ``cause`` under it, and ``words`` (a pattern) in it."""
    with pytest.raises(kind, match=words) as info:
        yield info
    assert type(info.value).__module__.partition(".")[0] in ("httpx", "httpx2", "requests", "anytls_http")
    assert info.value.request is not None  # type: ignore[attr-defined]
    assert cause in causes_of(info.value)


def causes_of(exc: BaseException | None) -> list[type[BaseException]]:
    found: list[type[BaseException]] = []
    while exc is not None:
        found.append(type(exc))
        exc = exc.__cause__ or exc.__context__
    return found


def posts(site: Site) -> int:
    return len([method for method, _ in site.log if method == "POST"])
