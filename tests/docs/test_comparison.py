"""What docs/comparison.md says of sing-box and no documentation says: measured."""

from __future__ import annotations

import socket

from tests.support.singbox import SingBoxClient, SingBoxServer, free_port, skip_without_singbox


@skip_without_singbox
def test_sing_boxs_client_says_yes_before_it_knows() -> None:
    port = free_port()
    with SingBoxServer() as server, SingBoxClient(server.outbound()) as client:
        with socket.create_connection(("127.0.0.1", client.port), 10) as sock:
            sock.sendall(b"\5\1\0")
            assert sock.recv(2) == b"\5\0"
            sock.sendall(b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + port.to_bytes(2, "big"))
            assert sock.recv(100)[:2] == b"\5\0"
            assert sock.recv(100) == b""
        with socket.create_connection(("127.0.0.1", client.port), 10) as sock:
            sock.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % port)
            assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
            assert sock.recv(100) == b""
