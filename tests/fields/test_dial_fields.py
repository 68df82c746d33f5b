"""Every dial field, by what it does to the connection of a real client to a real server."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anytls_http import AnyTLSClient, AnyTLSOutbound
from anytls_http.errors import AnyTLSTimeout, ConfigError, DialError
from anytls_http.net import dial, socket_options
from anytls_http.testing import AnyTLSServer
from tests.fields.namespace import HERE, INSIDE, Namespace
from tests.sockets.targets import FullBacklog
from tests.support.singbox import free_port
from tests.support.timing import STARVED

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="a field of Linux")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root (CAP_NET_ADMIN)"
)
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as running:
        yield running


@pytest.fixture
def server6() -> Iterator[AnyTLSServer]:
    try:
        running = AnyTLSServer(
            host="::1", port=free_port()
        )  # which is free at 127.0.0.1 too, as a test wants it
        running.start()
    except OSError:
        pytest.skip("this machine has no ::1")
    with running:
        yield running


class Connection:
    """What is known of one connection of a client: its socket here, and its address as the server sees it."""

    def __init__(self, client: AnyTLSClient, server: AnyTLSServer) -> None:
        client.wait_ready(1, 5)
        server.wait_for(lambda: any(session.authenticated for session in server.connections))
        (session,) = client._pool.state.sessions
        self.sock: socket.socket = session._tls._sock
        peer = server.connections[-1]._channel._sock.getpeername()
        self.seen: str = peer[0]
        assert self.sock.getsockname()[:2] == peer[:2]


Connect = Callable[..., Connection]


@pytest.fixture
def connect(server: AnyTLSServer) -> Iterator[Connect]:
    clients: list[AnyTLSClient] = []

    def connect(to: AnyTLSServer | None = None, **fields: Any) -> Connection:
        to = to or server
        client = AnyTLSClient(to.outbound(**fields))
        clients.append(client)
        return Connection(client, to)

    yield connect
    for client in clients:
        client.close()


def option(sock: socket.socket, level: int, name: int) -> int:
    return sock.getsockopt(level, name)


# -- where from -------------------------------------------------------------------------------------------


@linux_only
def test_inet4_bind_address(connect: Connect) -> None:
    assert connect(inet4_bind_address="127.0.0.5", inet6_bind_address="2001:db8::1").seen == "127.0.0.5"


def test_inet6_bind_address(connect: Connect, server6: AnyTLSServer) -> None:
    seen = connect(server6, inet6_bind_address="::1", inet4_bind_address="192.0.2.1").seen
    assert seen == "::1"


@linux_only
@pytest.mark.parametrize("no_port", [False, True])
def test_bind_address_no_port(connect: Connect, no_port: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the port is the kernel's choice at connect(): none is taken by bind()."""
    ports: list[int] = []
    real = dial.open_socket

    def open_socket(*args: Any) -> socket.socket:
        sock = real(*args)
        ports.append(sock.getsockname()[1])
        return sock

    monkeypatch.setattr(dial, "open_socket", open_socket)
    connection = connect(inet4_bind_address="127.0.0.5", bind_address_no_port=no_port)
    assert connection.seen == "127.0.0.5"
    assert (ports == [0]) is no_port


def test_bind_interface(connect: Connect) -> None:
    try:
        connection = connect(bind_interface=LOOPBACK)
    except AnyTLSTimeout as exc:
        if "not permitted" not in str(exc):
            raise
        pytest.skip("not permitted here")
    assert connection.seen == "127.0.0.1"
    if sys.platform == "linux":
        name = connection.sock.getsockopt(socket.SOL_SOCKET, socket_options._SO_BINDTODEVICE, 16)
        assert name.rstrip(b"\0") == LOOPBACK.encode()


@linux_only
def test_bind_interface_decides_what_can_be_reached() -> None:
    with Namespace() as namespace, ServerInside(namespace, INSIDE) as server:
        with AnyTLSClient(server.outbound(bind_interface=namespace.interface)) as client:
            assert Connection(client, server).seen == HERE
        config = server.outbound(bind_interface=LOOPBACK, connect_timeout="300ms")
        with AnyTLSClient(config) as client, pytest.raises((DialError, AnyTLSTimeout)):
            client.create_connection(("127.0.0.1", 9), 5)


class ServerInside(AnyTLSServer):
    """A server that listens in a namespace."""

    def __init__(self, namespace: Namespace, host: str) -> None:
        super().__init__(host=host)
        self._namespace = namespace

    def start(self) -> None:
        self._namespace.call(super().start)

    def stop_listening(self) -> None:
        self._namespace.call(super().stop_listening)


@linux_only
@needs_root
@pytest.mark.parametrize(("mark", "number"), [(7, 7), ("0x1234", 0x1234), (None, 0)])
def test_routing_mark(connect: Connect, mark: object, number: int) -> None:
    connection = connect(routing_mark=mark)
    assert option(connection.sock, socket.SOL_SOCKET, socket_options._SO_MARK) == number


@linux_only
@needs_root
def test_what_needs_more_rights_says_so() -> None:
    """In a process of nobody's, since root may do everything."""
    code = """
import os, sys
from anytls_http import AnyTLSClient
def dial(**fields):
    config = {"server": "127.0.0.1", "server_port": 1, "password": "x", "tls": {"enabled": True}, **fields}
    with AnyTLSClient(config) as client:
        try:
            client.create_connection(("127.0.0.1", 9), 5)
        except OSError as exc:
            return f"{type(exc).__name__}: {exc}"
dial(netns=sys.argv[1])  # imports what is imported late: nobody may not be able to read it
os.setuid(65534)
print(dial(routing_mark=7))
print(dial(netns=sys.argv[1]))
"""
    with Namespace() as namespace:
        result = subprocess.run(
            [sys.executable, "-c", code, namespace.name], capture_output=True, text=True, check=True
        )
    mark, netns = result.stdout.splitlines()
    assert mark.startswith("DialError: could not connect to 127.0.0.1:1: not permitted to set routing_mark 7")
    assert netns == (
        "DialError: could not connect to 127.0.0.1:1: not permitted to enter the network namespace "
        f'"{namespace.name}" (EPERM): it needs root or CAP_SYS_ADMIN'
    )


# -- network namespaces -----------------------------------------------------------------------------------


@linux_only
def test_netns() -> None:
    with Namespace() as namespace, ServerInside(namespace, "127.0.0.1") as server:
        for netns in (namespace.name, namespace.path):
            with AnyTLSClient(server.outbound(netns=netns)) as client:
                assert Connection(client, server).seen == "127.0.0.1"
        # Its loopback isn't ours: without the field nobody listens there.
        with AnyTLSClient(server.outbound()) as client, pytest.raises(DialError, match="Connection refused"):
            client.create_connection(("127.0.0.1", 9), 5)
        # Other fields are of the same socket, and multi-path sockets are made inside as well.
        fields = {"netns": namespace.name, "inet4_bind_address": "127.0.0.9", "tcp_multi_path": True}
        with AnyTLSClient(server.outbound(**fields)) as client:
            assert Connection(client, server).seen == "127.0.0.9"


@linux_only
@needs_root
def test_a_namespace_that_is_none(server: AnyTLSServer, tmp_path: Any) -> None:
    file = tmp_path / "file"
    file.touch()
    for netns, words in (
        ("nowhere", 'there is no network namespace "nowhere": /run/netns/nowhere: No such file or directory'),
        (str(file), f"{file} is not a network namespace"),
    ):
        with (
            AnyTLSClient(server.outbound(netns=netns)) as client,
            pytest.raises(DialError, match=f": {words}$"),
        ):
            client.create_connection(("127.0.0.1", 9), 5)


# -- options of the socket --------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [False, True])
def test_reuse_addr(connect: Connect, reuse: bool) -> None:
    sock = connect(reuse_addr=reuse).sock
    assert bool(option(sock, socket.SOL_SOCKET, socket.SO_REUSEADDR)) is reuse


def test_keep_alive(connect: Connect) -> None:
    sock = connect(tcp_keep_alive="20s", tcp_keep_alive_interval="1m1s").sock
    assert option(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert socket_options._TCP_KEEPIDLE is not None
    assert socket_options._TCP_KEEPINTVL is not None
    assert option(sock, socket.IPPROTO_TCP, socket_options._TCP_KEEPIDLE) == 20
    assert option(sock, socket.IPPROTO_TCP, socket_options._TCP_KEEPINTVL) == 61


def test_keep_alive_by_default(connect: Connect) -> None:
    sock = connect().sock
    assert option(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert socket_options._TCP_KEEPIDLE is not None
    assert socket_options._TCP_KEEPINTVL is not None
    assert option(sock, socket.IPPROTO_TCP, socket_options._TCP_KEEPIDLE) == 300
    assert option(sock, socket.IPPROTO_TCP, socket_options._TCP_KEEPINTVL) == 75


def test_disable_tcp_keep_alive(connect: Connect) -> None:
    sock = connect(disable_tcp_keep_alive=True, tcp_keep_alive="20s").sock
    assert not option(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@linux_only
@pytest.mark.parametrize("kernel_has_it", [True, False])
def test_tcp_multi_path_is_asked_for_and_falls_back(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, kernel_has_it: bool
) -> None:
    asked: list[int] = []
    real = socket.socket

    class Spy(real):  # type: ignore[misc, valid-type]
        def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:
            if fileno is None and proto > 0:
                asked.append(proto)
                if proto == socket_options._IPPROTO_MPTCP and not kernel_has_it:
                    raise OSError(92, "Protocol not available")
            super().__init__(family, type, proto, fileno)

    monkeypatch.setattr(socket, "socket", Spy)
    connection = connect(tcp_multi_path=True)
    assert asked[0] == socket_options._IPPROTO_MPTCP
    if not kernel_has_it:
        assert asked[:2] == [socket_options._IPPROTO_MPTCP, socket.IPPROTO_TCP]
        assert connection.sock.proto == socket.IPPROTO_TCP
    elif len(asked) == 1:  # else this kernel has none, and what came was TCP
        assert option(connection.sock, socket.SOL_SOCKET, socket.SO_PROTOCOL) in (
            socket_options._IPPROTO_MPTCP,
            socket.IPPROTO_TCP,
        )
    assert option(connection.sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_without_multi_path_nothing_else_is_asked_for(connect: Connect) -> None:
    assert connect().sock.proto == socket.IPPROTO_TCP


# -- time -------------------------------------------------------------------------------------------------


def test_connect_timeout(server: AnyTLSServer) -> None:
    with FullBacklog() as port:
        config = server.outbound(server_port=port, connect_timeout="150ms")
        started = time.monotonic()
        with AnyTLSClient(config) as client, pytest.raises(AnyTLSTimeout, match=r"within 0\.\d+ s"):
            client.create_connection(("127.0.0.1", 9), 5)
        assert 0.14 < time.monotonic() - started < 0.4 + STARVED


@pytest.mark.parametrize("delay", [0.1, 0.3])
def test_fallback_delay(server: AnyTLSServer, monkeypatch: pytest.MonkeyPatch, delay: float) -> None:
    """The first address hangs: the request is still answered, and the attempt that lost is closed."""
    opened: list[socket.socket] = []
    real = dial.open_socket

    def open_socket(*args: Any) -> socket.socket:
        opened.append(real(*args))
        return opened[-1]

    monkeypatch.setattr(dial, "open_socket", open_socket)
    with FullBacklog() as hole:
        addresses = [
            (socket.AF_INET, ("127.0.0.1", hole)),
            (socket.AF_INET, ("127.0.0.1", server.port)),
        ]
        monkeypatch.setattr(dial, "resolve", lambda *args: list(addresses))
        config = server.outbound(server="two-addresses.test", fallback_delay=f"{round(delay * 1000)}ms")
        with AnyTLSClient(config) as client, socket.create_server(("127.0.0.1", 0)) as target:
            started = time.monotonic()
            sock = client.create_connection(target.getsockname(), 5, wait_open=True)
            assert delay * 0.9 < time.monotonic() - started < delay + 0.2 + STARVED
            assert len(opened) == 2
            assert opened[0].fileno() == -1, "the loser is closed"
            sock.close()


# -- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["domain_strategy", "domain_resolver"])
@pytest.mark.parametrize(
    ("strategy", "reached"),
    [("ipv4_only", "127.0.0.1"), ("ipv6_only", "::1"), ("prefer_ipv4", "127.0.0.1"), ("prefer_ipv6", "::1")],
)
def test_domain_strategy(
    server6: AnyTLSServer, monkeypatch: pytest.MonkeyPatch, place: str, strategy: str, reached: str
) -> None:
    def getaddrinfo(host: str, port: int, family: int = 0, *args: Any) -> list[Any]:
        both = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]
        return [each for each in both if family in (0, each[0])]

    with AnyTLSServer(port=server6.port) as server4:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        fields = (
            {place: strategy}
            if place == "domain_strategy"
            else {place: {"server": "local", "strategy": strategy}}
        )
        with AnyTLSClient(server4.outbound(server="both.test", **fields)) as client:
            client.wait_ready(1, 5)
            (session,) = client._pool.state.sessions
            peer = session._tls.peer_address
        assert peer is not None
        assert peer[0] == reached


# -- without effect, and refused --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, False])
def test_udp_fragment_is_accepted(connect: Connect, caplog: pytest.LogCaptureFixture, value: bool) -> None:
    assert connect(udp_fragment=value).seen == "127.0.0.1"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("name", "value"),
    [("network_strategy", "hybrid"), ("network_type", ["wifi"]), ("fallback_network_type", "cellular")],
)
def test_what_acts_in_graphical_clients_only_is_a_warning(
    connect: Connect, caplog: pytest.LogCaptureFixture, name: str, value: object
) -> None:
    assert connect(**{name: value}).seen == "127.0.0.1"
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [f"{name} has no effect: it acts in graphical clients only, as in sing-box"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"tcp_fast_open": True},
            "tcp_fast_open: is not supported with the anytls outbound, nor is it in sing-box",
        ),
        ({"protect_path": "/run/protect"}, "protect_path: is for Android only"),
    ],
)
def test_refused_before_anything_is_dialled(
    server: AnyTLSServer, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        AnyTLSClient(server.outbound(**fields))
    assert str(caught.value) == message
    assert not server.connections


@pytest.mark.parametrize(
    ("platform", "refused"),
    [
        ("win32", {"bind_interface", "routing_mark", "netns", "bind_address_no_port"}),
        ("darwin", {"routing_mark", "netns", "bind_address_no_port"}),
        ("linux", set()),
    ],
)
def test_what_the_platform_cannot_do_is_refused_at_construction(
    server: AnyTLSServer, monkeypatch: pytest.MonkeyPatch, platform: str, refused: set[str]
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    fields = {
        "bind_interface": "lo",
        "routing_mark": 7,
        "netns": "blue",
        "bind_address_no_port": True,
        "inet4_bind_address": "127.0.0.1",
        "reuse_addr": True,
        "tcp_multi_path": True,
    }
    for name, value in fields.items():
        if name in refused:
            with pytest.raises(
                ConfigError, match=rf"^{name}: is possible on .*, not on this platform \({platform}\)$"
            ):
                AnyTLSOutbound.from_dict(server.outbound(**{name: value}))
        else:
            AnyTLSOutbound.from_dict(server.outbound(**{name: value}))
