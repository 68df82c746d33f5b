"""``detour``: the server reached through the real sing-box, as SOCKS and HTTP proxy and as AnyTLS server."""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anytls_http import AnyTLSClient, AnyTLSOutbound
from anytls_http import client as client_module
from anytls_http.errors import (
    AnyTLSTimeout,
    AuthenticationError,
    CertificateError,
    ClientClosed,
    ConfigError,
    DialError,
)
from anytls_http.testing import AnyTLSServer, Site
from tests.fields.upstreams import PASSWORD, USER, Upstream
from tests.sockets.targets import FullBacklog
from tests.support.singbox import SingBoxServer, free_port, skip_without_singbox
from tests.support.timing import LATE, STARVED, wait_until

pytestmark = skip_without_singbox


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as running:
        yield running


def get(client: AnyTLSClient, site: Site) -> bytes:
    """Do one small request through the client; return the first line of the answer."""
    with client.create_connection((site.host, site.port), 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n")
        with sock.makefile("rb") as file:
            return bytes(file.readline())


def seen(upstream: Upstream, kind: str, port: int) -> bool:
    """Whether the upstream's log has a connection to this port of an inbound of this kind."""
    lines = upstream.log().splitlines()
    return any(f"inbound/{kind}[" in line and line.endswith(f":{port}") for line in lines)


# -- one hop ----------------------------------------------------------------------------------------------

HOPS: list[tuple[str, Callable[[Upstream], dict[str, Any]]]] = [
    ("mixed", lambda up: up.proxy("socks")),
    ("mixed", lambda up: up.proxy("socks", version="4a")),
    ("mixed", lambda up: up.proxy("socks", version="5", user=True)),
    ("mixed", lambda up: up.proxy("http")),
    ("mixed", lambda up: up.proxy("http", user=True, headers={"X-Hop": ["1", "2"]})),
    ("anytls", lambda up: up.anytls()),
]
NAMES = ["socks", "socks-4a", "socks-user", "http", "http-user", "anytls"]


@pytest.mark.parametrize(("kind", "hop"), HOPS, ids=NAMES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_server_is_reached_through_it(
    upstream: Upstream,
    server: AnyTLSServer,
    site: Site,
    kind: str,
    hop: Callable[[Upstream], dict[str, Any]],
    host: str,
) -> None:
    outbound = server.outbound(server=host, detour="up")
    with AnyTLSClient(outbound, outbounds=[hop(upstream)]) as client:
        assert get(client, site) == b"HTTP/1.1 200 OK\r\n"
        assert get(client, site) == b"HTTP/1.1 200 OK\r\n"
        assert client.stats().created["demand"] == 1, "the second one has used the same session"
    # The name, not an address: the hop looks it up.
    wait_until(lambda: f"{host}:{server.port}" in upstream.log())
    assert seen(upstream, kind, server.port)


def test_a_direct_hop_has_dial_fields_of_its_own(server: AnyTLSServer, site: Site) -> None:
    outbounds = [{"type": "direct", "tag": "up", "inet4_bind_address": "127.0.0.7"}]
    with (
        AnyTLSClient(server.outbound(detour="up"), outbounds=outbounds) as client,
        client.create_connection((site.host, site.port), 5) as sock,
    ):
        assert sock.getsockname()[0] == "127.0.0.7"


def test_both_servers_may_be_sing_box(upstream: Upstream, site: Site) -> None:
    with (
        SingBoxServer() as inner,
        AnyTLSClient(inner.outbound(detour="up"), outbounds=[upstream.anytls()]) as client,
    ):
        assert get(client, site) == b"HTTP/1.1 200 OK\r\n"
        assert seen(upstream, "anytls", inner.port)


def test_much_data_both_ways(upstream: Upstream, server: AnyTLSServer) -> None:
    data = bytes(range(256)) * 40_000
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        AnyTLSClient(server.outbound(detour="up"), outbounds=[upstream.anytls()]) as client,
        client.create_connection(listener.getsockname(), 20) as sock,
    ):
        sock.sendall(data[:1])
        target, _ = listener.accept()
        with target:
            target.settimeout(20)
            echo = threading.Thread(target=_echo, args=(target, len(data)), daemon=True)
            echo.start()
            sender = threading.Thread(target=sock.sendall, args=(data[1:],), daemon=True)
            sender.start()
            back = bytearray()
            while len(back) < len(data):
                back += sock.recv(65536)
            sender.join(5)
            echo.join(5)
    assert back == data


def _echo(target: socket.socket, count: int) -> None:
    while count:
        data = target.recv(65536)
        target.sendall(data)
        count -= len(data)


def test_a_stream_through_a_chain_can_be_a_real_socket(
    upstream: Upstream, server: AnyTLSServer, site: Site
) -> None:
    """The thread that relays for the hop relays for the stream in it too."""
    with (
        AnyTLSClient(server.outbound(detour="up"), outbounds=[upstream.anytls()]) as client,
        client.create_connection((site.host, site.port), 5).as_socket() as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


# -- chains -----------------------------------------------------------------------------------------------


def test_a_chain(upstream: Upstream, server: AnyTLSServer, site: Site) -> None:
    outbounds = [
        upstream.proxy("http", user=True, tag="first"),
        upstream.anytls(tag="second", detour="first"),
        {"type": "direct", "tag": "third", "detour": "second"},
        upstream.proxy("socks", tag="fourth", detour="third"),
    ]
    with AnyTLSClient(server.outbound(detour="fourth"), outbounds=outbounds) as client:
        assert get(client, site) == b"HTTP/1.1 200 OK\r\n"
    assert seen(upstream, "mixed", upstream.anytls_port)
    assert seen(upstream, "anytls", upstream.port)
    assert seen(upstream, "mixed", server.port)


def test_a_chain_in_a_file(
    upstream: Upstream, server: AnyTLSServer, site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = {
        "outbounds": [
            {"type": "selector", "tag": "s", "outbounds": ["inner"]},
            server.outbound(tag="inner", detour="up"),
            upstream.anytls(),
        ]
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(document))
    # "up" only serves as the detour of "inner", so that the tag isn't needed.
    outbound = AnyTLSOutbound.from_file(path)
    assert outbound == AnyTLSOutbound.from_file(path, "inner")
    with AnyTLSClient(outbound) as client:
        assert get(client, site) == b"HTTP/1.1 200 OK\r\n"
    assert seen(upstream, "anytls", server.port)


# -- the sessions of an AnyTLS hop ------------------------------------------------------------------------


def test_the_hop_is_one_client_with_its_own_options_and_ends_with_ours(site: Site) -> None:
    with AnyTLSServer() as outer, AnyTLSServer() as inner:
        hop = outer.outbound(tag="up", ensure_idle_session=2, idle_session_timeout="100s")
        with AnyTLSClient(inner.outbound(detour="up"), outbounds=[hop]) as client:
            get(client, site)
            # One in use by the session inside, and two that are kept warm.
            assert outer.wait_for(lambda: len(outer.live_sessions) == 3)
            for _ in range(4):
                inner.close_sessions()
                assert inner.wait_for(lambda: not inner.live_sessions)
                wait_until(lambda: client.stats().total == 0)
                get(client, site)
            # The sessions outside, which had lost their streams, were used again.
            assert len(inner.connections) == 5
            assert len(outer.connections) <= 4
        assert outer.wait_for(lambda: not outer.live_sessions)
        assert inner.wait_for(lambda: not inner.live_sessions)


def test_warm_sessions_come_by_the_same_way(site: Site) -> None:
    with AnyTLSServer() as outer, AnyTLSServer() as inner:
        outbound = inner.outbound(detour="up", ensure_idle_session=3)
        with AnyTLSClient(outbound, outbounds=[outer.outbound(tag="up")]) as client:
            client.wait_ready(3, 5)
            assert inner.wait_for(lambda: len(inner.live_sessions) == 3)
            assert len(outer.live_sessions) == 3


def test_a_client_that_is_dropped_takes_its_hop_along(site: Site) -> None:
    with AnyTLSServer() as outer, AnyTLSServer() as inner:
        client = AnyTLSClient(inner.outbound(detour="up"), outbounds=[outer.outbound(tag="up")])
        assert get(client, site) == b"HTTP/1.1 200 OK\r\n"
        assert outer.live_sessions
        del client
        assert outer.wait_for(lambda: not outer.live_sessions)


def test_two_clients_may_share_a_configuration(site: Site) -> None:
    with AnyTLSServer() as outer, AnyTLSServer() as inner:
        outbound = AnyTLSOutbound.from_dict(
            inner.outbound(detour="up"), outbounds=[AnyTLSOutbound.from_dict(outer.outbound(tag="up"))]
        )
        with AnyTLSClient(outbound) as first, AnyTLSClient(outbound) as second:
            get(first, site)
            first.close()
            assert get(second, site) == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_dials_the_whole_way_anew(site: Site) -> None:
    with (
        AnyTLSServer() as outer,
        AnyTLSServer() as inner,
        AnyTLSClient(inner.outbound(detour="up"), outbounds=[outer.outbound(tag="up")]) as client,
    ):
        get(client, site)
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if get(client, site) == b"HTTP/1.1 200 OK\r\n" else 1)
            except BaseException:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert get(client, site) == b"HTTP/1.1 200 OK\r\n"
        assert client.stats().created["demand"] == 1
        assert len(outer.connections) == len(inner.connections) == 2


def test_a_hop_of_version_1_gives_no_word_and_is_waited_for_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "VERSION_1_AFTER", 0.4)
    with (
        AnyTLSServer(version=1) as outer,
        AnyTLSServer() as inner,
        AnyTLSClient(inner.outbound(detour="up"), outbounds=[outer.outbound(tag="up")]) as client,
        client.create_connection((site.host, site.port), 5) as first,
    ):
        first.sendall(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
        assert first.recv(100)
        started = time.monotonic()
        assert get(client, site) == b"HTTP/1.1 200 OK\r\n"
        assert time.monotonic() - started < 0.3 + STARVED
        assert client.stats().created["demand"] == 2


def test_httpx_and_requests_go_the_same_way(site: Site) -> None:
    httpx = pytest.importorskip("httpx")
    requests = pytest.importorskip("requests")
    from anytls_http import AnyTLSAdapter, AnyTLSTransport

    url = f"http://{site.host}:{site.port}/"
    with AnyTLSServer() as outer, AnyTLSServer() as inner:
        outbound = AnyTLSOutbound.from_dict(inner.outbound(detour="up"), outbounds=[outer.outbound(tag="up")])
        with httpx.Client(transport=AnyTLSTransport(outbound)) as http:
            assert http.get(url).status_code == 200
        with requests.Session() as session:
            session.mount("http://", pickle.loads(pickle.dumps(AnyTLSAdapter(outbound))))
            assert session.get(url).status_code == 200
        assert len(outer.connections) == len(inner.connections) == 2


# -- what goes wrong --------------------------------------------------------------------------------------


def failure(outbound: dict[str, Any], hop: dict[str, Any], timeout: float = 10) -> Exception:
    with AnyTLSClient(outbound, outbounds=[hop]) as client, pytest.raises(OSError) as caught:
        client.create_connection(("127.0.0.1", 9), timeout, wait_open=True)
    assert PASSWORD not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("socks", "it refused the username and password"),
        ("http", "it answered: 407 Proxy Authentication Required"),
    ],
)
def test_a_wrong_proxy_password(upstream: Upstream, server: AnyTLSServer, kind: str, words: str) -> None:
    hop = upstream.proxy(kind, user=True, password="wrong")
    error = failure(server.outbound(detour="up"), hop)
    assert type(error) is DialError
    assert str(error) == (
        f"detour up ({kind}, 127.0.0.1:{upstream.user_port}): "
        f"could not reach 127.0.0.1:{server.port} through it: {words}"
    )
    assert not server.connections


@pytest.mark.parametrize(
    ("kind", "words"), [("socks", "it wants a username and a password"), ("http", "407")]
)
def test_a_proxy_that_wants_a_user(upstream: Upstream, server: AnyTLSServer, kind: str, words: str) -> None:
    hop = upstream.proxy(kind, server_port=upstream.user_port)
    assert words in str(failure(server.outbound(detour="up"), hop))


def test_a_wrong_password_of_an_anytls_hop(upstream: Upstream, server: AnyTLSServer) -> None:
    error = failure(server.outbound(detour="up"), upstream.anytls(password="wrong"))
    assert type(error) is AuthenticationError
    assert str(error).startswith(f"detour up (anytls, 127.0.0.1:{upstream.anytls_port}): ")


def test_a_wrong_certificate_of_an_anytls_hop(upstream: Upstream, server: AnyTLSServer) -> None:
    error = failure(server.outbound(detour="up"), upstream.anytls(tls={"enabled": True}))
    assert type(error) is CertificateError
    assert str(error).startswith(f"detour up (anytls, 127.0.0.1:{upstream.anytls_port}): ")


@pytest.mark.parametrize(("kind", "hop"), HOPS, ids=NAMES)
def test_a_server_that_the_hop_cannot_reach(
    upstream: Upstream, server: AnyTLSServer, kind: str, hop: Callable[[Upstream], dict[str, Any]]
) -> None:
    port = free_port()
    started = time.monotonic()
    error = failure(server.outbound(server_port=port, detour="up"), hop(upstream))
    assert type(error) is DialError
    # sing-box's HTTP proxy says 200 before it has tried: then the error is one of the handshake.
    assert "detour up (" in str(error)
    assert f"127.0.0.1:{port}" in str(error)
    assert time.monotonic() - started < 5 + STARVED


@pytest.mark.parametrize("kind", ["socks", "http", "anytls"])
def test_a_hop_that_is_not_there(server: AnyTLSServer, kind: str) -> None:
    hop = server.outbound(tag="up") if kind == "anytls" else {"type": kind, "tag": "up"}
    hop |= {"server": "127.0.0.1", "server_port": free_port()}
    error = failure(server.outbound(detour="up"), hop)
    assert type(error) is DialError
    assert str(error) == (
        f"detour up ({kind}, 127.0.0.1:{hop['server_port']}): "
        f"could not connect to 127.0.0.1:{hop['server_port']}: Connection refused"
    )


@pytest.mark.parametrize("kind", ["socks", "http", "anytls"])
def test_a_hop_that_says_nothing_costs_the_callers_time_and_no_more(server: AnyTLSServer, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hop = server.outbound(tag="up") if kind == "anytls" else {"type": kind, "tag": "up"}
        hop |= {"server": "127.0.0.1", "server_port": mute.getsockname()[1]}
        started = time.monotonic()
        error = failure(server.outbound(detour="up"), hop, timeout=0.3)
        assert 0.25 < time.monotonic() - started < 0.3 + LATE
        assert type(error) is AnyTLSTimeout
        assert str(error).startswith(f"detour up ({kind}, ")


def test_a_hop_in_a_black_hole_is_given_up_after_its_own_connect_timeout(server: AnyTLSServer) -> None:
    with FullBacklog() as port:
        hop = {"type": "socks", "tag": "up", "server": "127.0.0.1", "server_port": port}
        started = time.monotonic()
        error = failure(server.outbound(detour="up"), {**hop, "connect_timeout": "200ms"}, timeout=5)
        assert time.monotonic() - started < 0.2 + LATE
        assert isinstance(error, AnyTLSTimeout)


@pytest.mark.parametrize("kind", ["socks", "http", "anytls"])
def test_closing_the_client_wakes_who_waits_for_the_hop(server: AnyTLSServer, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        hop = server.outbound(tag="up") if kind == "anytls" else {"type": kind, "tag": "up"}
        hop |= {"server": "127.0.0.1", "server_port": mute.getsockname()[1]}
        errors: list[BaseException] = []
        client = AnyTLSClient(server.outbound(detour="up"), outbounds=[hop])

        def use() -> None:
            try:
                client.create_connection(("127.0.0.1", 9), 10)
            except BaseException as exc:
                errors.append(exc)

        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        connection, _ = mute.accept()
        with connection:
            started = time.monotonic()
            client.close()
            thread.join(5)
            assert time.monotonic() - started < LATE
    assert [type(error) for error in errors] == [ClientClosed]


# -- the configuration ------------------------------------------------------------------------------------

TAIL = {"server": "127.0.0.1", "server_port": 1}


def refusal(detour: str, *outbounds: Any, **own: Any) -> str:
    with AnyTLSServer() as server:
        config = server.outbound(detour=detour, **own)
    with pytest.raises(ConfigError) as caught:
        AnyTLSClient(config, outbounds=outbounds)
    return str(caught.value)


def test_a_missing_tag_is_refused() -> None:
    assert refusal("up") == 'detour: there is no outbound with the tag "up"; the tags are: none'
    message = refusal("a", {"type": "socks", "tag": "a", "detour": "b", **TAIL}, {"type": "direct"})
    assert message == (
        'detour: outbounds[0].detour: there is no outbound with the tag "b"; the tags are: "a", "1"'
    )


def test_a_tag_that_two_have_is_refused() -> None:
    a = {"type": "socks", "tag": "a", **TAIL}
    assert refusal("a", a, {"type": "direct"}, a) == 'detour: outbounds[0], [2]: several have the tag "a"'


def test_a_dns_server_that_shares_its_tag_is_refused() -> None:
    servers = [{"type": "local", "tag": "d"}, {"type": "udp", "tag": "d", "server": "192.0.2.1"}]
    outbound = {"server": "127.0.0.1", "server_port": 1, "password": "x", "tls": {"enabled": True}}
    with pytest.raises(ConfigError, match=r'dns\.servers\[0\], \[1\]: several have the tag "d"$'):
        AnyTLSOutbound.from_dict({**outbound, "domain_resolver": "d"}, dns_servers=servers)


def test_a_loop_is_refused() -> None:
    a = {"type": "socks", "tag": "a", "detour": "b", **TAIL}
    b = {"type": "http", "tag": "b", "detour": "a", **TAIL}
    assert refusal("a", a, b) == "detour: outbounds[0].detour: outbounds[1].detour: a loop: a -> b -> a"
    assert refusal("me", tag="me") == "detour: a loop: me -> me"
    itself = {"type": "direct", "tag": "a", "detour": "a"}
    assert refusal("a", itself) == "detour: outbounds[0].detour: a loop: a -> a"


def test_a_loop_over_the_outbound_itself_is_refused_in_a_file(tmp_path: Path) -> None:
    with AnyTLSServer() as server:
        first = server.outbound(tag="first", detour="second")
        second = server.outbound(tag="second", detour="first")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"outbounds": [first, second]}))
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_file(path, "first")
    assert str(caught.value) == (
        f"{path}: outbounds[0].detour: outbounds[1].detour: a loop: first -> second -> first"
    )
    path.write_text(json.dumps({"outbounds": [{**first, "detour": "nowhere"}]}))
    with pytest.raises(ConfigError, match=r'outbounds\[0\]\.detour: there is no outbound .* "first"$'):
        AnyTLSOutbound.from_file(path)


@pytest.mark.parametrize(
    ("hop", "message"),
    [
        (
            {"type": "vmess"},
            'type: got "vmess" (a string), a detour takes one of "anytls", "direct", "socks", "http"',
        ),
        ({}, 'type: got null, a detour takes one of "anytls", "direct", "socks", "http"'),
        ({"type": "socks"}, "server: is required: the host name or IP address of the SOCKS proxy"),
        ({"type": "http", "server": "h"}, "server_port: is required: an integer from 1 to 65535"),
        ({"type": "anytls", **TAIL, "password": "x"}, "tls.enabled must be true: AnyTLS requires TLS"),
        ({"type": "socks", **TAIL, "version": "6"}, 'version: got "6", takes one of "4", "4a", "5"'),
        ({"type": "socks", **TAIL, "network": "udp"}, 'network: takes "tcp" here: the tunnel is TCP'),
        ({"type": "socks", **TAIL, "password": "x"}, "username: is required with a password"),
        (
            {"type": "socks", **TAIL, "version": "4a", "username": "u", "password": "x"},
            "password: SOCKS 4a knows no password, only a username",
        ),
        (
            {"type": "socks", **TAIL, "username": "u" * 256},
            "username: takes at most 255 bytes, as SOCKS does",
        ),
        ({"type": "socks", **TAIL, "usrname": "u"}, 'usrname: unknown field, did you mean "username"?'),
        ({"type": "http", **TAIL, "path": "/x"}, "path: is not supported yet"),
        (
            {"type": "http", **TAIL, "tls": {"enabled": True}},
            "tls: an HTTP proxy that is reached by TLS is not supported yet",
        ),
        (
            {"type": "http", **TAIL, "headers": {"A": "x\r\nB: y"}},
            "headers.A: takes printable ASCII characters",
        ),
        ({"type": "http", **TAIL, "headers": {"A b": "x"}}, 'headers: "A b" is no name of a header'),
        (
            {"type": "http", **TAIL, "username": "a:b"},
            "username: must not have a colon: HTTP's Basic authentication ends it there",
        ),
        ({"type": "direct", "override_port": 1}, "override_port: unknown field"),
        ({"type": "direct", "tcp_fast_open": True}, "tcp_fast_open: is not supported"),
    ],
)
def test_what_is_wrong_in_a_hop_is_named(hop: dict[str, Any], message: str) -> None:
    got = refusal("up", {"type": "direct", "tag": "other"}, {"tag": "up", **hop})
    assert got.startswith(f"detour: outbounds[1].{message}")


def test_what_is_not_on_the_way_is_not_looked_at(server: AnyTLSServer) -> None:
    outbounds = [{"type": "vmess", "nonsense": 1}, {"type": "direct", "tag": "up"}]
    AnyTLSClient(server.outbound(detour="up"), outbounds=outbounds).close()
    AnyTLSClient(server.outbound(), outbounds=outbounds).close()
    assert refusal("up", "anytls://x") == "outbounds[0]: got a string, takes an object"


def test_other_dial_fields_are_without_effect_and_that_is_said(
    upstream: Upstream, server: AnyTLSServer, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    outbound = server.outbound(detour="up", inet4_bind_address="192.0.2.1", connect_timeout="1ms")
    with AnyTLSClient(outbound, outbounds=[upstream.proxy("socks")]) as client:
        assert get(client, site) == b"HTTP/1.1 200 OK\r\n"
    noted = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert noted == ["without effect, because detour is set: inet4_bind_address, connect_timeout"]


def test_the_whole_chain_is_one_value(upstream: Upstream, server: AnyTLSServer) -> None:
    outbounds = [
        upstream.proxy("http", user=True, tag="first", headers={"X-Secret": PASSWORD}),
        upstream.proxy("socks", user=True, tag="second", detour="first"),
        upstream.anytls(tag="third", detour="second"),
        {"type": "direct", "tag": "fourth", "detour": "third"},
    ]
    outbound = AnyTLSOutbound.from_dict(server.outbound(tag="me", detour="fourth"), outbounds=outbounds)
    assert USER in repr(outbound)
    assert PASSWORD not in repr(outbound)
    assert server.password not in repr(outbound)
    assert pickle.loads(pickle.dumps(outbound)) == outbound
    assert hash(outbound) == hash(pickle.loads(pickle.dumps(outbound)))
    text = json.dumps(outbound.to_config())
    assert AnyTLSOutbound.from_json(text) == outbound
    # Without the others, the tag is all that is known; the client is told the rest.
    bare = AnyTLSOutbound.from_dict(outbound.to_dict())
    assert bare.via is None
    assert bare.with_outbounds(outbounds) == outbound
    with pytest.raises(ConfigError, match="^detour: there is no outbound"):
        AnyTLSClient(bare)
