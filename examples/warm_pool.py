"""A warm pool with rotation and heartbeats.

    python examples/warm_pool.py CONFIG [URL]

Two sessions are always ready, so that no request waits for a handshake; each is replaced after about ten
minutes, one at a time; and a heartbeat finds those that a NAT or the server has dropped.
"""

from __future__ import annotations

import sys
import time

import httpx

from anytls_http import AnyTLSClient, AnyTLSOutbound, AnyTLSTransport

config = sys.argv[1]
url = sys.argv[2] if len(sys.argv) > 2 else "https://example.org/"

# sing-box itself doesn't know all of these fields: over those of the file they are put here.
outbound = AnyTLSOutbound.from_file(
    config,
    ensure_idle_session=2,
    min_idle_session_for_age=1,
    max_connection_lifetime="10m",
    connection_lifetime_jitter="2m",
    heartbeat="11s",
)
with AnyTLSClient(outbound) as tunnel, httpx.Client(transport=AnyTLSTransport(tunnel)) as http:
    tunnel.wait_ready(2, timeout=30)
    started = time.monotonic()
    print(
        http.get(url).status_code,
        f"after {time.monotonic() - started:.3f} s, without a handshake with the server",
    )
    for session in tunnel.sessions():
        print(
            f"session {session.sequence}: {session.state}, {session.age:.1f} s old, {session.target or 'no target'}"
        )
