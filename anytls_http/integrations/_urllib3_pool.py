"""urllib3's pools and their manager over the tunnel.

What requests asks of a pool is one try: no retries, no redirect, no preloading. Where nothing stands against it, that
try is made here, with the errors of ``HTTPConnectionPool.urlopen``; all else is urllib3's. Its way through all cases
costs a twentieth of a small request.
"""

from __future__ import annotations

import errno
import functools
import logging
import re
import ssl
import sys
from http.client import HTTPException
from types import FunctionType
from typing import TYPE_CHECKING, Any

import urllib3.connectionpool
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProtocolError, ProxyError, SSLError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.poolmanager import PoolManager
from urllib3.util import Retry, Timeout
from urllib3.util.ssl_match_hostname import CertificateError

from anytls_http.client import AnyTLSClient
from anytls_http.sockets.tls import TLS_WRITE_SIZE

from ._urllib3 import TunnelHTTPConnection, TunnelHTTPSConnection
from ._urllib3_tls import TunnelContexts

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3.poolmanager import PoolKey

#: Most targets of which the way to the pool is remembered.
MAX_REMEMBERED = 1024
_PART = r"{0}*(?:%[0-9A-F]{{2}}{0}*)*"
#: A target that every urllib3 sends as it is.
_TARGET = re.compile(
    "/(?!/)"
    + _PART.format(r"[\w.~!$&'()*+,;=:@/-]")
    + r"(?:\?"
    + _PART.format(r"[\w.~!$&'()*+,;=:@/?-]")
    + ")?",
    re.ASCII,
)
#: What urllib3 counts against the retries.
_COUNTED = (
    HTTPTimeoutError,
    HTTPException,
    OSError,
    ProtocolError,
    ssl.SSLError,
    SSLError,
    CertificateError,
    ProxyError,
)
#: The errors of a write, besides a broken pipe, after which the response may be there all the same.
_ENDED_BY_PEER = frozenset((errno.EPROTOTYPE, errno.ECONNRESET))

_log = logging.getLogger("urllib3.connectionpool")


def _urllib3s(function: object) -> object:
    """Return ``function``, or nothing that it could be, where it isn't urllib3's own any more."""
    is_own = type(function) is FunctionType and function.__globals__ is vars(urllib3.connectionpool)
    return function if is_own else object()


# Tracers and mocks put their own in place of these, and want to be told.
_URLOPEN = _urllib3s(HTTPConnectionPool.urlopen)
_MAKE_REQUEST = _urllib3s(HTTPConnectionPool._make_request)


class OneTryPool(HTTPConnectionPool):
    """A pool that makes a request's only try itself."""

    def urlopen(  # type: ignore[override]
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        retries: Any = None,
        redirect: bool = True,
        assert_same_host: bool = True,
        timeout: Any = Timeout.DEFAULT_TIMEOUT,
        pool_timeout: Any = None,
        release_conn: bool | None = None,
        chunked: bool = False,
        body_pos: Any = None,
        preload_content: bool = True,
        decode_content: bool = True,
        **options: Any,
    ) -> Any:
        """Send a request and return its response, as ``HTTPConnectionPool.urlopen``."""
        if (
            not (redirect or assert_same_host or release_conn or chunked or preload_content or decode_content)
            and not options
            and pool_timeout is None
            and body_pos is None
            and type(retries) is Retry
            and retries.total == 0
            and retries.total is not False
            and not retries.status_forcelist
            and type(timeout) is Timeout
            and timeout.total is None
            and headers is not None
            and not self.proxy_headers
            and _TARGET.fullmatch(url)
            and not _log.isEnabledFor(logging.DEBUG)
            and HTTPConnectionPool.urlopen is _URLOPEN
            and HTTPConnectionPool._make_request is _MAKE_REQUEST
        ):
            return self._try_once(method, url, body, headers, retries, timeout)
        return super().urlopen(
            method,
            url,
            body,
            headers,
            retries,
            redirect,
            assert_same_host,
            timeout,
            pool_timeout,
            release_conn,
            chunked,
            body_pos,
            preload_content,
            decode_content,
            **options,
        )

    def _try_once(
        self, method: str, url: str, body: Any, headers: Any, retries: Retry, timeout: Timeout
    ) -> Any:
        conn: Any = self._get_conn()
        self.num_requests += 1
        is_done = False
        try:
            conn.timeout = Timeout.resolve_default_timeout(timeout.connect_timeout)
            try:
                self._validate_conn(conn)  # connects to https targets, and warns where nothing is verified
            except (TimeoutError, ssl.SSLError, CertificateError) as exc:
                if isinstance(exc, OSError):
                    self._raise_timeout(err=exc, url=url, timeout_value=conn.timeout)
                raise SSLError(exc) from exc
            try:
                conn.request(
                    method, url, body=body, headers=headers, preload_content=False, decode_content=False
                )
            except BrokenPipeError:
                pass
            except OSError as exc:
                if exc.errno not in _ENDED_BY_PEER:
                    raise
            read_timeout = timeout.read_timeout
            if not conn.is_closed:
                conn.timeout = read_timeout
            try:
                response = conn.getresponse()
            except OSError as exc:
                self._raise_timeout(err=exc, url=url, timeout_value=read_timeout)
                raise
            response.retries = retries
            response._connection = conn
            response._pool = self
            is_done = True
            return response
        except _COUNTED as exc:
            error: Exception = exc
            if isinstance(exc, (ssl.SSLError, CertificateError)):
                error = SSLError(exc)
            elif isinstance(exc, (OSError, HTTPException)):
                error = ProtocolError("Connection aborted.", exc)
            retries.increment(method, url, error=error, _pool=self, _stacktrace=sys.exc_info()[2])
            raise  # not reached: there is no retry left
        finally:
            if not is_done:
                conn.close()
                self._put_conn(None)


class TunnelHTTPConnectionPool(OneTryPool):
    """urllib3's pool of connections to one http target, made in the tunnel."""

    ConnectionCls = TunnelHTTPConnection


class TunnelHTTPSConnectionPool(OneTryPool, HTTPSConnectionPool):
    """urllib3's pool of connections to one https target, made in the tunnel."""

    ConnectionCls = TunnelHTTPSConnection


class TunnelPoolManager(PoolManager):
    """urllib3's pools, all over ``tunnel``; shared with nobody."""

    def __init__(self, tunnel: AnyTLSClient, num_pools: int, **connection_pool_kw: Any) -> None:
        # urllib3 reads a file that it sends in blocks of 16 KiB, each of which would be a packet of its own.
        connection_pool_kw.setdefault("blocksize", TLS_WRITE_SIZE)
        super().__init__(num_pools, **connection_pool_kw)
        classes: dict[str, Any] = {
            "http": functools.partial(TunnelHTTPConnectionPool, tunnel=tunnel),
            "https": functools.partial(TunnelHTTPSConnectionPool, tunnel=tunnel, contexts=TunnelContexts()),
        }
        self.pool_classes_by_scheme = classes
        keys: Any = {scheme: _remembered(key_of) for scheme, key_of in self.key_fn_by_scheme.items()}
        self.key_fn_by_scheme = keys

    def clear(self) -> None:
        """Close all pools: urllib3 itself leaves that to their finalizers, which any kept exception puts off."""
        for key in self.pools.keys():  # noqa: SIM118 - it refuses to be iterated over
            pool = self.pools.get(key)
            if pool is not None:
                pool.close()
        super().clear()


def _remembered(key_of: Callable[[dict[str, Any]], PoolKey]) -> Callable[[dict[str, Any]], PoolKey]:
    """Return ``key_of``, which urllib3 asks for the pool of each request, with a memory of what it has said."""

    @functools.lru_cache(maxsize=MAX_REMEMBERED)
    def remembered(settings: tuple[tuple[str, Any], ...]) -> PoolKey:
        return key_of(dict(settings))

    def key(context: dict[str, Any]) -> PoolKey:
        try:
            return remembered(tuple(context.items()))
        except TypeError:  # a setting that can't be hashed
            return key_of(context)

    return key
