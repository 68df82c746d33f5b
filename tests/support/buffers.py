"""How much the kernel takes from a sender though nobody reads."""

from __future__ import annotations

import contextlib
from pathlib import Path


def more_than_buffers(connections: int = 2) -> int:
    """Return how many bytes more than fill all buffers of so many TCP connections in a row, and what lies between.

    The kernel lets a connection's buffers grow while data flows, on some machines to 33 MB each.
    """
    size = 24_000_000
    for name in ("tcp_wmem", "tcp_rmem"):
        with contextlib.suppress(OSError):  # not Linux
            size += connections * int(Path("/proc/sys/net/ipv4", name).read_text().split()[2])
    return size


#: More than lies on the way between a client, a server and a target (bytes).
OVERFLOW = more_than_buffers()
