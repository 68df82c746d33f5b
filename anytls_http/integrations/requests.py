"""requests through the tunnel.

    session = requests.Session()
    session.mount("https://", AnyTLSAdapter(outbound))
    session.mount("http://", AnyTLSAdapter(outbound))

    session = requests_session(outbound)        # the same, with one pool for both

The adapter takes no proxy, neither from ``proxies=`` nor from ``HTTP_PROXY``, ``HTTPS_PROXY`` and
``ALL_PROXY``: requests hands it both as one, and the tunnel is the proxy. ``Proxy-Authorization`` never
goes out: requests adds it on redirects, and the tunnel would carry it to the origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import requests
from requests.adapters import DEFAULT_POOLBLOCK, DEFAULT_POOLSIZE, DEFAULT_RETRIES, HTTPAdapter
from requests.exceptions import (
    ChunkedEncodingError,
    ConnectionError,  # noqa: A004 - requests' own name
    ConnectTimeout,
    InvalidURL,
    ProxyError,
    ReadTimeout,
    SSLError,
)
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError
from urllib3.util.retry import Retry

from anytls_http.client import AnyTLSClient
from anytls_http.config import AnyTLSOutbound, coerce_outbound
from anytls_http.errors import AnyTLSError, AuthenticationError, CertificateError

from ._urllib3 import FinalError
from ._urllib3_plain import PlainHTTPResponse
from ._urllib3_pool import MAX_REMEMBERED, TunnelPoolManager

__all__ = ["AnyTLSAdapter", "BodyBroken", "BodyTimeout", "requests_session"]


#: Bytes of a response's content that are asked for at once: all of it where that is known not to be more.
CONTENT_PIECE = 1024 * 1024


class BodyTimeout(ReadTimeout, ConnectionError):
    """The body stopped coming for the read time-out. requests itself calls that a ``ConnectionError``: it is both."""


class BodyBroken(ConnectionError, ChunkedEncodingError):
    """The tunnel ended before the body did. requests itself calls that a ``ChunkedEncodingError``: it is both."""


class AnyTLSAdapter(HTTPAdapter):
    """An adapter for ``requests.Session.mount`` whose connections go through an AnyTLS server.

    Args:
        config_or_client: the outbound (a dict or an :class:`AnyTLSOutbound`), for a client of its own that
            :meth:`close` closes; or an :class:`AnyTLSClient`, which is left open.
        pool_connections, pool_maxsize, max_retries, pool_block: as for ``requests.adapters.HTTPAdapter``.
            ``max_retries`` counts targets that the server refused too, where the body can be sent again.

    Raises what requests raises: ``ConnectionError`` when the tunnel can't be built or the target can't be
    reached (with the server's words), ``ProxyError`` when the server doesn't take the password, ``SSLError``
    when its certificate, or the target's, isn't trusted, ``ConnectTimeout`` and ``ReadTimeout``. The tunnel
    is opened without waiting for the server's word on the target, so the time that the server takes to
    reach a plain http target is part of the read time-out.

    ``proxies=`` is ignored. The adapter can be pickled, *with the password in the pickle*; not so one
    that was given a client, which belongs to this process.
    """

    def __init__(
        self,
        config_or_client: Mapping[str, Any] | AnyTLSOutbound | AnyTLSClient,
        pool_connections: int = DEFAULT_POOLSIZE,
        pool_maxsize: int = DEFAULT_POOLSIZE,
        max_retries: int | Retry = DEFAULT_RETRIES,
        pool_block: bool = DEFAULT_POOLBLOCK,
    ) -> None:
        self._outbound: AnyTLSOutbound | None
        if isinstance(config_or_client, AnyTLSClient):
            self._outbound = None
            self._client = config_or_client
        else:
            self._outbound = coerce_outbound(config_or_client)
            self._client = AnyTLSClient(self._outbound)
        super().__init__(pool_connections, pool_maxsize, max_retries, pool_block)

    @property
    def client(self) -> AnyTLSClient:
        """The client whose sessions carry the requests, for its ``stats()`` and ``wait_ready()``."""
        return self._client

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send ``request`` through the tunnel; arguments as ``HTTPAdapter.send``, of which ``proxies`` is ignored."""
        request.headers.pop("Proxy-Authorization", None)
        try:
            return super().send(request, stream, timeout, verify, cert, {})
        except FinalError as exc:
            kind: type[requests.RequestException] = ConnectionError
            if isinstance(exc.cause, AuthenticationError):
                kind = ProxyError
            elif isinstance(exc.cause, CertificateError):
                kind = SSLError
            raise kind(exc.cause, request=request) from exc.cause
        except HTTPError as exc:
            # requests lets through what urllib3 raises when its retries are switched off.
            timed_out = isinstance(exc, ConnectTimeoutError) and not isinstance(exc, NewConnectionError)
            raise (ConnectTimeout if timed_out else ConnectionError)(exc, request=request) from exc

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Return requests' response for urllib3's."""
        response = super().build_response(req, resp)
        response.__class__ = _Response  # making a second one costs 2 % of a small request
        return response

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Make urllib3's pools, over the tunnel; for subclasses that add ``pool_kwargs``, as in HTTPAdapter."""
        self._pool_connections = connections
        self._pool_maxsize = maxsize
        self._pool_block = block
        self._pool_attributes: dict[tuple[Any, ...], Any] = {}
        self.poolmanager = TunnelPoolManager(
            self._client, num_pools=connections, maxsize=maxsize, block=block, **pool_kwargs
        )

    # requests asks these for the proxy of a request, and for what belongs on its wire.

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        """Return urllib3's pool for ``request``; ``proxies`` is ignored."""
        try:
            host_params, pool_kwargs = self.build_connection_pool_key_attributes(request, verify, cert)
        except ValueError as exc:
            raise InvalidURL(exc, request=request) from exc
        return self.poolmanager.connection_from_host(**host_params, pool_kwargs=pool_kwargs)

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
        """Return urllib3's pool for ``url``; ``proxies`` is ignored."""
        return super().get_connection(url, {})

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """Return the target and the TLS settings by which urllib3 finds the pool for ``request``.

        Remembered by target and settings: requests looks on the disk for what ``verify`` names, each time.
        """
        target = (request.url or "").split("/", 3)[:3]
        key = (*target, type(verify), verify, cert)  # 0 is no False here
        try:
            found = self._pool_attributes.get(key)
        except TypeError:  # a certificate given as a list
            return super().build_connection_pool_key_attributes(request, verify, cert)
        if found is None:
            found = super().build_connection_pool_key_attributes(request, verify, cert)
            if len(self._pool_attributes) >= MAX_REMEMBERED:
                self._pool_attributes.clear()
            self._pool_attributes[key] = found
        host_params, pool_kwargs = found
        return dict(host_params), dict(pool_kwargs)

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """Return the path of ``request``: nobody on the way wants the whole URL."""
        path = request.path_url
        # On such a path requests' versions disagree.
        return super().request_url(request, {}) if path.startswith("//") else path

    def proxy_manager_for(self, proxy: Any, **proxy_kwargs: Any) -> Any:
        """Return the tunnel's own pools: there is no other proxy."""
        return self.poolmanager

    def proxy_headers(self, proxy: Any) -> dict[str, str]:
        """Return no headers: the credentials of a proxy are nothing for an origin."""
        return {}

    def close(self) -> None:
        """End all connections, and the client where the adapter made it; any number of times."""
        super().close()
        if self._outbound is not None:
            self._client.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._outbound is None:
            raise TypeError(
                "an adapter over an AnyTLSClient can't be pickled: its sessions belong to this process; "
                "give the adapter the configuration instead"
            )
        state: Any = super().__getstate__()
        return {**state, "_outbound": self._outbound}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._client = AnyTLSClient(state["_outbound"])
        super().__setstate__(state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"<AnyTLSAdapter over {self._client!r}, {len(self.poolmanager.pools)} targets>"


class _Response(requests.Response):
    """requests' response, with the tunnel's errors while its body is read."""

    @property
    def content(self) -> Any:
        """The whole body, read in large pieces: requests takes 10 KiB at a time, and pays by the piece."""
        consumed = getattr(self, "_content_consumed", True)
        if (
            getattr(self, "_content", None) is False
            and not consumed
            and self.raw is not None
            and self.status_code
        ):
            at_once = type(self.raw) is PlainHTTPResponse and self.raw.is_whole_and_below(CONTENT_PIECE)
            self._content = b"".join(self.iter_content(None if at_once else CONTENT_PIECE))
        return super().content

    def iter_content(self, chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[Any]:
        """Yield the body in pieces; arguments as ``requests.Response.iter_content``."""
        return self._with_our_errors(super().iter_content(chunk_size, decode_unicode))

    def _with_our_errors(self, chunks: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from chunks
        except ConnectionError as exc:
            if _has(exc, ReadTimeoutError):
                raise BodyTimeout(*exc.args, request=self.request, response=self) from exc
            raise
        except ChunkedEncodingError as exc:
            if _has(exc, AnyTLSError):
                raise BodyBroken(*exc.args, request=self.request, response=self) from exc
            raise


def _has(exc: BaseException, kind: type[BaseException]) -> bool:
    """Whether an exception of ``kind`` lies under ``exc``, in its arguments or its causes."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, kind) or any(isinstance(arg, kind) for arg in seen.args):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def requests_session(config_or_client: Mapping[str, Any] | AnyTLSOutbound | AnyTLSClient) -> requests.Session:
    """Return a ``requests.Session`` of which all http and https requests go through the tunnel, over one pool.

    ``config_or_client`` as for :class:`AnyTLSAdapter`; closing the session closes a client made from a
    configuration.
    """
    session = requests.Session()
    adapter = AnyTLSAdapter(config_or_client)
    for old in session.adapters.values():
        old.close()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session
