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
from anytls_http.datagram_channels import Channel, Channels
from anytls_http.errors import AnyTLSError
from anytls_http.protocol.address import decode_address, encode_address
from anytls_http.protocol.uot import TARGET

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
        local = client.sock.getsockname()
        self._udp = socket.socket(client.sock.family, socket.SOCK_DGRAM)
        try:
            self._udp.bind((local[0], 0))
            self._udp.setblocking(False)
            self._channels = Channels(lambda: tunnel.create_connection(TARGET, OPEN_TIMEOUT), None)
        except BaseException:
            self._udp.close()
            raise
        self._selector = selectors.DefaultSelector()
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
            self._loop()
        except (ClientLeft, OSError) as exc:
            logger.debug("%s: UDP association: %s", shown(self._client.peer), shown(exc))
        except Exception:
            logger.exception("a UDP association failed")
        finally:
            self._close()

    def _close(self) -> None:
        self._selector.close()
        self._udp.close()
        self._channels.close()
        self._client.close()
        self._on_end(self)

    def _loop(self) -> None:
        reading = selectors.EVENT_READ
        self._selector.register(self._client.sock, reading)
        self._selector.register(self._udp, reading)
        while True:
            self._watch_channels()
            for key, _ in self._selector.select():
                if key.fileobj is self._client.sock:
                    if self._client_has_ended():
                        return
                elif key.fileobj is self._udp:
                    self._take_datagrams()
            for channel in self._channels.all():
                self._serve(channel)

    def _watch_channels(self) -> None:
        """Watch exactly those there are now, and for writing where something waits."""
        channels = {channel.sock: channel for channel in self._channels.all()}
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, Channel) and key.fileobj not in channels:
                self._selector.unregister(key.fileobj)
        for sock, channel in channels.items():
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.unsent else 0)
            if sock not in self._selector.get_map():
                self._selector.register(sock, wanted, channel)
            elif self._selector.get_key(sock).events != wanted:
                self._selector.modify(sock, wanted, channel)

    def _serve(self, channel: Channel) -> None:
        try:
            channel.flush()
            while True:
                datagram = channel.next()
                if datagram is not None:
                    self._give(*datagram)
                elif not channel.receive():
                    return
        except AnyTLSError as exc:
            logger.info("%s: datagrams: %s", shown(self._client.peer), shown(exc))
            if self._selector.get_map().get(channel.sock) is not None:
                self._selector.unregister(channel.sock)
            if not self._channels.drop(channel):
                raise

    def _give(self, payload: bytes, source: tuple[str, int]) -> None:
        if self._peer is not None:
            with contextlib.suppress(OSError):  # full, or too large for this system: lost, as UDP is
                self._udp.sendto(bytes(3) + encode_address(*source) + payload, self._peer)

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
            if len(packet) < 4 or packet[2]:
                continue  # cut short, or a fragment
            try:
                host, port, size = decode_address(packet[3:])
                if sum(channel.unsent for channel in self._channels.all()) < MAX_WAITING:
                    self._channels.put(packet[3 + size :], (host, port))
            except (ValueError, AnyTLSError) as exc:
                logger.debug("%s: a datagram was dropped: %s", shown(peer), shown(exc))
