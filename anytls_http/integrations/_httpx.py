"""The httpx transport, written once for httpx and httpx2, which bind it to their modules.

It sends httpcore's requests through a pool (``_http_pool.py``) of httpcore's connections over the tunnel's
backend (``_httpcore.py``), by public names only.
What it adds: httpcore's exceptions become httpx's, while the body is read too; a refused stream may be
tried again; a request that found its kept-alive connection dead goes out on another one.
"""

from __future__ import annotations

import functools
import importlib.util
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from anytls_http.client import AnyTLSClient
from anytls_http.errors import AuthenticationError, CertificateError, ClientClosed
from anytls_http.net.steps import observed_by

from ._http1 import HTTP1Connection
from ._http_pool import HTTPPool
from ._httpcore import TunnelBackend, asked
from ._trace import tracing

if TYPE_CHECKING:
    from anytls_http.config import AnyTLSOutbound

#: What httpcore and httpx call the same way. httpcore's other exceptions never leave it.
SHARED_EXCEPTIONS = (
    "TimeoutException",
    "ConnectTimeout",
    "ReadTimeout",
    "WriteTimeout",
    "PoolTimeout",
    "NetworkError",
    "ConnectError",
    "ReadError",
    "WriteError",
    "ProxyError",
    "UnsupportedProtocol",
    "ProtocolError",
    "LocalProtocolError",
    "RemoteProtocolError",
)
#: Errors of connecting that the next try would only meet again.
POINTLESS_TO_RETRY = (AuthenticationError, CertificateError, ClientClosed, ssl.SSLCertVerificationError)
#: Wait before the second retry in seconds, doubled with each further one; the first comes at once. As httpcore's.
RETRY_BACKOFF = 0.5


class TunnelBody:
    """A response's body, as httpx's ``SyncByteStream``: raises httpx's exceptions while it is read."""

    def __init__(self, stream: Any, raise_mapped: Callable[[Exception], None]) -> None:
        self._stream = stream
        self._raise_mapped = raise_mapped

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except BaseException as exc:
            self.close()
            if isinstance(exc, Exception):
                self._raise_mapped(exc)
            raise

    def close(self) -> None:
        """Give the connection back, or end it where the body wasn't read to its end."""
        self._stream.close()


class TunnelTransport:
    """What the transports for httpx and httpx2 share; see their ``AnyTLSTransport``."""

    #: The modules: ``httpx`` and ``httpcore``, or ``httpx2`` and ``httpcore2``.
    library: ClassVar[Any]
    core: ClassVar[Any]
    backend_class: ClassVar[type[TunnelBackend]]
    body_class: ClassVar[type[TunnelBody]]
    #: httpcore's exceptions to httpx's.
    exceptions: ClassVar[Mapping[type[Exception], type[Exception]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.exceptions = {getattr(cls.core, name): getattr(cls.library, name) for name in SHARED_EXCEPTIONS}

    def _set_up(
        self,
        config_or_client: Mapping[str, Any] | AnyTLSOutbound | AnyTLSClient,
        *,
        verify: ssl.SSLContext | str | bool,
        cert: Any,
        trust_env: bool,
        http1: bool,
        http2: bool,
        limits: Any,
        retries: int,
        **unsupported: Any,
    ) -> None:
        for name, value in unsupported.items():
            if value is not None:
                raise TypeError(f"{name} must be None: {_WHY_NOT[name]}")
        if http2 and importlib.util.find_spec("h2") is None:
            raise ImportError("http2=True needs the package h2: python -m pip install 'anytls_http[http2]'")
        context = self.library.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
        self._owns_client = not isinstance(config_or_client, AnyTLSClient)
        self._client = (
            config_or_client if isinstance(config_or_client, AnyTLSClient) else AnyTLSClient(config_or_client)
        )
        self._retries = retries
        # Its own retries stay 0: it knows nothing of refusals, and two counters would multiply.
        self._pool = HTTPPool(
            self.core,
            make_connection=None
            if http2
            else functools.partial(HTTP1Connection, self.core, self.library.ByteStream),
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=http1,
            http2=http2,
            network_backend=self.backend_class(self._client),
        )

    @property
    def client(self) -> AnyTLSClient:
        """The client whose sessions carry the requests, for its ``stats()`` and ``wait_ready()``."""
        return self._client

    def handle_request(self, request: Any) -> Any:
        """Send ``request`` through the tunnel and return the response, its body still to be read."""
        trace = request.extensions.get("trace")
        if trace is None:
            return self._send(request)
        with observed_by(tracing(trace)):
            return self._send(request)

    def _send(self, request: Any) -> Any:
        core = self.core
        url = request.url
        core_request = core.Request(
            method=request.method,
            url=core.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            content=request.stream,
            extensions=request.extensions,
        )
        core_request.headers = request.headers.raw  # bytes, at each of which the constructor would look
        timeouts = request.extensions.get("timeout")
        asked.connect_timeout = timeouts.get("connect") if timeouts else None
        asked.proof_took = 0.0
        asked.new_request = True
        asked.found_dead = False
        try:
            response = self._pool.handle_request(core_request)
        except Exception as exc:  # noqa: BLE001 - told apart, and raised, there
            response = self._redo(request, core_request, exc)
        finally:
            asked.new_request = False
        return self.library.Response(
            status_code=response.status,
            headers=response.headers,
            stream=self.body_class(response.stream, self._raise_mapped),
            extensions=response.extensions,
        )

    def _redo(self, request: Any, core_request: Any, exc: Exception) -> Any:
        """Send a request again that failed with ``exc`` before anything was delivered, or raise as httpx does."""
        retries_left = self._retries
        backoff = 0.0
        while True:
            if asked.found_dead:
                # A kept-alive connection was dead before the first byte, and is gone from the pool. Another
                # one may be as well; this ends at the latest with one that is made for the request.
                pass
            elif retries_left > 0 and self._may_retry(request, exc):
                retries_left -= 1
                time.sleep(backoff)
                backoff = backoff * 2 or RETRY_BACKOFF
                asked.proof_took = 0.0
            else:
                self._raise_mapped(exc)
                raise exc
            asked.new_request = True
            asked.found_dead = False
            try:
                return self._pool.handle_request(core_request)
            except Exception as error:  # noqa: BLE001 - told apart in the next round
                exc = error

    def _may_retry(self, request: Any, exc: Exception) -> bool:
        if not isinstance(exc, (self.core.ConnectError, self.core.ConnectTimeout)):
            return False
        if isinstance(_origin(exc), POINTLESS_TO_RETRY):
            return False
        # A refusal may come when the body is on its way already: bytes can be sent again, a generator can't.
        return asked.new_request or isinstance(request.stream, self.library.ByteStream)

    def _raise_mapped(self, exc: Exception) -> None:
        """Raise httpx's exception for httpcore's; return where ``exc`` comes from elsewhere (a body's generator)."""
        for kind in type(exc).__mro__:
            mapped = self.exceptions.get(kind)
            if mapped is not None:
                # httpcore drops the cause on its way up; it still is the argument.
                raise mapped(str(exc)) from _origin(exc)
        if type(exc).__module__.startswith("h2."):
            # httpcore lets them through where a broken frame meets the body.
            raise self.library.RemoteProtocolError(str(exc)) from exc

    def close(self) -> None:
        """End all connections, and the client where the transport made it; any number of times."""
        self._pool.close()
        if self._owns_client:
            self._client.close()

    def __enter__(self) -> Self:
        if self._owns_client:
            self._client.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def handle_async_request(self, request: Any) -> NoReturn:
        """Refuse: raises :class:`TypeError`."""
        self._refuse_async()

    async def __aenter__(self) -> NoReturn:
        self._refuse_async()

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    async def aclose(self) -> None:
        """Close; an AsyncClient that was given the transport by mistake calls it."""
        self.close()

    def _refuse_async(self) -> NoReturn:
        raise TypeError(
            f"AnyTLSTransport is for {self.library.__name__}.Client; for an AsyncClient start "
            "anytls_http.LocalProxy and give its address as proxy="
        )

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a transport can't be pickled: its connections belong to this process")

    def __repr__(self) -> str:
        return f"<AnyTLSTransport over {self._client!r}, {len(self._pool.connections)} connections>"


def _origin(exc: Exception) -> BaseException:
    """Return the error that ``exc``, one of httpcore's, was made of, or ``exc`` itself."""
    first = exc.args[0] if exc.args else None
    return first if isinstance(first, BaseException) else exc


_WHY_NOT = {
    "local_address": "the server connects to the target; the outbound's dial fields are for the way to the server",
    "socket_options": "a stream has no socket; the outbound's dial fields are for the connections to the server",
    "uds": "the server connects to the target, and only by TCP",
    "proxy": "the AnyTLS server is the proxy, and the only one",
}
