"""The TLS settings of urllib3's connections over the tunnel, made once for all connections that share them.

Left alone, urllib3 makes an ``ssl.SSLContext`` for each connection and reads the certificate authorities
into it: some 12 ms for certifi's bundle, more than all the rest of a new connection.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs, resolve_ssl_version

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from urllib3.connection import HTTPSConnection

    from anytls_http.sockets import AnyTLSSocket, AnyTLSTLSSocket

#: Most contexts that are kept: settings rarely differ between the targets of one adapter.
MAX_KEPT = 16
#: What may change what a context of unchanged settings is made from.
_ENVIRONMENT = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


class TunnelContext:
    """An ``ssl.SSLContext`` for urllib3 whose ``wrap_socket`` puts TLS on a socket of the tunnel.

    urllib3 writes its settings into the context of each connection. ``is_ready``: they are there already,
    and others use it, so they are not written again. ``when_ready`` is called once they have been written.
    """

    def __init__(
        self, context: ssl.SSLContext, is_ready: bool = False, when_ready: Callable[[], None] | None = None
    ) -> None:
        self.__dict__.update(_context=context, _is_ready=is_ready, _when_ready=when_ready)

    def __getattr__(self, name: str) -> Any:
        if self._is_ready and (name.startswith("load_") or name == "set_alpn_protocols"):
            return _do_nothing
        return getattr(self._context, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not self._is_ready:
            setattr(self._context, name, value)

    def wrap_socket(self, sock: AnyTLSSocket, server_hostname: str | None = None) -> AnyTLSTLSSocket:
        """Do the TLS handshake with the target, within the socket's time-out."""
        if self._when_ready is not None:
            self._when_ready()
        try:
            return sock.start_tls(self._context, server_hostname)
        except ssl.SSLError:
            raise  # the one about certificates is a ValueError too
        except ValueError as exc:
            raise ssl.SSLError(f"{server_hostname!r} can't be the name in a certificate: {exc}") from exc


class TunnelContexts:
    """The contexts of one adapter's connections, by their settings; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, ssl.SSLContext] = OrderedDict()

    def get(self, connection: HTTPSConnection) -> TunnelContext:
        """Return the context for ``connection``, a new one where its settings, or the files that they name, are new."""
        key = _settings(connection)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return TunnelContext(kept, is_ready=True)
        context = create_urllib3_context(
            ssl_version=resolve_ssl_version(connection.ssl_version),
            ssl_minimum_version=connection.ssl_minimum_version,
            ssl_maximum_version=connection.ssl_maximum_version,
            cert_reqs=resolve_cert_reqs(connection.cert_reqs),
        )
        if not (connection.ca_certs or connection.ca_cert_dir or connection.ca_cert_data):
            context.load_default_certs()
        return TunnelContext(context, when_ready=lambda: self._keep(key, context))

    def _keep(self, key: Hashable, context: ssl.SSLContext) -> None:
        with self._lock:
            self._kept[key] = context
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)


def _settings(connection: HTTPSConnection) -> Hashable:
    """Return all that urllib3 makes a connection's context from, with the state of the files among it."""
    defaults = ssl.get_default_verify_paths()
    paths = (connection.ca_certs, connection.ca_cert_dir, connection.cert_file, connection.key_file)
    return (
        connection.ssl_version,
        connection.ssl_minimum_version,
        connection.ssl_maximum_version,
        connection.cert_reqs,
        connection.ca_cert_data,
        connection.key_password,
        connection.assert_hostname,
        connection.assert_fingerprint,
        *((path, _state(path)) for path in paths),
        *(os.environ.get(name) for name in _ENVIRONMENT),
        *(() if any(paths[:2]) else (_state(defaults.cafile), _state(defaults.capath))),
    )


def _state(path: str | None) -> tuple[int, int, int] | None:
    """Return what changes when the file or directory does; None where there is none."""
    if not path:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for what was done already."""
