"""A local proxy: SOCKS5, SOCKS4a and HTTP on one port, for programs whose code can't be changed.

``server.py`` listens and hands each connection that has said something to a short-lived thread;
``socks.py`` and ``web.py`` do the greeting there; then the connection is the shared relay's
(``anytls_http.relay``), which needs no thread for it. Only plain HTTP requests (``forward.py``) and
UDP associations (``associate.py``) keep a thread, one each, while they last.
"""

from __future__ import annotations

from .server import LocalProxy

__all__ = ["LocalProxy"]
