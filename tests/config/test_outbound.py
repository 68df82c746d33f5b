"""The outbound's own fields, and what every error, repr and copy of an outbound keeps to."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from anytls_http.config import AnyTLSOutbound, DialOptions, PoolOptions, TLSOptions, coerce_outbound
from anytls_http.errors import ConfigError

Make = Callable[..., AnyTLSOutbound]


def test_the_smallest_outbound_has_the_defaults(make: Make, marker: str) -> None:
    outbound = make()
    assert outbound == AnyTLSOutbound(
        server="proxy.example",
        server_port=443,
        password=marker,
        tls=TLSOptions(),
        pool=PoolOptions(),
        dial=DialOptions(),
        tag=None,
        client_metadata=None,
    )


def test_none_is_a_missing_field(make: Make) -> None:
    assert make(tag=None, heartbeat=None, routing_mark=None, tls={"alpn": None, "ech": None}) == make()


def test_empty_strings_are_missing_fields(make: Make) -> None:
    assert (
        make(tag="", type="", heartbeat="", bind_interface="", tls={"alpn": "", "server_name": ""}) == make()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"server_port": "443"}, 'server_port: got "443" (a string), takes an integer from 1 to 65535'),
        ({"server_port": 65536}, "server_port: got 65536, takes an integer from 1 to 65535"),
        ({"server_port": True}, "server_port: got true (a boolean), takes an integer from 1 to 65535"),
        ({"server_port": 443.5}, "server_port: got 443.5 (a number), takes an integer from 1 to 65535"),
        ({"server_port": None}, "server_port: is required: an integer from 1 to 65535"),
        ({"server": None}, "server: is required: the host name or IP address of the AnyTLS server"),
        ({"server": ["a"]}, "server: got a list, takes a string"),
        ({"server": "a b"}, 'server: got "a b", takes a host name or an IP address'),
        ({"password": ""}, "password: is required and must not be empty"),
        ({"password": None}, "password: is required and must not be empty"),
        ({"password": 12345}, "password: got a number, takes a string"),
        ({"password": b"12345"}, "password: got a value of type bytes, takes a string"),
        ({"password": "\ud800"}, "password: holds half of a surrogate pair, which is no character"),
        ({"type": "vless"}, 'type: got "vless", takes "anytls"'),
        ({"pasword": "x"}, 'pasword: unknown field, did you mean "password"?'),
        ({"Server": "x"}, 'Server: unknown field, did you mean "server"?'),
        ({"zzz": "x"}, "zzz: unknown field"),
        ({"": "x"}, ": unknown field"),
        ({"a\nb": "x"}, '"a\\nb": unknown field'),
        ({5: "x"}, "field names are strings, got 5 (a number)"),
        ({"heartbeat": 11}, 'heartbeat: got 11, a number without a unit: write "11s" for seconds'),
        ({"heartbeat": "11"}, 'heartbeat: got "11", a number without a unit: write "11s" for seconds'),
        ({"tls": None}, "tls.enabled must be true: AnyTLS requires TLS"),
        ({"tls": {}}, "tls.enabled must be true: AnyTLS requires TLS"),
        ({"tls": {"enabled": False}}, "tls.enabled must be true: AnyTLS requires TLS"),
        ({"tls": {"enabled": 1}}, "tls.enabled: got 1 (a number), takes true or false"),
        ({"tls": []}, "tls: got a list, takes an object"),
        ({"client_metadata": 5}, "client_metadata: got 5 (a number), takes a string"),
        ({"client_metadata": "a\nb=c"}, "client_metadata: takes one line of at most 1024 printable bytes"),
        ({"server_port": 10**5000}, "server_port: got a very large number, takes an integer from 1 to 65535"),
    ],
)
def test_errors_say_where_what_and_what_instead(make: Make, changes: dict[Any, Any], message: str) -> None:
    config = {"server": "proxy.example", "server_port": 443, "password": "x", "tls": {"enabled": True}}
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_dict({**config, **changes})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("proxy.example.", "proxy.example."),
        ("x_y.example", "x_y.example"),
        ("localhost", "localhost"),
        ("bücher.example", "bücher.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_servers(make: Make, given: str, kept: str) -> None:
    assert make(server=given).server == kept


@pytest.mark.parametrize(
    "server",
    ["1.2.3", "999.1.1.1", "-", "a..b", ".a", ".", "a" * 64, "x" * 300, "[x]", "[1.2.3.4]", "a:b:c", "a/b"]
    + ["1.2.3.4/8", "fe80::1%e h", "１.２.３.４", "a\n", "😀 .example", "[::1"],
)
def test_implausible_servers_are_refused(make: Make, server: str) -> None:
    with pytest.raises(ConfigError, match=r"^server: got .* takes a host name or an IP address"):
        make(server=server)


def test_a_port_in_the_server_is_explained(make: Make) -> None:
    with pytest.raises(ConfigError, match="without a port: the port has a field of its own"):
        make(server="proxy.example:443")


def test_a_uri_in_the_server_is_explained_and_not_shown(make: Make, marker: str) -> None:
    with pytest.raises(ConfigError, match="there is from_uri") as caught:
        make(server=f"anytls://{marker}@proxy.example")
    assert marker not in str(caught.value)


def test_a_uri_or_a_key_in_any_field_is_not_shown(make: Make, marker: str) -> None:
    for wrong, shown in (
        (f"anytls://{marker}@h", "a URI"),
        (f"-----BEGIN PRIVATE KEY-----\n{marker}\n-----END PRIVATE KEY-----", "PEM"),
    ):
        for changes in ({"tls": {"server_name": wrong}}, {"routing_mark": wrong}, {"type": wrong}):
            with pytest.raises(ConfigError, match=f"got {shown}, takes") as caught:
                make(**changes)
            assert marker not in str(caught.value)


def test_whole_floats_are_integers_as_in_sing_box(make: Make) -> None:
    outbound = make(server_port=8443.0)
    assert outbound.server_port == 8443
    assert type(outbound.server_port) is int


def test_client_metadata_set_empty_is_not_the_default(make: Make) -> None:
    assert make(client_metadata="").client_metadata == ""
    assert make(client_metadata="mine/1").client_metadata == "mine/1"


def test_any_mapping_will_do(make: Make, marker: str) -> None:
    tls = MappingProxyType({"enabled": True})
    config = MappingProxyType({"server": "proxy.example", "server_port": 443, "password": marker, "tls": tls})
    assert AnyTLSOutbound.from_dict(config) == make()


FULL = {
    "tag": "out",
    "client_metadata": "",
    "min_idle_session": 2,
    "ensure_idle_session": 5,
    "ensure_idle_session_create_rate": 1,
    "idle_session_check_interval": "1.5s",
    "idle_session_timeout": "1h30m",
    "max_connection_lifetime": "1h",
    "connection_lifetime_jitter": "15m",
    "min_idle_session_for_age": 1,
    "heartbeat": "11s",
    "connect_timeout": "3s",
    "fallback_delay": "100ms",
    "inet4_bind_address": "127.0.0.1",
    "inet6_bind_address": "::1",
    "reuse_addr": True,
    "tcp_multi_path": True,
    "disable_tcp_keep_alive": True,
    "tcp_keep_alive": "1m",
    "tcp_keep_alive_interval": "10s",
    "domain_strategy": "ipv4_only",
}
FULL_TLS = {
    "server_name": "x.example",
    "disable_sni": True,
    "insecure": True,
    "alpn": ["h2", "http/1.1"],
    "min_version": "1.0",
    "max_version": "1.2",
    "handshake_timeout": "2s",
}


def test_to_dict_goes_round(make: Make, ca_pem: str, ca_file: object) -> None:
    for outbound in (
        make(),
        make(**FULL, tls=FULL_TLS),
        make(tls={"certificate": ca_pem}),
        make(tls={"certificate_path": str(ca_file)}),
    ):
        assert AnyTLSOutbound.from_dict(outbound.to_dict()) == outbound


def test_to_dict_has_the_password_and_leaves_out_defaults(make: Make, marker: str) -> None:
    assert make().to_dict() == {
        "type": "anytls",
        "server": "proxy.example",
        "server_port": 443,
        "password": marker,
        "tls": {"enabled": True},
    }


def test_outbounds_are_values(make: Make) -> None:
    outbound = make(**FULL, tls=FULL_TLS)
    assert pickle.loads(pickle.dumps(outbound)) == outbound
    assert copy.deepcopy(outbound) == outbound
    assert hash(outbound) == hash(make(**FULL, tls=FULL_TLS))
    with pytest.raises(AttributeError):
        outbound.server = "other"  # type: ignore[misc]


def test_no_repr_shows_a_secret(make: Make, marker: str, ca_pem: str) -> None:
    outbound = make(tag="out", tls={"certificate": ca_pem})
    for text in (repr(outbound), str(outbound), outbound.describe(), repr(outbound.tls)):
        assert marker not in text
        assert "BEGIN" not in text


def test_describe_is_for_logs(make: Make) -> None:
    assert make(tag="out", server="::1").describe() == "out (anytls, [::1]:443)"
    assert make().describe() == "outbound (anytls, proxy.example:443)"


def test_coerce_outbound(make: Make) -> None:
    outbound = make()
    assert coerce_outbound(outbound) is outbound
    assert coerce_outbound(outbound.to_dict()) == outbound


@pytest.mark.parametrize("wrong", [None, 5, [], b"", "anytls://pa55-MARKER-w0rd@host", {"server"}])
def test_what_is_no_outbound_is_refused_and_not_shown(wrong: object, marker: str) -> None:
    with pytest.raises(ConfigError, match=r"^outbound: got .*takes a dict or an AnyTLSOutbound") as caught:
        coerce_outbound(wrong)
    assert marker not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^outbound: got .*takes an object"):
        AnyTLSOutbound.from_dict(wrong)  # type: ignore[arg-type]
