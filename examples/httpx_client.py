"""httpx through the tunnel.

    python examples/httpx_client.py CONFIG [URL]

CONFIG is a file with an anytls outbound, or a whole sing-box configuration.
"""

from __future__ import annotations

import sys

import httpx

from anytls_http import AnyTLSOutbound, AnyTLSTransport

config = sys.argv[1]
url = sys.argv[2] if len(sys.argv) > 2 else "https://example.org/"

outbound = AnyTLSOutbound.from_file(config)
with httpx.Client(transport=AnyTLSTransport(outbound, retries=1), timeout=10) as http:
    for _ in range(3):  # over one connection
        response = http.get(url)
        print(response.http_version, response.status_code, len(response.content), "bytes")
