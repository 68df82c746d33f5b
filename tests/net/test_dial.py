from __future__ import annotations

import errno
import os
import select
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from anytls_http.errors import AnyTLSTimeout, DialError
from anytls_http.net import dial as module
from anytls_http.net import socket_options
from anytls_http.net.dial import connect_tcp
from anytls_http.net.resolve import Address
from tests.support.timing import STARVED

if TYPE_CHECKING:
    from anytls_http.config import DialOptions

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="an option of Linux")


def dial_options(**fields: Any) -> DialOptions:
    from anytls_http.config import DialOptions

    return DialOptions(**fields)


def _has_ipv6_loopback() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6_loopback(), reason="this machine has no ::1")


def open_descriptors() -> int:
    """How many descriptors this process has: those of sockets that were left open included."""
    return len(os.listdir("/dev/fd"))


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def stack(no_leak: None) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def listener(stack: ExitStack) -> Callable[..., socket.socket]:
    def listen(host: str = "127.0.0.1") -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return stack.enter_context(socket.create_server((host, 0), family=family))

    return listen


@pytest.fixture
def black_hole(stack: ExitStack, listener: Callable[..., socket.socket]) -> Callable[[], Address]:
    """An address that never answers a SYN: a listener whose backlog is full."""

    def fill() -> Address:
        sock = listener()
        sock.listen(0)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
            if not select.select([], [filler], [], 0.1)[1]:
                return socket.AF_INET, sock.getsockname()
        pytest.skip("this system answers though the backlog is full")

    return fill


@pytest.fixture
def refusing() -> Address:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return socket.AF_INET, sock.getsockname()


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a name have these addresses."""

    def install(*addresses: Address) -> None:
        monkeypatch.setattr(module, "resolve", lambda *args: list(addresses))

    return install


def at(sock: socket.socket) -> Address:
    return sock.family, sock.getsockname()


def connect(options: DialOptions | None = None, seconds: float = 5.0) -> socket.socket:
    return connect_tcp("proxy.example", 443, options or dial_options(), time.monotonic() + seconds)


# --- the race ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_connects(listener: Any, host: str) -> None:
    server = listener(host)
    with connect_tcp(host, server.getsockname()[1], dial_options(), None) as sock:
        accepted, address = server.accept()
        with accepted:
            assert address[:2] == sock.getsockname()[:2]
            assert not sock.getblocking()
            assert not sock.get_inheritable()
            with pytest.raises(BlockingIOError):
                sock.recv(1)
            accepted.sendall(b"ready")
            select.select([sock], [], [], 5)
            assert sock.recv(10) == b"ready"


def test_connects_to_a_name(listener: Any) -> None:
    server = listener()
    options = dial_options(domain_strategy="ipv4_only")
    with connect_tcp("localhost", server.getsockname()[1], options, time.monotonic() + 5) as sock:
        assert sock.getpeername() == server.getsockname()


def test_descriptors_above_1024(listener: Any, stack: ExitStack) -> None:
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1200:
        pytest.skip("this process may not have so many descriptors")
    server = listener()
    for _ in range(1100):
        os_fd = os.dup(server.fileno())
        stack.callback(os.close, os_fd)
    with connect_tcp("127.0.0.1", server.getsockname()[1], dial_options(), None) as sock:
        assert sock.fileno() > 1024


def test_one_refusing_address(refusing: Address) -> None:
    host, port = refusing[1][:2]
    with pytest.raises(DialError) as caught:
        connect_tcp(host, port, dial_options(), time.monotonic() + 5)
    assert str(caught.value) == f"could not connect to {host}:{port}: Connection refused"


def test_all_refuse_and_each_is_listed(resolved: Any) -> None:
    resolved((socket.AF_INET, ("127.0.0.1", 1)), (socket.AF_INET, ("127.0.0.2", 1)))
    started = time.monotonic()
    with pytest.raises(DialError) as caught:
        connect(dial_options(fallback_delay=2.0))
    assert str(caught.value) == (
        "could not connect to proxy.example:443: "
        "127.0.0.1:1: Connection refused; 127.0.0.2:1: Connection refused"
    )
    assert time.monotonic() - started < 1 + STARVED, "the next address is tried at once when one fails"


def test_a_refusal_moves_on_at_once(listener: Any, refusing: Address, resolved: Any) -> None:
    server = listener()
    resolved(refusing, at(server))
    started = time.monotonic()
    with connect(dial_options(fallback_delay=3.0)) as sock:
        assert sock.getpeername() == server.getsockname()
    assert time.monotonic() - started < 1 + STARVED


def test_a_black_hole_costs_the_fallback_delay(listener: Any, black_hole: Any, resolved: Any) -> None:
    server = listener()
    resolved(black_hole(), at(server))
    started = time.monotonic()
    with connect(dial_options(fallback_delay=0.3)) as sock:
        took = time.monotonic() - started
        assert sock.getpeername() == server.getsockname()
    assert 0.3 <= took < 0.5 + STARVED


def test_a_refusal_after_a_black_hole_moves_on_at_once(
    listener: Any, black_hole: Any, refusing: Address, resolved: Any
) -> None:
    server = listener()
    resolved(black_hole(), refusing, at(server))
    started = time.monotonic()
    with connect(dial_options(fallback_delay=0.2)) as sock:
        assert sock.getpeername() == server.getsockname()
    assert 0.2 <= time.monotonic() - started < 0.4 + STARVED


def test_the_second_attempt_does_not_end_the_first(
    listener: Any, black_hole: Any, resolved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers after the fallback delay still wins over one that never does."""
    server = listener()
    server.listen(0)
    with socket.create_connection(server.getsockname()) as filler:
        resolved(at(server), black_hole())
        start = module._Race._start

        def make_room(race: Any, *args: Any) -> Any:
            if args[1] != server.getsockname():
                server.accept()[0].close()  # The kernel's next SYN, after 1 s, gets its answer.
            return start(race, *args)

        monkeypatch.setattr(module._Race, "_start", make_room)
        with connect(dial_options(fallback_delay=0.1)) as sock:
            assert sock.getpeername() == server.getsockname()
        assert filler.getpeername() == server.getsockname()


@needs_ipv6
def test_the_families_take_turns() -> None:
    v4 = [(socket.AF_INET, (f"192.0.2.{n}", 443)) for n in range(3)]
    v6 = [(socket.AF_INET6, (f"2001:db8::{n}", 443, 0, 0)) for n in range(2)]
    assert module._interleaved([*v6, *v4]) == [v6[0], v4[0], v6[1], v4[1], v4[2]]
    assert module._interleaved([v4[0], *v6, *v4[1:]]) == [v4[0], v6[0], v4[1], v6[1], v4[2]]


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_no_ipv6_here_is_one_address_that_fails(
    listener: Any, resolved: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class NoIPv6(socket.socket):
        def __init__(self, family: int = -1, *args: Any, **kwargs: Any) -> None:
            if family == socket.AF_INET6 and code == errno.EAFNOSUPPORT:
                raise OSError(code, os.strerror(code))
            super().__init__(family, *args, **kwargs)

        def connect_ex(self, address: Any) -> int:
            return code if self.family == socket.AF_INET6 else super().connect_ex(address)

    server = listener()
    monkeypatch.setattr(socket, "socket", NoIPv6)
    resolved((socket.AF_INET6, ("2001:db8::1", 443, 0, 0)), at(server))
    with connect() as sock:
        assert sock.getpeername() == server.getsockname()
    resolved((socket.AF_INET6, ("2001:db8::1", 443, 0, 0)))
    with pytest.raises(DialError, match=r"\[2001:db8::1\]:443: " + os.strerror(code)):
        connect()


@pytest.mark.parametrize("where", ["connect_ex", "getpeername"])
def test_a_system_call_that_fails_is_that_address_failing(
    listener: Any, resolved: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A scope that is gone, or a connection that was reset the moment it was there."""

    def fail(*args: Any) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    resolved(at(listener()))
    monkeypatch.setattr(socket.socket, where, fail)
    with pytest.raises(DialError, match=os.strerror(errno.ENOTCONN)):
        connect()


def test_a_socket_that_meets_itself_is_a_refusal(listener: Any, resolved: Any) -> None:
    """TCP's simultaneous open: source and destination are the same port, and nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
    resolved((socket.AF_INET, (host, port)))

    class BoundToTarget(socket.socket):
        def connect_ex(self, address: Any) -> int:
            self.bind(address)
            return super().connect_ex(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", BoundToTarget)
        with pytest.raises(DialError, match="Connection refused"):
            connect(dial_options(reuse_addr=True))


# --- time -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "connect_timeout"), [(0.2, 5.0), (5.0, 0.2)])
def test_nobody_answers_in_time(
    black_hole: Any, refusing: Address, resolved: Any, seconds: float, connect_timeout: float
) -> None:
    resolved(black_hole(), refusing)
    started = time.monotonic()
    with pytest.raises(AnyTLSTimeout) as caught:
        connect(dial_options(connect_timeout=connect_timeout, fallback_delay=0.05), seconds)
    assert 0.2 <= time.monotonic() - started < 0.3 + STARVED
    assert str(caught.value) == (
        "no answer from proxy.example:443 within 0.2 s "
        f"({refusing[1][0]}:{refusing[1][1]}: Connection refused)"
    )


def test_a_deadline_in_the_past(listener: Any) -> None:
    server = listener()
    with pytest.raises(AnyTLSTimeout):
        connect_tcp("127.0.0.1", server.getsockname()[1], dial_options(), time.monotonic() - 1)
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept()


def test_the_lookup_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def slow(host: str, port: int, strategy: str, deadline: float, *others: object) -> list[Address]:
        seen.append(deadline)
        raise AnyTLSTimeout("slow")

    monkeypatch.setattr(module, "resolve", slow)
    started = time.monotonic()
    with pytest.raises(AnyTLSTimeout, match="slow"):
        connect_tcp("proxy.example", 443, dial_options(connect_timeout=3.0), None)
    assert seen[0] - started == pytest.approx(3.0, abs=0.1)


# --- nothing is left open ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_exception_closes_everything(
    black_hole: Any, resolved: Any, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    address = black_hole()
    resolved(address, address)

    def interrupted(selector: Any, timeout: float | None = None) -> Any:
        if len(selector.get_map()) == 2:
            raise error
        return []

    before = open_descriptors()
    monkeypatch.setattr(selectors.PollSelector, "select", interrupted)
    with pytest.raises(error):
        connect(dial_options(fallback_delay=0.0))
    assert open_descriptors() == before


@pytest.mark.parametrize("where", ["setsockopt", "connect_ex"])
def test_an_exception_while_an_attempt_starts(
    resolved: Any, refusing: Address, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    resolved(refusing)
    monkeypatch.setattr(socket.socket, where, interrupt)
    before = open_descriptors()
    with pytest.raises(KeyboardInterrupt):
        connect()
    assert open_descriptors() == before


@pytest.mark.parametrize("multi_path", [False, True])
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_no_descriptor_left(
    resolved: Any, refusing: Address, monkeypatch: pytest.MonkeyPatch, code: int, multi_path: bool
) -> None:
    def full(*args: Any, **kwargs: Any) -> socket.socket:
        raise OSError(code, os.strerror(code))

    resolved(refusing)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", full)
        with pytest.raises(DialError, match="has no file descriptor left"):
            connect(dial_options(tcp_multi_path=multi_path))


# --- socket options ---------------------------------------------------------------------------------------


@pytest.fixture
def dialled(listener: Any, stack: ExitStack) -> Callable[..., socket.socket]:
    def dial(host: str = "127.0.0.1", **fields: Any) -> socket.socket:
        server = listener(host)
        options = dial_options(**fields)
        return stack.enter_context(connect_tcp(host, server.getsockname()[1], options, time.monotonic() + 5))

    return dial


def test_default_options(dialled: Any) -> None:
    sock = dialled()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket_options._TCP_KEEPIDLE) == 300
    assert sock.getsockopt(socket.IPPROTO_TCP, socket_options._TCP_KEEPINTVL) == 75
    assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@pytest.mark.parametrize(
    ("seconds", "value"), [(20.0, 20), (0.1, 1), pytest.param(86400.0, 32767, marks=linux_only)]
)
def test_keep_alive_times(dialled: Any, seconds: float, value: int) -> None:
    sock = dialled(tcp_keep_alive=seconds, tcp_keep_alive_interval=seconds)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket_options._TCP_KEEPIDLE) == value
    assert sock.getsockopt(socket.IPPROTO_TCP, socket_options._TCP_KEEPINTVL) == value


def test_no_keep_alive(dialled: Any) -> None:
    assert not dialled(disable_tcp_keep_alive=True).getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_reuse_addr(dialled: Any) -> None:
    assert dialled(reuse_addr=True).getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@linux_only
@pytest.mark.parametrize("no_port", [False, True])
def test_bind_address_of_the_family(dialled: Any, no_port: bool) -> None:
    fields = {"inet4_bind_address": "127.0.0.3", "inet6_bind_address": "::1", "bind_address_no_port": no_port}
    sock = dialled(**fields)
    assert sock.getsockname()[0] == "127.0.0.3"
    assert sock.getsockopt(socket.IPPROTO_IP, socket_options._IP_BIND_ADDRESS_NO_PORT) == no_port


@needs_ipv6
@pytest.mark.parametrize("no_port", [False, pytest.param(True, marks=linux_only)])
def test_ipv6_bind_address(dialled: Any, no_port: bool) -> None:
    sock = dialled(
        "::1", inet4_bind_address="127.0.0.3", inet6_bind_address="::1", bind_address_no_port=no_port
    )
    assert sock.getsockname()[0] == "::1"


def test_a_bind_address_that_is_not_ours(listener: Any) -> None:
    server = listener()
    options = dial_options(inet4_bind_address="192.0.2.77")
    with pytest.raises(DialError, match=r"cannot bind to the source address 192\.0\.2\.77: "):
        connect_tcp("127.0.0.1", server.getsockname()[1], options, None)


@linux_only
def test_bind_interface(dialled: Any) -> None:
    try:
        sock = dialled(bind_interface="lo")
    except DialError as exc:
        assert "not permitted to bind to the network interface" in str(exc)
        pytest.skip("not permitted here")
    assert sock.getsockopt(socket.SOL_SOCKET, socket_options._SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"


@linux_only
def test_an_interface_that_is_not_there(dialled: Any) -> None:
    with pytest.raises(DialError, match='network interface "nosuch0"'):
        dialled(bind_interface="nosuch0")


@pytest.fixture
def refused_option(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the kernel refuse one socket option."""

    def install(option: int | None, code: int) -> None:
        setsockopt = socket.socket.setsockopt

        def refuse(sock: socket.socket, level: int, number: int, value: Any) -> None:
            if option is None or (number == option and level != socket.IPPROTO_TCP):
                raise OSError(code, os.strerror(code))
            setsockopt(sock, level, number, value)

        monkeypatch.setattr(socket.socket, "setsockopt", refuse)

    return install


@linux_only
@pytest.mark.parametrize(
    ("fields", "option", "message"),
    [
        ({"bind_interface": "eth0"}, socket_options._SO_BINDTODEVICE, "root or CAP_NET_RAW"),
        ({"routing_mark": 7}, socket_options._SO_MARK, "routing_mark 7: it needs root or CAP_NET_ADMIN"),
    ],
)
def test_what_needs_more_rights_says_so(
    dialled: Any, refused_option: Any, fields: dict[str, Any], option: int, message: str
) -> None:
    refused_option(option, errno.EPERM)
    with pytest.raises(DialError, match=message):
        dialled(**fields)


@linux_only
def test_routing_mark(dialled: Any) -> None:
    try:
        sock = dialled(routing_mark=0x1234)
    except DialError as exc:
        assert "it needs root or CAP_NET_ADMIN" in str(exc)
        pytest.skip("not permitted here")
    assert sock.getsockopt(socket.SOL_SOCKET, socket_options._SO_MARK) == 0x1234


def test_an_option_that_is_refused(dialled: Any, refused_option: Any) -> None:
    refused_option(None, errno.ENOPROTOOPT)
    with pytest.raises(DialError, match="a socket option was refused: "):
        dialled()


@pytest.mark.parametrize(
    "fields",
    [
        {"routing_mark": 1},
        {"bind_interface": "en0"},
        {"inet4_bind_address": "127.0.0.1", "bind_address_no_port": True},
    ],
)
def test_other_platforms_refuse_what_they_have_not(
    dialled: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    with pytest.raises(DialError, match="not possible on plan9"):
        dialled(**fields)


def test_multi_path(dialled: Any) -> None:
    """Where the kernel has no multi-path TCP it is plain TCP; the connection is there in both cases."""
    sock = dialled(tcp_multi_path=True)
    assert sock.proto in (socket_options._IPPROTO_MPTCP, socket.IPPROTO_TCP)


@pytest.mark.parametrize("code", [errno.EPROTONOSUPPORT, errno.EINVAL, errno.ENOPROTOOPT])
def test_multi_path_falls_back_to_tcp(dialled: Any, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    class NoMultiPath(socket.socket):
        def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:
            if proto == socket_options._IPPROTO_MPTCP:
                raise OSError(code, os.strerror(code))
            super().__init__(family, type, proto, fileno)

    monkeypatch.setattr(socket, "socket", NoMultiPath)
    assert dialled(tcp_multi_path=True).proto == socket.IPPROTO_TCP
