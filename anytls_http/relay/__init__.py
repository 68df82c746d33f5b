"""Moves bytes between real sockets and streams in the tunnel: one thread per process, for all pairs.

``loop.py`` is the thread, ``pair.py`` what one pair does with each event, ``poller.py`` the events.
:meth:`AnyTLSSocket.as_socket` and the local proxy hand it both ends and are done with them.
"""

from __future__ import annotations

from .loop import Relay, shared_relay
from .pair import Pair, Stream

__all__ = ["Pair", "Relay", "Stream", "shared_relay"]
