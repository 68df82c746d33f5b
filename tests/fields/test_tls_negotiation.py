"""Versions, cipher suites, curves and ALPN, by what a handshake with the real sing-box negotiated."""

from __future__ import annotations

import platform
import ssl
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from anytls_http import AnyTLSClient, AnyTLSOutbound, ConfigError, DialError
from anytls_http.config.tls_names import CIPHER_SUITES, CURVES
from anytls_http.testing import AnyTLSServer, Certificate, make_certificate
from tests.support.singbox import SingBoxServer, skip_without_singbox
from tests.support.timing import wait_until
from tests.support.wire import ServerHello, Wiretap


def rsa_certificate() -> Certificate:
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    leaf = authority.issue_cert("anytls.test", key_type=trustme.KeyType.RSA)
    return Certificate(
        pem=leaf.cert_chain_pems[0].bytes().decode(),
        key_pem=leaf.private_key_pem.bytes().decode(),
        ca_pem=authority.cert_pem.bytes().decode(),
        name="anytls.test",
    )


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, SingBoxServer]]:
    """Two servers that take every version: one with an EC key, one with an RSA key."""
    with (
        SingBoxServer(certificate=make_certificate(), min_version="1.0", alpn=["h2", "http/1.1"]) as ec,
        SingBoxServer(certificate=rsa_certificate(), min_version="1.0") as rsa,
    ):
        yield {"ECDSA": ec, "RSA": rsa}


def connect(server: SingBoxServer, **tls: Any) -> ServerHello:
    """Open one session; return what the server chose."""
    with Wiretap(("127.0.0.1", server.port)) as wire:
        with AnyTLSClient(wire.outbound(server.outbound(tls=tls))) as client:
            client.wait_ready(1, timeout=5)
            with client.create_connection(("127.0.0.1", server.port), timeout=5, wait_open=True):
                pass  # the password went through
        return wire.server_hello


def dial_error(outbound: dict[str, Any]) -> str:
    """Return what a client says that can't connect."""
    with AnyTLSClient(outbound) as client, pytest.raises(DialError) as caught:
        client.create_connection(("target.test", 80), timeout=5)
    return str(caught.value)


@skip_without_singbox
class TestVersions:
    @pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
    def test_each_one(self, servers: dict[str, SingBoxServer], version: str) -> None:
        assert connect(servers["ECDSA"], min_version=version, max_version=version).version == version

    @pytest.mark.parametrize(
        ("tls", "chosen"), [({}, "1.3"), ({"max_version": "1.2"}, "1.2"), ({"min_version": "1.0"}, "1.3")]
    )
    def test_the_highest_that_both_have(
        self, servers: dict[str, SingBoxServer], tls: dict[str, Any], chosen: str
    ) -> None:
        assert connect(servers["ECDSA"], **tls).version == chosen

    def test_none_in_common(self, servers: dict[str, SingBoxServer]) -> None:
        with AnyTLSServer(maximum_tls=ssl.TLSVersion.TLSv1_2) as server:
            text = dial_error(server.outbound(tls={"min_version": "1.3"}))
        assert "no common TLS version, see tls.min_version" in text


OLDER = [name for name, openssl in CIPHER_SUITES.items() if openssl is not None]
NEWER = [name for name, openssl in CIPHER_SUITES.items() if openssl is None]


@skip_without_singbox
class TestCipherSuites:
    @pytest.mark.parametrize("suite", OLDER)
    def test_each_one(self, servers: dict[str, SingBoxServer], suite: str) -> None:
        server = servers["ECDSA" if "ECDSA" in suite else "RSA"]
        # Without the field it would be another one, but for one of them.
        assert connect(server, max_version="1.2", cipher_suites=suite).suite == suite

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    def test_with_an_old_version(self, servers: dict[str, SingBoxServer], version: str) -> None:
        suite = "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"
        hello = connect(servers["RSA"], min_version=version, max_version=version, cipher_suites=[suite])
        assert hello == ServerHello(version, suite, "")

    def test_a_list_offers_these_only(self, servers: dict[str, SingBoxServer]) -> None:
        suites = [
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "TLS_AES_128_GCM_SHA256",
        ]
        with Wiretap(("127.0.0.1", servers["ECDSA"].port)) as wire:
            outbound = servers["ECDSA"].outbound(tls={"cipher_suites": suites, "max_version": "1.2"})
            with AnyTLSClient(wire.outbound(outbound)) as client:
                client.wait_ready(1, timeout=5)
            assert [name for name in wire.client_hello.suites if name] == suites[:2]
            assert wire.server_hello.suite == suites[1]

    def test_those_of_1_3_have_no_effect(self, servers: dict[str, SingBoxServer]) -> None:
        plain = connect(servers["ECDSA"]).suite
        other = next(name for name in NEWER if name != plain)
        assert connect(servers["ECDSA"], cipher_suites=other) == connect(servers["ECDSA"])

    def test_those_of_1_3_alone_leave_none_for_older_versions(self) -> None:
        with AnyTLSServer(maximum_tls=ssl.TLSVersion.TLSv1_2) as server:
            assert "no common TLS version" in dial_error(server.outbound(tls={"cipher_suites": NEWER}))

    def test_a_server_that_has_none_of_them(self, servers: dict[str, SingBoxServer]) -> None:
        tls = {"cipher_suites": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "max_version": "1.2"}
        assert "the server refused: handshake failure" in dial_error(servers["ECDSA"].outbound(tls=tls))


@skip_without_singbox
class TestCurvePreferences:
    @pytest.mark.parametrize("curve", CURVES)
    def test_each_one(self, servers: dict[str, SingBoxServer], curve: str) -> None:
        try:
            hello = connect(servers["ECDSA"], curve_preferences=[curve])
        except ConfigError as problem:
            assert curve == "X25519MLKEM768", "the others every OpenSSL has"
            assert str(problem).startswith(f"tls.curve_preferences: {curve} can't be had from Python")
            assert ssl.OPENSSL_VERSION.split()[1] in str(problem)
        else:
            assert hello.group == curve

    def test_nothing_else_is_offered(self, servers: dict[str, SingBoxServer]) -> None:
        with Wiretap(("127.0.0.1", servers["ECDSA"].port)) as wire:
            outbound = servers["ECDSA"].outbound(tls={"curve_preferences": "p384"})
            with AnyTLSClient(wire.outbound(outbound)) as client:
                client.wait_ready(1, timeout=5)
            assert wire.client_hello.groups == ["P384"]

    def test_a_list(self, servers: dict[str, SingBoxServer]) -> None:
        curves = ["P384", "X25519", "P384"]
        if sys.version_info >= (3, 15):
            assert connect(servers["ECDSA"], curve_preferences=curves).group in curves
            return
        with pytest.raises(ConfigError) as caught:
            connect(servers["ECDSA"], curve_preferences=curves)
        assert "more than one curve needs Python 3.15" in str(caught.value)
        assert f"Python {platform.python_version()} with OpenSSL" in str(caught.value)


@skip_without_singbox
@pytest.mark.parametrize(("alpn", "chosen"), [("http/1.1", "http/1.1"), (["x", "h2"], "h2"), ([], None)])
def test_alpn(servers: dict[str, SingBoxServer], alpn: Any, chosen: str | None) -> None:
    tls = {"alpn": alpn, "max_version": "1.2"}  # of 1.3 the answer is encrypted
    with Wiretap(("127.0.0.1", servers["ECDSA"].port)) as wire:
        with AnyTLSClient(wire.outbound(servers["ECDSA"].outbound(tls=tls))) as client:
            client.wait_ready(1, timeout=5)
        answer = wire.answered
    assert (b"\x02h2" in answer, b"\x08http/1.1" in answer) == (chosen == "h2", chosen == "http/1.1")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cipher_suites": "TLS_RSA_WITH_AES_128_GCM_SHA256"}, "cipher_suites: got .*, takes one of"),
        ({"cipher_suites": ["TLS_AES_128_GCM_SHA256", "x"]}, 'cipher_suites: got "x", takes one of'),
        (
            {"cipher_suites": "TLS_AES_128_GCM_SHA256", "max_version": "1.2"},
            "cipher_suites: names none of TLS 1.2",
        ),
        ({"curve_preferences": "P224"}, 'curve_preferences: got "P224", takes one of "P256"'),
        ({"curve_preferences": [""]}, 'curve_preferences: got "", takes one of'),
    ],
)
def test_wrong_values(fields: dict[str, Any], said: str) -> None:
    config = {"server": "x.test", "server_port": 1, "password": "p", "tls": {"enabled": True, **fields}}
    with pytest.raises(ConfigError, match=f"^tls.{said}"):
        AnyTLSOutbound.from_dict(config)


@pytest.mark.parametrize(("metadata", "seen"), [("my/1.0", "my/1.0"), ("", ""), (None, "anytls_http/")])
def test_client_metadata(metadata: str | None, seen: str) -> None:
    with (
        AnyTLSServer() as server,
        AnyTLSClient(server.outbound(client_metadata=metadata)) as client,
        client.create_connection(("target.test", 80), timeout=5) as sock,
    ):
        sock.sendall(b"x")
        server.wait_for(lambda: bool(server.sessions) and bool(server.sessions[0].settings))
        found = server.sessions[0].settings["client"]
        assert found.startswith(seen) if metadata is None else found == seen


@skip_without_singbox
def test_sing_box_takes_any_client_metadata() -> None:
    with SingBoxServer() as server:
        for metadata in ("", "my/1.0", None):
            with AnyTLSClient(server.outbound(client_metadata=metadata)) as client:
                client.create_connection(("127.0.0.1", server.port), timeout=5, wait_open=True).close()
        wait_until(lambda: server.log().count("inbound connection to") >= 3)
