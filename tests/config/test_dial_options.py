from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from anytls_http.config import AnyTLSOutbound, DialOptions
from anytls_http.errors import ConfigError

Make = Callable[..., AnyTLSOutbound]
Logged = Callable[[], list[str]]


NO_FILE = ' ("local" is the system; from_file knows those of the file\'s dns.servers)'


@pytest.fixture
def on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")


def test_all_fields_arrive(make: Make, on_linux: None) -> None:
    dial = make(
        connect_timeout="3s",
        fallback_delay="100ms",
        bind_interface="eth0",
        inet4_bind_address="127.0.0.1",
        inet6_bind_address="fe80::1%eth0",
        bind_address_no_port=True,
        routing_mark=7,
        reuse_addr=True,
        tcp_multi_path=True,
        disable_tcp_keep_alive=True,
        tcp_keep_alive="1m",
        tcp_keep_alive_interval="10s",
        domain_strategy="prefer_ipv6",
        netns="blue",
    ).dial
    assert dial == DialOptions(
        connect_timeout=3.0,
        fallback_delay=0.1,
        bind_interface="eth0",
        inet4_bind_address="127.0.0.1",
        inet6_bind_address="fe80::1%eth0",
        bind_address_no_port=True,
        routing_mark=7,
        reuse_addr=True,
        tcp_multi_path=True,
        disable_tcp_keep_alive=True,
        tcp_keep_alive=60.0,
        tcp_keep_alive_interval=10.0,
        domain_strategy="prefer_ipv6",
        netns="blue",
    )


@pytest.mark.parametrize(
    "name", ["connect_timeout", "fallback_delay", "tcp_keep_alive", "tcp_keep_alive_interval"]
)
def test_zero_durations_are_the_default(make: Make, name: str) -> None:
    assert make(**{name: "0s"}).dial == DialOptions()
    with pytest.raises(ConfigError, match=f"^{name}: got "):
        make(**{name: "-1s"})


@pytest.mark.parametrize(
    ("mark", "number"),
    [(1, 1), ("0x1234", 0x1234), ("1234", 1234), ("0o17", 15), ("017", 15), ("0b11", 3), (2.0, 2)]
    + [(0, None), ("0", None), ("", None), (2**32 - 1, 2**32 - 1), ("0XfF", 255)],
)
def test_routing_marks(make: Make, on_linux: None, mark: object, number: int | None) -> None:
    assert make(routing_mark=mark).dial.routing_mark == number


@pytest.mark.parametrize(
    "mark", [-1, 2**32, "0x100000000", "x", "08", "-1", " 1", "１", True, [], 1.5, "9" * 100]
)
def test_wrong_routing_marks(make: Make, on_linux: None, mark: object) -> None:
    with pytest.raises(ConfigError, match=r"^routing_mark: got .* takes an integer from 0 to 4294967295"):
        make(routing_mark=mark)


@pytest.mark.parametrize(
    ("name", "value", "able", "systems"),
    [
        ("bind_interface", "eth0", {"linux", "darwin"}, "Linux and macOS"),
        ("bind_address_no_port", True, {"linux"}, "Linux"),
        ("routing_mark", 1, {"linux"}, "Linux"),
        ("netns", "blue", {"linux"}, "Linux"),
    ],
)
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_what_the_platform_cannot_do_is_refused(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    name: str,
    value: Any,
    able: set[str],
    systems: str,
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    make(**{name: None})
    make(**{name: type(value)()})
    if platform in able:
        assert getattr(make(**{name: value}).dial, name) == value
        return
    with pytest.raises(ConfigError, match=rf"^{name}: .*{systems} only, not on this platform \({platform}\)"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("inet4_bind_address", "::1"), ("inet4_bind_address", "127.0.0.1/8"), ("inet6_bind_address", "1.2.3.4")]
    + [("inet6_bind_address", "x"), ("inet4_bind_address", 5), ("bind_interface", "much-too-long-a-name")],
)
def test_wrong_addresses(make: Make, on_linux: None, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: got "):
        make(**{name: value})


@pytest.mark.parametrize("value", [1, "true", 0, []])
def test_flags_are_booleans(make: Make, value: object) -> None:
    with pytest.raises(ConfigError, match=r"^reuse_addr: got .*takes true or false"):
        make(reuse_addr=value)


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [
        ({"domain_resolver": "local"}, ""),
        ({"domain_resolver": ""}, ""),
        ({"domain_resolver": {}}, ""),
        ({"domain_resolver": {"server": "local", "strategy": "ipv4_only"}}, "ipv4_only"),
        ({"domain_resolver": {"server": "local"}, "domain_strategy": "prefer_ipv6"}, "prefer_ipv6"),
        (
            {"domain_resolver": {"server": "local", "strategy": "ipv4_only"}, "domain_strategy": "ipv6_only"},
            "ipv4_only",
        ),
        ({"domain_resolver": {"server": "local", "strategy": "as_is"}}, ""),
        ({"domain_strategy": "as_is"}, ""),
        ({"domain_resolver": {"server": "local", "disable_cache": True, "rewrite_ttl": 5}}, ""),
    ],
)
def test_domain_resolver(make: Make, changes: dict[str, Any], strategy: str) -> None:
    assert make(**changes).dial.domain_strategy == strategy


@pytest.mark.parametrize(
    ("resolver", "message"),
    [
        ("dns-remote", f'domain_resolver: there is no DNS server with the tag "dns-remote"{NO_FILE}'),
        (
            {"server": "dns-remote"},
            f'domain_resolver: there is no DNS server with the tag "dns-remote"{NO_FILE}',
        ),
        ({"strategy": "ipv4_only"}, "domain_resolver.server: is required with a strategy"),
        (
            {"server": "local", "client_subnet": "192.0.2.0/24"},
            "domain_resolver.client_subnet: is not supported yet",
        ),
        ({"server": "local", "timeout": "1s"}, "domain_resolver.timeout: is not supported yet"),
        (
            {"server": "local", "disable_cache": 1},
            "domain_resolver.disable_cache: got 1 (a number), takes true or false",
        ),
        (
            {"server": "local", "stratgy": "ipv4_only"},
            'domain_resolver.stratgy: unknown field, did you mean "strategy"?',
        ),
        (
            {"server": "local", "strategy": "x"},
            (
                'domain_resolver.strategy: got "x", '
                'takes one of "as_is", "prefer_ipv4", "prefer_ipv6", "ipv4_only", "ipv6_only"'
            ),
        ),
        (5, "domain_resolver: got 5 (a number), takes an object"),
    ],
)
def test_wrong_domain_resolvers(make: Make, resolver: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(domain_resolver=resolver)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"network_strategy": "hybrid"},
        {"network_type": "wifi"},
        {"network_type": ["wifi", "cellular"]},
        {"fallback_network_type": ["other"]},
    ],
)
def test_fields_for_graphical_clients_are_a_warning(
    make: Make, warnings_logged: Logged, changes: dict[str, Any]
) -> None:
    assert make(**changes) == make()
    (name,) = changes
    assert warnings_logged() == [f"{name} has no effect: it acts in graphical clients only, as in sing-box"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_strategy": "x"}, "network_strategy: got"),
        ({"network_type": ["wifi", "x"]}, "network_type: got"),
        ({"tcp_fast_open": True}, "tcp_fast_open: is not supported with the anytls outbound"),
        ({"protect_path": "/x"}, "protect_path: is for Android only"),
        ({"detour": 5}, "detour: got"),
        ({"netns": "a\0b"}, "netns: takes the name of a network namespace"),
        ({"udp_fragment": 1}, "udp_fragment: got"),
    ],
)
def test_refused_fields(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        make(**changes)


def test_unset_fields_are_accepted_in_silence(make: Make, warnings_logged: Logged) -> None:
    quiet = make(
        detour="",
        netns="",
        protect_path="",
        tcp_fast_open=False,
        udp_fragment=True,
        network_type=[],
        network_strategy="",
    )
    assert quiet == make()
    assert warnings_logged() == []
