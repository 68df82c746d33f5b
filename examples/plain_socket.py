"""A socket through the tunnel, and TLS inside it.

    python examples/plain_socket.py CONFIG [HOST [PORT]]

Port 443 gets TLS with the target, any other none.
"""

from __future__ import annotations

import sys

from anytls_http import AnyTLSClient, AnyTLSOutbound, StreamRefused, create_default_context

config = sys.argv[1]
host = sys.argv[2] if len(sys.argv) > 2 else "example.org"
port = int(sys.argv[3]) if len(sys.argv) > 3 else 443

with AnyTLSClient(AnyTLSOutbound.from_file(config)) as tunnel:
    try:
        # wait_open: the server's word on the target is awaited; otherwise the first read would tell.
        sock = tunnel.create_connection((host, port), timeout=10, wait_open=True)
    except StreamRefused as refusal:
        sys.exit(str(refusal))
    stream = sock.start_tls(create_default_context(), host) if port == 443 else sock
    with stream:
        print("from", stream.getsockname(), "to", stream.getpeername())
        stream.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        with stream.makefile("rb") as lines:
            for line in lines:
                print(line.decode("latin-1").rstrip())
