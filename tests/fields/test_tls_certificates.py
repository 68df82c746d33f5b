"""The TLS fields about certificates, by what they make of a connection: to the embedded server and the real one."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from anytls_http import AnyTLSClient, AnyTLSOutbound, CertificateError, ConfigError, DialError
from anytls_http.testing import AnyTLSServer, Certificate, make_authority, make_certificate
from anytls_http.testing.certificates import Authority
from tests.sockets.targets import Target
from tests.support.singbox import SingBoxClient, SingBoxServer, skip_without_singbox
from tests.support.timing import wait_until
from tests.support.wire import Wiretap


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as running:
        yield running


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as running:
        yield running


def pin_of(certificate: Certificate) -> str:
    key = x509.load_pem_x509_certificate(certificate.pem.encode()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


OTHER_PIN = base64.b64encode(bytes(32)).decode()


def exchange(outbound: dict[str, Any], target: Target) -> None:
    """Send a byte to the target and get one back."""
    with AnyTLSClient(outbound) as client, client.create_connection(target.address, timeout=5) as sock:
        sock.sendall(b"a")
        far = target.accept()
        assert far.recv(1) == b"a"
        far.sendall(b"b")
        assert sock.recv(1) == b"b"


def refusal(outbound: dict[str, Any], kind: type[Exception] = CertificateError) -> str:
    """Return the error of a client that doesn't get through."""
    with AnyTLSClient(outbound) as client, pytest.raises(kind) as caught:
        client.create_connection(("target.test", 80), timeout=5, wait_open=True)
    assert type(caught.value) is kind
    return str(caught.value)


class TestDisableSNI:
    def test_the_server_sees_no_name(self, server: AnyTLSServer, target: Target) -> None:
        with Wiretap(("127.0.0.1", server.port)) as wire:
            outbound = wire.outbound(server.outbound(tls={"disable_sni": True}))
            exchange(outbound, target)
            assert server.sessions[0].server_name is None
            assert wire.client_hello.server_name is None
            assert server.certificate.name.encode() not in b"".join(wire.sent)

    def test_without_it_the_server_sees_the_name(self, server: AnyTLSServer, target: Target) -> None:
        with Wiretap(("127.0.0.1", server.port)) as wire:
            exchange(wire.outbound(server.outbound()), target)
            assert wire.client_hello.server_name == b"anytls.test"

    def test_a_wrong_name_is_refused_all_the_same(self, server: AnyTLSServer) -> None:
        text = refusal(server.outbound(tls={"disable_sni": True, "server_name": "other.test"}))
        assert 'not valid for "other.test"' in text
        assert server.unauthenticated_bytes == 0
        assert server.sessions_accepted == 0


class TestPins:
    def test_a_right_one_takes_the_place_of_everything_else(self, target: Target) -> None:
        # Expired, by an unknown authority, and for another name: with a pin only the key counts.
        certificate = make_certificate("other.test", expired=True)
        with AnyTLSServer(certificate=certificate) as server:
            tls = {
                "certificate": None,
                "server_name": "anytls.test",
                "certificate_public_key_sha256": [OTHER_PIN, pin_of(certificate)],
            }
            exchange(server.outbound(tls=tls), target)
            assert server.sessions[0].server_name == "anytls.test"

    @pytest.mark.parametrize("more", [{}, {"insecure": True}, {"disable_sni": True}])
    @pytest.mark.parametrize("version", ["1.2", "1.3"])
    def test_a_wrong_one_is_refused_before_a_byte_is_sent(
        self, server: AnyTLSServer, more: dict[str, Any], version: str
    ) -> None:
        tls = {
            "certificate": None,
            "certificate_public_key_sha256": OTHER_PIN,
            "max_version": version,
            **more,
        }
        text = refusal(server.outbound(tls=tls))
        assert "certificate_public_key_sha256" in text
        assert pin_of(server.certificate) in text, "tells the hash that would be right"
        server.wait_for(lambda: server.connections[0].closed)
        assert server.unauthenticated_bytes == 0
        assert server.sessions_accepted == 0

    def test_with_a_pin_insecure_is_nothing_to_warn_of(
        self, server: AnyTLSServer, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        pin = pin_of(server.certificate)
        tls = {"certificate": None, "insecure": True, "certificate_public_key_sha256": pin}
        with caplog.at_level(logging.WARNING, "anytls_http"):
            exchange(server.outbound(tls=tls), target)
        assert not caplog.records

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"certificate_public_key_sha256": "AAAA"}, 'got "AAAA", takes the SHA-256'),
            ({"certificate_public_key_sha256": ["*"]}, 'got "\\*", takes the SHA-256'),
            ({"certificate_public_key_sha256": [""]}, "takes the SHA-256"),
            ({"certificate_public_key_sha256": OTHER_PIN[:-1]}, "takes the SHA-256"),
            (
                {"certificate_public_key_sha256": OTHER_PIN, "certificate": "PEM"},
                "in conflict with certificate",
            ),
        ],
    )
    def test_wrong_values(self, server: AnyTLSServer, fields: dict[str, Any], said: str) -> None:
        if fields.get("certificate") == "PEM":
            fields = {**fields, "certificate": server.certificate.ca_pem}
        else:
            fields = {"certificate": None, **fields}
        with pytest.raises(ConfigError, match=f"^tls.certificate_public_key_sha256: .*{said}"):
            AnyTLSOutbound.from_dict(server.outbound(tls=fields))

    @skip_without_singbox
    def test_sing_box_takes_and_refuses_the_same(self, target: Target) -> None:
        certificate = make_certificate("other.test", expired=True)
        with AnyTLSServer(certificate=certificate) as server:
            for pin, accepted in ((pin_of(certificate), True), (OTHER_PIN, False)):
                tls = {"certificate": None, "server_name": "x.test", "certificate_public_key_sha256": [pin]}
                outbound = server.outbound(tls=tls)
                before = server.sessions_accepted
                with SingBoxClient(outbound) as rival:
                    handler = urllib.request.ProxyHandler({"http": rival.proxy_url})
                    opener = urllib.request.build_opener(handler)
                    with pytest.raises(OSError):
                        # Nobody answers there; whether it got as far as a session is the question.
                        opener.open("http://127.0.0.1:1/", timeout=5)
                assert (server.sessions_accepted > before) == accepted


class TestCertificatePath:
    def test_a_changed_file_is_read_for_the_next_session(
        self, server: AnyTLSServer, target: Target, tmp_path: Path
    ) -> None:
        path = tmp_path / "ca.pem"
        path.write_text(make_authority().pem)
        outbound = server.outbound(tls={"certificate": None, "certificate_path": str(path)})
        with AnyTLSClient(outbound) as client:
            with pytest.raises(CertificateError, match="not trusted"):
                client.create_connection(target.address, timeout=5)
            path.write_text(server.certificate.ca_pem)
            os.utime(path, ns=(1, 1))
            with client.create_connection(target.address, timeout=5) as sock:
                sock.sendall(b"a")
                assert target.accept().recv(1) == b"a"
            # And the other way round: a CA that was taken away isn't trusted any more.
            path.write_text(make_authority().pem)
            os.utime(path, ns=(2, 2))
            server.close_sessions()
            wait_until(lambda: client.stats().total == 0)
            with pytest.raises(CertificateError, match="not trusted"):
                client.create_connection(target.address, timeout=5)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who signs the clients that the server lets in."""
    return make_authority("clients")


@pytest.fixture(scope="module")
def strict(authority: Authority) -> Iterator[SingBoxServer]:
    """A sing-box that wants a client certificate."""
    fields = {
        "client_authentication": "require-and-verify",
        "client_certificate": authority.pem.splitlines(),
    }
    with SingBoxServer(**fields) as running:
        yield running


@pytest.fixture(scope="module")
def mine(authority: Authority) -> Certificate:
    return authority.issue("client.test")


@skip_without_singbox
class TestClientCertificate:
    @pytest.mark.parametrize("version", ["1.2", "1.3"])
    def test_as_text(self, strict: SingBoxServer, mine: Certificate, target: Target, version: str) -> None:
        tls = {
            "client_certificate": mine.pem.splitlines(),
            "client_key": mine.key_pem,
            "max_version": version,
        }
        exchange(strict.outbound(tls=tls), target)

    def test_as_files(self, strict: SingBoxServer, mine: Certificate, target: Target, tmp_path: Path) -> None:
        (tmp_path / "client.pem").write_text("words bef\u00f6re\n" + mine.pem, encoding="utf-8")
        (tmp_path / "client.key").write_text(mine.key_pem)
        tls = {
            "client_certificate_path": str(tmp_path / "client.pem"),
            "client_key_path": str(tmp_path / "client.key"),
        }
        exchange(strict.outbound(tls=tls), target)

    @pytest.mark.parametrize("version", ["1.2", "1.3"])
    @pytest.mark.parametrize("kind", ["none", "another authority's", "expired"])
    def test_a_refusal_is_said_in_plain_words(
        self, strict: SingBoxServer, authority: Authority, kind: str, version: str
    ) -> None:
        tls: dict[str, Any] = {"max_version": version}
        if kind != "none":
            wrong = authority.issue(expired=True) if kind == "expired" else make_certificate("client.test")
            tls |= {"client_certificate": wrong.pem, "client_key": wrong.key_pem}
        text = refusal(strict.outbound(tls=tls), DialError)
        if (kind, version) == ("none", "1.2"):
            # What Go says there may mean other things as well.
            assert "or it wants a client certificate, see tls.client_certificate" in text
            return
        assert "the server wants a client certificate and got none that it accepts" in text
        assert "tls.client_certificate and tls.client_key" in text

    def test_a_renewed_pair_is_read_again(
        self,
        strict: SingBoxServer,
        mine: Certificate,
        target: Target,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        old = make_certificate("client.test")
        certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
        certificate.write_text(old.pem)
        key.write_text(old.key_pem)
        tls = {"client_certificate_path": str(certificate), "client_key_path": str(key)}
        with AnyTLSClient(strict.outbound(tls=tls)) as client:
            with pytest.raises(DialError, match="wants a client certificate"):
                client.create_connection(target.address, timeout=5, wait_open=True)
            certificate.write_text(mine.pem)
            os.utime(certificate, ns=(1, 1))
            with pytest.raises(DialError, match="wants a client certificate"):
                client.create_connection(target.address, timeout=5, wait_open=True)
            assert (
                "stay in use: tls.client_certificate: the key belongs to another certificate" in caplog.text
            )
            key.write_text(mine.key_pem)
            os.utime(key, ns=(2, 2))
            with client.create_connection(target.address, timeout=5) as sock:
                sock.sendall(b"a")
                assert target.accept().recv(1) == b"a"


PAIR = make_certificate("client.test")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"client_certificate": PAIR.pem},
            "client_certificate: goes together with client_key, which is missing",
        ),
        ({"client_key": PAIR.key_pem}, "client_key: goes together with client_certificate, which is missing"),
        (
            {"client_certificate": "x", "client_key": PAIR.key_pem},
            "client_certificate: there is no PEM certificate",
        ),
        (
            {"client_certificate": PAIR.pem, "client_key": "x"},
            "client_key: there is no PEM key in it",
        ),
        (
            {"client_certificate": PAIR.pem, "client_key": make_certificate().key_pem},
            "client_certificate: the key belongs to another certificate",
        ),
        (
            {
                "client_certificate": PAIR.pem,
                "client_key": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----",
            },
            "client_key: the key is encrypted, takes one without a passphrase",
        ),
        (
            {
                "client_certificate": PAIR.pem,
                "client_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            },
            "client_certificate: the certificate or its key can't be read",
        ),
        (
            {"client_certificate_path": "/does/not/exist", "client_key": PAIR.key_pem},
            'client_certificate_path: cannot read "/does/not/exist": No such file or directory',
        ),
    ],
)
def test_wrong_client_certificates(fields: dict[str, Any], said: str) -> None:
    config = {"server": "x.test", "server_port": 1, "password": "p", "tls": {"enabled": True, **fields}}
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_dict(config)
    assert str(caught.value).startswith(f"tls.{said}")
    assert "AAAA" not in str(caught.value)


def test_the_key_is_in_no_repr() -> None:
    tls = {"enabled": True, "client_certificate": PAIR.pem, "client_key": PAIR.key_pem}
    config = {"server": "x.test", "server_port": 1, "password": "p", "tls": tls}
    outbound = AnyTLSOutbound.from_dict(config)
    assert "PRIVATE KEY" not in repr(outbound)
    assert AnyTLSOutbound.from_dict(outbound.to_dict()) == outbound
