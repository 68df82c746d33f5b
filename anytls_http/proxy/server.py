"""The proxy itself: it listens, looks after clients that say nothing, and gives the others a thread for a while."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import urllib.parse
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anytls_http.client import AnyTLSClient
from anytls_http.config import AnyTLSOutbound
from anytls_http.errors import AnyTLSError, ConfigError
from anytls_http.net.forks import forget_in_children
from anytls_http.relay import Pair, shared_relay
from anytls_http.sockets import AnyTLSSocket

from . import front, socks
from .associate import Association
from .front import Front
from .incoming import BadGreeting, ClientLeft, Incoming, shown
from .listening import is_loopback, make_credentials, open_listener
from .socks import Command
from .verdicts import Reply, socks_reply
from .web import Conversation
from .workers import Workers

if TYPE_CHECKING:
    from typing import Self

logger = logging.getLogger("anytls_http.proxy")

#: Seconds that an HTTP connection is kept for the next request.
KEEP_ALIVE = 60.0
#: Seconds for the server to reach a target.
OPEN_TIMEOUT = 30.0
#: Connections at a time; further ones wait in the kernel.
MAX_CONNECTIONS = 8192
#: Seconds that :meth:`LocalProxy.close` waits for its threads and the relay.
CLOSE_TIMEOUT = 5.0


class LocalProxy:
    """A proxy for local programs whose connections go through the tunnel.

    ::

        with LocalProxy(outbound) as proxy:
            subprocess.run(["curl", "--proxy", proxy.url, "https://example.org/"])

    ``config_or_client``: what :class:`AnyTLSClient` takes, or a client, which is shared and not closed.
    ``listen``: host and port, port 0 takes a free one. ``username``, ``password``: what clients have to know
    (SOCKS5 and HTTP Basic); listening on anything but loopback without them is refused. Raises
    :class:`ConfigError` for that, and ``OSError`` where it can't listen; it listens from the constructor on.
    SOCKS5, SOCKS4a and HTTP are told apart by a connection's first byte; names are resolved by the server.
    """

    def __init__(
        self,
        config_or_client: Mapping[str, Any] | AnyTLSOutbound | AnyTLSClient,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self._credentials = make_credentials(username, password)
        if self._credentials is None and not is_loopback(listen[0]):
            where = shown(listen[0]) or "no host, which is every address,"
            raise ConfigError(
                f"listen: {where} can be reached by others; that takes a user name and a password"
            )
        self._owns_client = not isinstance(config_or_client, AnyTLSClient)
        self._client = (
            config_or_client if isinstance(config_or_client, AnyTLSClient) else AnyTLSClient(config_or_client)
        )
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closing = False
        self._returned: deque[Incoming] = deque()  # HTTP connections that wait for the next request
        self._pairs: set[Pair] = set()
        self._associations: set[Association] = set()
        self._idle = 0  # connections that the front watches
        self.accepted = 0  #: connections so far
        self.failed = 0  #: of them, those whose target was not reached
        self._listener = open_listener(listen)
        self._host: str = self._listener.getsockname()[0]
        #: The port that it listens on.
        self.port: int = self._listener.getsockname()[1]
        self._workers = Workers(
            f"anytls-proxy-{self.port}-client", self._lock, self._changed, self._serve, self._served
        )
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._front = threading.Thread(target=self._run, name=f"anytls-proxy-{self.port}", daemon=True)
        try:
            if self._owns_client:
                self._client.__enter__()
            self._front.start()
        except BaseException:
            self._listener.close()
            self._wake_reader.close()
            self._wake_writer.close()
            if self._owns_client:
                self._client.close()
            raise
        forget_in_children(self)
        logger.info("proxy started at %s:%d", self._host, self.port)

    # -- what a user sees ------------------------------------------------------------------------------

    @property
    def client(self) -> AnyTLSClient:
        """The client whose tunnel is used."""
        return self._client

    @property
    def url(self) -> str:
        """The ``http://`` URL of the proxy, with user name and password where it has them."""
        return self._url("http")

    @property
    def socks_url(self) -> str:
        """The ``socks5h://`` URL (the server resolves names), with user name and password where it has them."""
        return self._url("socks5h")

    @property
    def connections(self) -> int:
        """How many clients there are at this moment."""
        with self._changed:
            return self._count()

    def close(self) -> None:
        """Stop listening and end all connections, and the client where it is the proxy's own; any number of times."""
        with self._changed:
            first = not self._closing
            self._closing = True
            self._workers.stop()
            clients = self._workers.clients
            pairs = list(self._pairs)
            associations = list(self._associations)
        if first:
            self._wake()
            for client in clients:
                with contextlib.suppress(OSError):
                    client.sock.shutdown(socket.SHUT_RDWR)
            for association in associations:
                association.stop()
            for pair in pairs:
                shared_relay().end(pair)
            if self._owns_client:
                self._client.close()
        if threading.current_thread() is not self._front:
            self._front.join(CLOSE_TIMEOUT)
        with self._changed:
            self._changed.wait_for(lambda: not self._count() and not self._workers.threads, CLOSE_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closing else f"{self.connections} connections"
        return f"<LocalProxy at {self._host}:{self.port}, {state}>"

    def _url(self, scheme: str) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        if ":" in host:
            host = f"[{host}]"
        who = ""
        if self._credentials is not None:
            quoted = [
                urllib.parse.quote(text, safe="")
                for text in (self._credentials.username, self._credentials.password)
            ]
            who = ":".join(quoted) + "@"
        return f"{scheme}://{who}{host}:{self.port}"

    def _count(self) -> int:
        return (
            self._idle + len(self._workers) + len(self._returned) + len(self._pairs) + len(self._associations)
        )

    # -- the front: clients that say nothing -----------------------------------------------------------

    def _wake(self) -> None:
        with self._changed:
            if not self._front.is_alive():
                return
            with contextlib.suppress(OSError):  # full: it is going to wake; closed: it has ended
                self._wake_writer.send(b"\0")

    def _run(self) -> None:
        watch = Front(self._listener, self._wake_reader)
        try:
            while not self._closing:
                with self._changed:
                    while self._returned:
                        watch.watch(self._returned.popleft(), KEEP_ALIVE)
                    self._idle = watch.watched
                    full = self._count() >= MAX_CONNECTIONS
                accepted, ready = watch.wait(full)
                self.accepted += accepted
                with self._changed:  # nobody is counted twice, or not at all
                    for client in ready:
                        self._workers.start(client)
                    self._idle = watch.watched
        except Exception:
            logger.exception("the proxy's thread failed")
            self._closing = True
        finally:
            watch.close()
            with self._changed:
                self._idle = 0
                for client in self._returned:
                    client.close()
                self._returned.clear()
                self._workers.stop()
                self._workers.close_waiting()
                self._wake_writer.close()
                self._changed.notify_all()

    # -- the workers: greetings ------------------------------------------------------------------------

    def _serve(self, client: Incoming) -> bool:
        """Serve one client until the relay has it, or it is closed; True when its next request may be waited for."""
        try:
            client.limit(front.GREETING_TIMEOUT)
            if client.conversation is not None:
                return self._serve_http(client)
            first = client.peek()
            if first in (socks.SOCKS5, socks.SOCKS4):
                self._serve_socks(client)
            elif 0x41 <= first <= 0x7A:  # a letter: some method
                client.conversation = Conversation(client, self._connect, self._credentials)
                return self._serve_http(client)
            else:
                logger.debug("%s: neither SOCKS nor HTTP", shown(client.peer))
                client.close_gently()
        except BadGreeting as exc:
            logger.info("%s: refused: %s", shown(client.peer), shown(exc))
            client.close_gently()
        except ClientLeft as exc:
            logger.debug("%s: left: %s", shown(client.peer), shown(exc))
            client.close()
        except Exception:
            logger.exception("serving a client failed")
            client.close()
        return False

    def _served(self, client: Incoming, waits: bool) -> None:
        """A worker is done with ``client``. The caller holds the lock."""
        if waits and not self._closing:
            self._returned.append(client)
            self._wake()
        elif waits:
            client.close()

    def _serve_socks(self, client: Incoming) -> None:
        wish = socks.greet(client, self._credentials)
        if wish.command is Command.UDP_ASSOCIATE:
            self._associate(client)
            return
        try:
            stream = self._connect(wish.host, wish.port)
        except AnyTLSError as exc:
            client.limit(front.GREETING_TIMEOUT)
            socks.answer(client, wish.version, socks_reply(exc))
            client.close_gently()
            return
        try:
            client.limit(front.GREETING_TIMEOUT)
            socks.answer(client, wish.version, Reply.SUCCEEDED)
        except ClientLeft:
            stream.close()
            raise
        self._relay(client, stream, bytes(client.ahead))

    def _serve_http(self, client: Incoming) -> bool:
        outcome = client.conversation.serve()
        if outcome is True:
            return True
        if outcome is False:
            client.close_gently()
        else:
            self._relay(client, outcome.stream, outcome.head)
        return False

    def _connect(self, host: str, port: int) -> AnyTLSSocket:
        """Open a stream and wait for the server's word on it. Raises :class:`AnyTLSError`."""
        try:
            return self._client.create_connection((host, port), OPEN_TIMEOUT, wait_open=True)
        except AnyTLSError as exc:
            with self._changed:
                self.failed += 1
            logger.info("no connection to %s:%d: %s", shown(host), port, shown(exc))
            raise

    def _relay(self, client: Incoming, stream: AnyTLSSocket, head: bytes) -> None:
        with self._changed:  # _ended can't come before the pair is in the set
            try:
                pair = shared_relay().join(client.sock, stream, self._ended, head)
            except (OSError, RuntimeError) as exc:
                logger.warning("no relay for a client: %s", exc)
                stream.close()
                client.close()
                return
            self._pairs.add(pair)
            self._workers.hand_over(client)
            closing = self._closing
        if closing:
            shared_relay().end(pair)

    def _ended(self, pair: Pair) -> None:
        with self._changed:
            self._pairs.discard(pair)
            self._changed.notify_all()

    def _associate(self, client: Incoming) -> None:
        try:
            association = Association(client, self._client, self._association_ended)
        except (OSError, RuntimeError) as exc:
            logger.info("%s: no UDP association: %s", shown(client.peer), shown(exc))
            socks.answer(client, socks.SOCKS5, Reply.GENERAL_FAILURE)
            client.close_gently()
            return
        with self._changed:
            self._associations.add(association)
            self._workers.hand_over(client)
            closing = self._closing
        association.start()
        if closing:
            association.stop()

    def _association_ended(self, association: Association) -> None:
        with self._changed:
            self._associations.discard(association)
            self._changed.notify_all()

    def forget_in_child(self) -> None:
        """In a forked child: close its copies of what the front owns; the parent goes on."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closing = True
        for sock in (self._listener, self._wake_reader, self._wake_writer):
            fd = sock.detach()
            if fd >= 0:
                os.close(fd)
