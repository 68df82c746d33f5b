"""requests through the tunnel, from several threads.

python examples/requests_session.py CONFIG [URL]
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import anytls_http

config = sys.argv[1]
url = sys.argv[2] if len(sys.argv) > 2 else "https://example.org/"

outbound = anytls_http.AnyTLSOutbound.from_file(config)
with anytls_http.AnyTLSClient(outbound) as tunnel:  # one pool for all of them

    def fetch(number: int) -> str:
        """Requests' own sessions are not for several threads at once: each task has one."""
        with anytls_http.requests_session(tunnel) as session:
            response = session.get(url, timeout=10)
            return f"{number}: {response.status_code}, {len(response.content)} bytes"

    with ThreadPoolExecutor(4) as threads:
        for line in threads.map(fetch, range(8)):
            print(line)
    stats = tunnel.stats()
    print(f"{stats.streams_opened} streams over {sum(stats.created.values())} sessions")
