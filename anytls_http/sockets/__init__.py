"""Sockets in the tunnel: :class:`AnyTLSSocket`, and :class:`AnyTLSTLSSocket` for TLS to the target inside it.

Both do what code written for ``socket.socket`` calls (``base.py``). Neither has a descriptor: the
session's TCP descriptor tells nothing about the stream, and the standard library would take it and
write TLS around the tunnel.
"""

from __future__ import annotations

from .plain import AnyTLSSocket
from .tls import AnyTLSTLSSocket

__all__ = ["AnyTLSSocket", "AnyTLSTLSSocket"]
