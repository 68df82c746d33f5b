"""A UDP-over-TCP (version 2) gateway on loopback, as sing-box has one inside; and a UDP echo."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Any, Self

from anytls_http.protocol.address import decode_address
from anytls_http.protocol.uot import TARGET, DatagramDecoder, encode_datagram
from anytls_http.testing import AnyTLSServer


class UDPEcho:
    """Answers every datagram with itself."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self.received = 0
        self._thread = threading.Thread(target=self._run, name="test-udp-echo", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"\0stop", self.address)
        self._thread.join(5)
        self._socket.close()

    def _run(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(70000)
            if data == b"\0stop":
                return
            self.received += 1
            self._socket.sendto(data, peer)


class UoTGateway:
    """Give it the test server, or set ``server.routes[uot.TARGET] = gateway.address`` there."""

    def __init__(self, server: AnyTLSServer | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        if server is not None:
            server.routes[TARGET] = self.address
        #: (is_connect, host, port) of each stream.
        self.requests: list[tuple[bool, str, int]] = []
        #: Sent instead of an answer, where set.
        self.nonsense: bytes | None = None
        self._stop, self._stopped = socket.socketpair()
        self._threads: list[threading.Thread] = []
        self._accepter = threading.Thread(target=self._accept, name="test-uot", daemon=True)

    def __enter__(self) -> Self:
        self._accepter.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.close()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepter, *self._threads):
            thread.join(5)
        self._listener.close()
        self._stopped.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), name="test-uot-stream", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            data = b""
            while True:
                piece = sock.recv(65536)
                if not piece:
                    return
                data += piece
                try:
                    host, port, size = decode_address(data[1:])
                    break
                except ValueError:
                    continue
            connected = bool(data[0])
            self.requests.append((connected, host, port))
            decoder = DatagramDecoder(with_addresses=not connected)
            decoder.feed(data[1 + size :])
            self._relay(sock, (host, port) if connected else None, decoder)

    def _relay(self, sock: socket.socket, only: tuple[str, int] | None, decoder: DatagramDecoder) -> None:
        sockets = {
            family: socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)
        }
        try:
            with selectors.DefaultSelector() as selector:
                for one in (sock, self._stopped, *sockets.values()):
                    selector.register(one, selectors.EVENT_READ)
                while True:
                    while (datagram := decoder.next()) is not None:
                        address = only or datagram[0]
                        assert address is not None
                        family, _, _, _, where = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
                        sockets[family].sendto(datagram[1], where)
                    for key, _ in selector.select():
                        if key.fileobj is self._stopped:
                            return
                        if key.fileobj is sock:
                            data = sock.recv(65536)
                            if not data:
                                return
                            decoder.feed(data)
                            continue
                        udp: Any = key.fileobj
                        payload, peer = udp.recvfrom(70000)
                        source = None if only else (peer[0], peer[1])
                        sock.sendall(self.nonsense or encode_datagram(payload, source))
        finally:
            for one in sockets.values():
                one.close()
