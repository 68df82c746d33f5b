"""The embedded server and what it leads to, as in tests/sockets."""

from __future__ import annotations

from tests.sockets.conftest import client, server, site, target

__all__ = ["client", "server", "site", "target"]
