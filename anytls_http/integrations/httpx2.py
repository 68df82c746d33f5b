"""httpx2 through the tunnel.

    with httpx2.Client(transport=AnyTLSTransport(outbound)) as http:
        http.get("https://example.org/")

``transport=`` is the safe way: with it httpx2 looks at no proxy variable. A transport in ``mounts=`` competes
with those that httpx2 makes from ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``ALL_PROXY``, the more exact pattern wins,
and a mount for ``all://`` is bypassed around the tunnel without a word (``trust_env=False`` prevents it).

httpx2's ``trace`` extension is told the tunnel's steps too, among httpcore's own ``connection.*`` and ``http11.*``::

    http.get(url, extensions={"trace": lambda name, facts: print(name, facts)})

They are ``anytls.open_stream``, ``anytls.dial``, ``anytls.resolve``, ``anytls.connect_tcp``, ``anytls.detour``,
``anytls.tls`` and ``anytls.proof_of_life``, each with ``.started``, then ``.complete`` or ``.failed``; which facts
come with them says ``_trace.py``. A callable that raises there is logged, and the request goes on.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import httpcore2
import httpx2

from ._httpcore import TunnelBackend, TunnelStream
from ._httpx import TunnelBody, TunnelTransport

if TYPE_CHECKING:
    from anytls_http.client import AnyTLSClient
    from anytls_http.config import AnyTLSOutbound

__all__ = ["AnyTLSTransport"]


class AnyTLSStream(TunnelStream, httpcore2.NetworkStream):
    """A stream of the tunnel: what the extension ``network_stream`` of a response is, or leads to."""

    core: ClassVar[Any] = httpcore2


class _Backend(TunnelBackend, httpcore2.NetworkBackend):
    core: ClassVar[Any] = httpcore2
    stream_class = AnyTLSStream


class _Body(TunnelBody, httpx2.SyncByteStream):
    pass


class AnyTLSTransport(TunnelTransport, httpx2.BaseTransport):
    """An httpx2 transport whose connections go through an AnyTLS server: ``httpx2.Client(transport=...)``.

    Args:
        config_or_client: the outbound (a dict or an :class:`AnyTLSOutbound`), for a client of its own that
            :meth:`close` closes; or an :class:`AnyTLSClient`, which is left open.
        verify: how the *target's* certificate is verified (the outbound's ``tls`` is about the server's):
            True, False, or an ``ssl.SSLContext``.
        cert, trust_env, http1, http2, limits: as for ``httpx2.HTTPTransport``.
        retries: how often to try again when connecting failed, or the server refused the target: a refused
            stream has delivered nothing. After a refusal only bodies of bytes are sent again, no generators.
        local_address, socket_options, uds, proxy: must be None, else :class:`TypeError` says why.

    Raises what httpx2 raises: ``ConnectError`` when the tunnel can't be built or the target can't be reached
    (with the server's words), ``ConnectTimeout``, ``ReadTimeout`` and so on; the cause is the error of
    ``anytls_http.errors``. The tunnel is opened without waiting for the server's word on the target, so the
    time that the server takes to reach a plain http target is part of the read time-out.

    A request on a kept-alive connection of which nothing was heard for long first makes the session prove
    that it lives, within the connect time-out; when it is dead, the request goes out on a new one.
    """

    library: ClassVar[Any] = httpx2
    core: ClassVar[Any] = httpcore2
    backend_class = _Backend
    body_class = _Body

    def __init__(
        self,
        config_or_client: Mapping[str, Any] | AnyTLSOutbound | AnyTLSClient,
        *,
        verify: ssl.SSLContext | str | bool = True,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx2.Limits = httpx2.Limits(max_connections=100, max_keepalive_connections=20),  # noqa: B008
        retries: int = 0,
        local_address: None = None,
        socket_options: None = None,
        uds: None = None,
        proxy: None = None,
    ) -> None:
        self._set_up(
            config_or_client,
            verify=verify,
            cert=cert,
            trust_env=trust_env,
            http1=http1,
            http2=http2,
            limits=limits,
            retries=retries,
            local_address=local_address,
            socket_options=socket_options,
            uds=uds,
            proxy=proxy,
        )

    if TYPE_CHECKING:

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            """Send ``request`` through the tunnel and return the response, its body still to be read."""
