"""SOCKS5 UDP ASSOCIATE: one UDP socket for one client, one stream of datagrams in the tunnel, one thread.

It ends with the TCP connection that asked for it. Only its client's address may use it.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Any

from anytls_http.client import AnyTLSClient
from anytls_http.protocol.address import decode_address, encode_address
from anytls_http.protocol.uot import TARGET, DatagramDecoder, encode_datagram, encode_request

from . import socks
from .incoming import ClientLeft, Incoming, shown
from .verdicts import Reply

logger = logging.getLogger("anytls_http.proxy")

#: Seconds to open the stream of datagrams.
OPEN_TIMEOUT = 30.0
#: Bytes that wait for the tunnel; datagrams that come on top of them are dropped, as any router does.
MAX_WAITING = 256 * 1024
_READ_SIZE = 65536


class Association:
    """``on_end`` is called by its thread when it is over. Raises ``OSError`` where there is no socket or stream."""

    def __init__(self, client: Incoming, tunnel: AnyTLSClient, on_end: Callable[[Association], None]) -> None:
        self._client = client
        self._on_end = on_end
        self._peer_host = client.peer[0]
        self._peer: tuple[Any, ...] | None = None  # where its datagrams come from
        self._decoder = DatagramDecoder(with_addresses=True)
        self._to_tunnel = bytearray(encode_request(None))
        local = client.sock.getsockname()
        self._udp = socket.socket(client.sock.family, socket.SOCK_DGRAM)
        try:
            self._udp.bind((local[0], 0))
            self._udp.setblocking(False)
            stream = tunnel.create_connection(TARGET, OPEN_TIMEOUT)
            self._tunnel = stream.as_socket()
            self._tunnel.setblocking(False)
        except BaseException:
            self._udp.close()
            raise
        self._thread = threading.Thread(
            target=self._run, name=f"anytls-proxy-udp-{self._udp.getsockname()[1]}", daemon=True
        )

    def start(self) -> None:
        """Tell the client its address and carry datagrams, on a thread of its own."""
        try:
            self._thread.start()
        except RuntimeError as exc:
            logger.warning("no thread for datagrams: %s", exc)
            self._close()

    def stop(self) -> None:
        """End it, from any thread."""
        with contextlib.suppress(OSError):
            self._client.sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            bound = self._udp.getsockname()
            socks.answer(self._client, socks.SOCKS5, Reply.SUCCEEDED, (bound[0], bound[1]))
            self._client.sock.setblocking(False)
            with selectors.DefaultSelector() as selector:
                self._loop(selector)
        except (ClientLeft, OSError) as exc:
            logger.debug("%s: UDP association: %s", shown(self._client.peer), shown(exc))
        except Exception:
            logger.exception("a UDP association failed")
        finally:
            self._close()

    def _close(self) -> None:
        self._udp.close()
        self._tunnel.close()
        self._client.close()
        self._on_end(self)

    def _loop(self, selector: selectors.BaseSelector) -> None:
        selector.register(self._client.sock, selectors.EVENT_READ)
        selector.register(self._udp, selectors.EVENT_READ)
        selector.register(self._tunnel, selectors.EVENT_READ)
        writing = False
        while True:
            if bool(self._to_tunnel) != writing:
                writing = not writing
                both = selectors.EVENT_READ | selectors.EVENT_WRITE
                selector.modify(self._tunnel, both if writing else selectors.EVENT_READ)
            for key, events in selector.select():
                if key.fileobj is self._client.sock:
                    if self._client_has_ended():
                        return
                elif key.fileobj is self._udp:
                    self._take_datagrams()
                else:
                    if events & selectors.EVENT_READ and not self._read_tunnel():
                        return
                    if events & selectors.EVENT_WRITE:
                        self._write_tunnel()

    def _client_has_ended(self) -> bool:
        try:
            return not self._client.sock.recv(4096)  # what it says meanwhile means nothing
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _take_datagrams(self) -> None:
        for _ in range(64):
            try:
                packet, peer = self._udp.recvfrom(_READ_SIZE)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error of an earlier answer
            if peer[0] != self._peer_host or (self._peer is not None and peer != self._peer):
                continue
            self._peer = peer
            if len(packet) < 4 or packet[2] or len(self._to_tunnel) > MAX_WAITING:
                continue  # cut short, a fragment, or too much
            try:
                host, port, size = decode_address(packet[3:])
                self._to_tunnel += encode_datagram(memoryview(packet)[3 + size :], (host, port))
            except ValueError as exc:
                logger.debug("%s: a datagram was dropped: %s", shown(peer), shown(exc))
        self._write_tunnel()

    def _write_tunnel(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._to_tunnel:
                count = self._tunnel.send(self._to_tunnel)
                del self._to_tunnel[:count]

    def _read_tunnel(self) -> bool:
        """Take what came from the tunnel; False at its end."""
        try:
            data = self._tunnel.recv(_READ_SIZE)
        except BlockingIOError:
            return True
        if not data:
            return False
        self._decoder.feed(data)
        try:
            while (datagram := self._decoder.next()) is not None:
                address, payload = datagram
                if address is not None and self._peer is not None:
                    with contextlib.suppress(OSError):  # full, or too large for this system: lost, as UDP is
                        self._udp.sendto(bytes(3) + encode_address(*address) + payload, self._peer)
        except ValueError as exc:
            logger.warning("the server sent what is no datagram: %s", shown(exc))
            return False
        return True
