"""http.client through the tunnel, as any library that takes a socket.

python examples/standard_library.py CONFIG [URL]
"""

from __future__ import annotations

import http.client
import sys
import urllib.parse

from anytls_http import AnyTLSClient, AnyTLSOutbound, create_default_context

config = sys.argv[1]
url = urllib.parse.urlsplit(sys.argv[2] if len(sys.argv) > 2 else "https://example.org/")
assert url.hostname

with AnyTLSClient(AnyTLSOutbound.from_file(config)) as tunnel:
    if url.scheme == "https":
        # Its wrap_socket takes a socket of the tunnel; that of ssl.create_default_context() doesn't.
        connection = http.client.HTTPSConnection(url.hostname, url.port, context=create_default_context())
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port)
    # What http.client calls in place of socket.create_connection.
    connection._create_connection = tunnel.create_connection
    connection.request("GET", url.path or "/")
    response = connection.getresponse()
    print(response.status, response.reason, len(response.read()), "bytes")
    connection.close()
