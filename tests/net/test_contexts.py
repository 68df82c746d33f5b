from __future__ import annotations

import logging
import os
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from anytls_http.errors import AnyTLSError, CertificateError, ConfigError, DialError
from anytls_http.net.contexts import TLSContexts, handshake_error
from anytls_http.net.names import ascii_name, valid_for

if TYPE_CHECKING:
    from anytls_http.config import TLSOptions


def tls_options(**fields: Any) -> TLSOptions:
    from anytls_http.config import TLSOptions

    return TLSOptions(**fields)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def pem(ca: trustme.CA) -> str:
    return ca.cert_pem.bytes().decode()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


class Handshake:
    """A TLS handshake in memory, of a client with these contexts and a server with this certificate."""

    def __init__(self, contexts: TLSContexts, certificate: trustme.LeafCert, **server_fields: Any) -> None:
        self.sni: str | None = None
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(server)
        server.sni_callback = self._note_sni
        for name, value in server_fields.items():
            if callable(getattr(server, name)):
                getattr(server, name)(value)
            else:
                setattr(server, name, value)
        self.to_client, self.to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = contexts.context().wrap_bio(
            self.to_client, self.to_server, server_hostname=contexts.server_hostname
        )
        self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True)
        self._contexts = contexts

    def _note_sni(self, ssl_object: Any, name: str | None, context: ssl.SSLContext) -> None:
        self.sni = name

    def run(self) -> Handshake:
        """Shake hands and verify; raises what the client finds."""
        done: set[ssl.SSLObject] = set()
        while len(done) < 2:
            for side in (self.client, self.server):
                try:
                    side.do_handshake()
                    done.add(side)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError:
                    if side is self.client:
                        raise
                    # The server says why in an alert, which the client reads next.
        self._contexts.verify_peer(self.client)
        return self


def shake(contexts: TLSContexts, certificate: trustme.LeafCert, **server_fields: Any) -> Handshake:
    return Handshake(contexts, certificate, **server_fields).run()


def failure(
    contexts: TLSContexts, certificate: trustme.LeafCert, name: str, **server_fields: Any
) -> AnyTLSError:
    """Return what the handshake's failure is told as."""
    handshake = Handshake(contexts, certificate, **server_fields)
    with pytest.raises(ssl.SSLError) as caught:
        handshake.run()
    plain = handshake_error(caught.value, name)
    detailed = handshake_error(caught.value, name, handshake.client)
    assert type(plain) is type(detailed)
    return detailed


# --- versions, ALPN, options ------------------------------------------------------------------------------


def test_the_defaults() -> None:
    context = TLSContexts(tls_options(), "proxy.example").context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.maximum_version == ssl.TLSVersion.TLSv1_3
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not context.hostname_checks_common_name
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert len(context.get_ca_certs()) > 50


@pytest.mark.parametrize(
    ("lowest", "highest", "negotiated"),
    [
        ("1.2", "1.3", "TLSv1.3"),
        ("1.2", "1.2", "TLSv1.2"),
        ("1.3", "1.3", "TLSv1.3"),
        ("1.0", "1.2", "TLSv1.2"),
    ],
)
def test_versions(ca: trustme.CA, lowest: str, highest: str, negotiated: str) -> None:
    contexts = TLSContexts(
        tls_options(certificate=pem(ca), min_version=lowest, max_version=highest), "good.example"
    )
    assert shake(contexts, ca.issue_cert("good.example")).client.version() == negotiated


@pytest.mark.parametrize(("version", "name"), [("1.0", "TLSv1"), ("1.1", "TLSv1.1")])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_really_work(ca: trustme.CA, version: str, name: str) -> None:
    options = tls_options(certificate=pem(ca), min_version=version, max_version=version)
    contexts = TLSContexts(options, "good.example")
    handshake = shake(
        contexts,
        ca.issue_cert("good.example"),
        minimum_version=ssl.TLSVersion.TLSv1,
        set_ciphers="DEFAULT:@SECLEVEL=0",
    )
    assert handshake.client.version() == name


def test_old_versions_raise_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    TLSContexts(tls_options(min_version="1.1"), "good.example")
    assert not recwarn.list


def test_the_security_level_is_only_lowered_for_old_versions() -> None:
    modern = TLSContexts(tls_options(), "x.example").context()
    old = TLSContexts(tls_options(min_version="1.0"), "x.example").context()
    assert len(old.get_ciphers()) > len(modern.get_ciphers())
    if hasattr(modern, "security_level"):
        assert (modern.security_level, old.security_level) == (ssl.create_default_context().security_level, 0)


@pytest.mark.parametrize(
    ("alpn", "chosen"), [((), None), (("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1")]
)
def test_alpn(ca: trustme.CA, alpn: tuple[str, ...], chosen: str | None) -> None:
    contexts = TLSContexts(tls_options(certificate=pem(ca), alpn=alpn), "good.example")
    handshake = shake(contexts, ca.issue_cert("good.example"), set_alpn_protocols=["h2", "http/1.1"])
    assert handshake.client.selected_alpn_protocol() == chosen


def test_the_context_is_made_once() -> None:
    contexts = TLSContexts(tls_options(), "good.example")
    assert contexts.context() is contexts.context()
    assert repr(contexts) == "<TLSContexts for good.example>"


# --- the name ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "fields", "sni"),
    [
        ("good.example", {}, "good.example"),
        ("good.example.", {}, "good.example"),
        ("192.0.2.1", {"server_name": "good.example"}, "good.example"),
        ("b\u00fccher.example", {}, "xn--bcher-kva.example"),
        ("192.0.2.1", {}, None),
        ("2001:db8::1", {}, None),
        ("fe80::1%eth0", {}, None),
        ("good.example", {"disable_sni": True}, None),
        ("192.0.2.1", {"disable_sni": True}, None),
    ],
)
def test_sni_and_the_name_verified(
    ca: trustme.CA, server: str, fields: dict[str, Any], sni: str | None
) -> None:
    contexts = TLSContexts(tls_options(certificate=pem(ca), **fields), server)
    certificate = ca.issue_cert(
        "good.example", "xn--bcher-kva.example", "192.0.2.1", "2001:db8::1", "fe80::1"
    )
    assert shake(contexts, certificate).sni == sni


@pytest.mark.parametrize("disable_sni", [False, True])
@pytest.mark.parametrize(
    ("name", "in_certificate"),
    [
        ("good.example", ["other.example", "192.0.2.1"]),
        ("a.b.good.example", ["*.good.example"]),
        ("good.example", ["*.good.example"]),
        ("192.0.2.1", ["192.0.2.2"]),
        ("2001:db8::1", ["good.example"]),
    ],
)
def test_a_wrong_name_is_refused(
    ca: trustme.CA, name: str, in_certificate: list[str], disable_sni: bool
) -> None:
    contexts = TLSContexts(tls_options(certificate=pem(ca), disable_sni=disable_sni), name)
    handshake = Handshake(contexts, ca.issue_cert(*in_certificate))
    with pytest.raises((ssl.SSLCertVerificationError, CertificateError)) as caught:
        handshake.run()
    error: Exception = caught.value
    if isinstance(error, ssl.SSLError):
        error = handshake_error(error, name, handshake.client)
    assert isinstance(error, CertificateError)
    text = str(error)
    assert f'not valid for "{name}"' in text
    assert "set tls.server_name" in text
    assert all(other in text for other in in_certificate)


def test_a_wrong_name_without_the_certificate_at_hand(ca: trustme.CA) -> None:
    handshake = Handshake(
        TLSContexts(tls_options(certificate=pem(ca)), "x.example"), ca.issue_cert("y.example")
    )
    with pytest.raises(ssl.SSLError) as caught:
        handshake.run()
    text = str(handshake_error(caught.value, "x.example"))
    assert 'not valid for "x.example"' in text
    assert "tls.server_name" in text


@pytest.mark.parametrize("name", ["good.example", "any.wild.example"])
def test_without_sni_a_right_name_is_taken(ca: trustme.CA, name: str) -> None:
    contexts = TLSContexts(tls_options(certificate=pem(ca), disable_sni=True), name)
    handshake = shake(contexts, ca.issue_cert("good.example", "*.wild.example"))
    assert handshake.sni is None


def test_without_sni_the_chain_is_verified_all_the_same(ca: trustme.CA) -> None:
    contexts = TLSContexts(tls_options(disable_sni=True), "good.example")
    assert isinstance(failure(contexts, ca.issue_cert("good.example"), "good.example"), CertificateError)


@pytest.mark.parametrize("disable_sni", [False, True])
def test_the_common_name_does_not_count(ca: trustme.CA, disable_sni: bool) -> None:
    contexts = TLSContexts(tls_options(certificate=pem(ca), disable_sni=disable_sni), "good.example")
    with pytest.raises((ssl.SSLCertVerificationError, CertificateError)):
        shake(contexts, ca.issue_cert("other.example", common_name="good.example"))


@pytest.mark.parametrize("name", ["a..example", ".example", "a" * 64, "."])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^tls\.server_name: "):
        TLSContexts(tls_options(server_name=name), "proxy.example")


@pytest.mark.parametrize(
    ("pattern", "name", "valid"),
    [
        ("good.example", "GOOD.example", True),
        ("GOOD.example", "good.example.", True),
        ("*.good.example", "a.good.example", True),
        ("*.good.example", "a_b.good.example", True),
        ("*.good.example", ".good.example", False),
        ("*.good.example", "a.b.good.example", False),
        ("*.good.example", "good.example", False),
        ("*.example", "good.example", False),
        ("*", "good", False),
        ("*.*.example", "a.b.example", False),
        ("a.*.example", "a.b.example", False),
        ("f*.good.example", "foo.good.example", False),
        ("*.good.example", "*.good.example", False),
        ("good.example\0.evil.example", "good.example", False),
        ("192.0.2.1", "192.0.2.1", False),
    ],
)
def test_how_dns_names_match(pattern: str, name: str, valid: bool) -> None:
    certificate = {"subjectAltName": (("email", "x@good.example"), ("DNS", pattern))}
    try:
        assert valid_for(certificate, name) is valid
    except ValueError:
        assert not valid


@pytest.mark.parametrize(
    ("text", "name", "valid"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("2001:DB8:0:0:0:0:0:1\n", "2001:db8::1", True),
        ("FE80:0:0:0:0:0:0:1", "fe80::1%eth0", True),
        ("192.0.2.2", "192.0.2.1", False),
        ("<invalid>", "192.0.2.1", False),
    ],
)
def test_how_addresses_match(text: str, name: str, valid: bool) -> None:
    assert valid_for({"subjectAltName": (("IP Address", text), ("DNS", "x.example"))}, name) is valid


def test_a_certificate_without_names_is_valid_for_none() -> None:
    assert not valid_for({}, "good.example")
    assert not valid_for({}, "192.0.2.1")
    assert ascii_name("good.example.") == "good.example"


# --- trusted roots ----------------------------------------------------------------------------------------


def test_own_roots_are_the_only_ones(ca: trustme.CA) -> None:
    contexts = TLSContexts(tls_options(certificate=pem(ca)), "good.example")
    assert len(contexts.context().get_ca_certs()) == 1
    shake(contexts, ca.issue_cert("good.example"))


def test_several_certificates_and_words_between_them(ca: trustme.CA) -> None:
    text = f"b\u00fccher's own CA\n{pem(trustme.CA())}\nund d\u00e4s\n{pem(ca)}\n-----BEGIN X509 CRL-----\n"
    shake(TLSContexts(tls_options(certificate=text), "good.example"), ca.issue_cert("good.example"))


def test_the_servers_own_certificate_can_be_the_root(ca: trustme.CA) -> None:
    certificate = ca.issue_cert("good.example")
    leaf = certificate.cert_chain_pems[0].bytes().decode()
    contexts = TLSContexts(tls_options(certificate=leaf), "good.example")
    shake(contexts, certificate)
    assert isinstance(failure(contexts, ca.issue_cert("good.example"), "good.example"), CertificateError)


def test_certificate_goes_before_certificate_path(ca: trustme.CA, tmp_path: Path) -> None:
    options = tls_options(certificate=pem(ca), certificate_path=str(tmp_path / "missing.pem"))
    shake(TLSContexts(options, "good.example"), ca.issue_cert("good.example"))


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*: No such file or directory"),
        ("", "no PEM certificate in it"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no PEM certificate in it"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "a PEM certificate in it is damaged",
        ),
        ("-----BEGIN CERTIFICATE-----\n\u00e4\n-----END CERTIFICATE-----\n", "no PEM certificate in it"),
    ],
)
def test_a_file_that_is_of_no_use(tmp_path: Path, content: str | None, message: str, insecure: bool) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^tls\.certificate_path: " + message):
        TLSContexts(tls_options(certificate_path=str(path), insecure=insecure), "good.example")
    if content is not None:
        with pytest.raises(ConfigError, match=r"^tls\.certificate: " + message):
            TLSContexts(tls_options(certificate=content, insecure=insecure), "good.example")


def test_a_path_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"tls\.certificate_path"):
        TLSContexts(tls_options(certificate_path="a\0b"), "good.example")
    with pytest.raises(ConfigError, match=r"tls\.certificate_path"):
        TLSContexts(tls_options(certificate_path="/"), "good.example")


def test_a_changed_file_is_read_again(
    ca: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ca.pem"
    other = trustme.CA()
    path.write_text(pem(other))
    contexts = TLSContexts(tls_options(certificate_path=str(path)), "good.example")
    first = contexts.context()
    assert contexts.context() is first
    assert isinstance(failure(contexts, ca.issue_cert("good.example"), "good.example"), CertificateError)

    path.write_text(pem(ca))
    os.utime(path, ns=(1, 1))
    assert contexts.context() is not first
    shake(contexts, ca.issue_cert("good.example"))

    good = contexts.context()
    with caplog.at_level(logging.WARNING, "anytls_http.net"):
        for content in ("nothing\n", None):
            caplog.clear()
            if content is None:
                path.unlink()
            else:
                path.write_text(content)
            for _ in range(3):
                assert contexts.context() is good
            [record] = caplog.records
            assert "stay in use: tls.certificate_path: " in record.getMessage()
    path.write_text(pem(ca))
    assert contexts.context() is not good
    shake(contexts, ca.issue_cert("good.example"))


def test_many_threads_while_the_file_changes(ca: trustme.CA, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text(pem(ca))
    contexts = TLSContexts(tls_options(certificate_path=str(path)), "good.example")
    found: list[ssl.SSLContext] = []

    def use() -> None:
        for _ in range(50):
            found.append(contexts.context())

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        os.utime(path, ns=(number, number))
    for thread in threads:
        thread.join(10)
    assert len(found) == 200
    assert all(len(context.get_ca_certs()) == 1 for context in set(found))


@pytest.fixture
def roots_of(tmp_path: Path, ca: trustme.CA) -> dict[str, str]:
    file = tmp_path / "roots.pem"
    ca.cert_pem.write_to_path(str(file))
    return {"file": str(file), "folder": str(tmp_path)}


def test_ssl_cert_file_as_in_httpx(
    ca: trustme.CA, roots_of: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", roots_of["file"])
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    contexts = TLSContexts(tls_options(), "good.example")
    assert len(contexts.context().get_ca_certs()) == 1
    shake(contexts, ca.issue_cert("good.example"))


def test_ssl_cert_dir_as_in_httpx(
    ca: trustme.CA, roots_of: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setenv("SSL_CERT_DIR", roots_of["folder"])
    contexts = TLSContexts(tls_options(), "good.example")
    assert not contexts.context().get_ca_certs(), (
        "a folder is read when it is needed, and replaces certifi's roots"
    )
    assert isinstance(failure(contexts, ca.issue_cert("good.example"), "good.example"), CertificateError)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSLKEYLOGFILE"])
def test_a_wrong_environment_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "no" / "file"))
    with pytest.raises(ConfigError, match=name):
        TLSContexts(tls_options(), "good.example")


def test_ssl_key_log_file(ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    contexts = TLSContexts(tls_options(certificate=pem(ca)), "good.example")
    shake(contexts, ca.issue_cert("good.example"))
    assert "CLIENT_TRAFFIC_SECRET_0" in path.read_text()


# --- insecure ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disable_sni", [False, True])
def test_insecure_verifies_nothing_and_says_so_once(
    ca: trustme.CA, caplog: pytest.LogCaptureFixture, disable_sni: bool
) -> None:
    with caplog.at_level(logging.WARNING, "anytls_http.net"):
        contexts = TLSContexts(tls_options(insecure=True, disable_sni=disable_sni), "good.example")
        for _ in range(2):
            handshake = shake(contexts, ca.issue_cert("other.example"))
            assert handshake.sni == (None if disable_sni else "good.example")
    [record] = caplog.records
    assert record.name == "anytls_http.net"
    assert "tls.insecure" in record.getMessage()
    assert "insecure" in repr(contexts)


# --- what went wrong --------------------------------------------------------------------------------------


def test_an_unknown_ca(ca: trustme.CA) -> None:
    error = failure(TLSContexts(tls_options(), "good.example"), ca.issue_cert("good.example"), "good.example")
    assert isinstance(error, CertificateError)
    assert 'certificate of "good.example" comes from a CA that is not trusted' in str(error)
    assert "tls.certificate or tls.certificate_path" in str(error)


def _leaf(
    start: datetime, end: datetime, ca: trustme.CA | None = None, name: str = "good.example"
) -> trustme.LeafCert:
    """A certificate with these dates, by this CA or signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "test")])
    issuer, issuer_key = subject, key
    if ca is not None:
        issuer = x509.load_pem_x509_certificate(ca.cert_pem.bytes()).subject
        loaded = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        issuer_key = loaded
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return trustme.LeafCert(private, certificate.public_bytes(serialization.Encoding.PEM), [])


NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def test_a_self_signed_certificate() -> None:
    certificate = _leaf(NOW - DAY, NOW + DAY)
    error = failure(TLSContexts(tls_options(), "good.example"), certificate, "good.example")
    assert isinstance(error, CertificateError)
    assert "is self-signed and not trusted" in str(error)
    assert "tls.certificate or tls.certificate_path" in str(error)
    own = certificate.cert_chain_pems[0].bytes().decode()
    shake(TLSContexts(tls_options(certificate=own), "good.example"), certificate)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (NOW - 3 * DAY, NOW - DAY, f"has expired and is not valid since {NOW - DAY:%Y-%m-%d %H:%M} UTC"),
        (NOW + DAY, NOW + 3 * DAY, f"is not valid before {NOW + DAY:%Y-%m-%d %H:%M} UTC"),
    ],
)
def test_out_of_date(ca: trustme.CA, start: datetime, end: datetime, said: str) -> None:
    contexts = TLSContexts(tls_options(certificate=pem(ca)), "good.example")
    error = failure(contexts, _leaf(start, end, ca), "good.example")
    assert isinstance(error, CertificateError)
    assert said in str(error)
    assert "the clock here is wrong" in str(error)


def test_names_of_strangers_are_cut_and_cleaned(ca: trustme.CA) -> None:
    certificate = _leaf(NOW - DAY, NOW + DAY, ca, "new\nline" + "x" * 200)
    error = failure(
        TLSContexts(tls_options(certificate=pem(ca)), "good.example"), certificate, "good.example"
    )
    assert "new?line" in str(error)
    assert "x" * 101 not in str(error)


def test_any_other_verification_error() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 24, "invalid CA certificate"
    found = handshake_error(error, "good.example")
    assert isinstance(found, CertificateError)
    assert str(found) == 'the certificate of "good.example" was not accepted: invalid CA certificate'


def feed(answer: bytes, *, eof: bool = False) -> AnyTLSError:
    """Return what a server that answers the ClientHello with these bytes is told as."""
    contexts = TLSContexts(tls_options(), "good.example")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = contexts.context().wrap_bio(incoming, outgoing, server_hostname=contexts.server_hostname)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(answer)
    if eof:
        incoming.write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        client.do_handshake()
    return handshake_error(caught.value, "good.example", client)


@pytest.mark.parametrize(
    ("answer", "eof", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "the server does not speak TLS on this port"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False, "the server does not speak TLS on this port"),
        (b"\x15\x03\x03\x00\x02\x02\x28", False, "the server refused: handshake failure"),
        (b"\x15\x03\x03\x00\x02\x02\x70", False, "the server refused: unrecognized name"),
        (b"\x15\x03\x03\x00\x02\x02\x50", False, "the server refused: internal error"),
        (b"\x15\x03\x03\x00\x02\x02\x46", False, "no common TLS version"),
        (b"\x15\x03\x03\x00\x02\x01\x00", False, "the server closed the connection during the TLS handshake"),
        (b"", True, "the server closed the connection during the TLS handshake"),
        (b"\x16\x03\x03\x00\x10", True, "the server closed the connection during the TLS handshake"),
    ],
)
def test_what_a_failed_handshake_is_called(answer: bytes, eof: bool, said: str) -> None:
    error = feed(answer, eof=eof)
    assert isinstance(error, DialError)
    assert not isinstance(error, CertificateError)
    assert str(error).startswith(f"TLS handshake with good.example failed: {said}")


def test_no_common_version(ca: trustme.CA) -> None:
    contexts = TLSContexts(tls_options(certificate=pem(ca), min_version="1.3"), "good.example")
    error = failure(
        contexts, ca.issue_cert("good.example"), "good.example", maximum_version=ssl.TLSVersion.TLSv1_2
    )
    assert isinstance(error, DialError)
    assert "no common TLS version, see tls.min_version and tls.max_version" in str(error)


def test_an_error_without_a_reason() -> None:
    assert str(handshake_error(ssl.SSLError(1, "odd"), "x")) == "TLS handshake with x failed: odd"
