"""Certificates for tests: an authority that is trusted nowhere, and leaves that it signs.

Elliptic-curve keys (P-256), so that making one takes about a millisecond.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: The names of a certificate that was made without naming any.
DEFAULT_NAMES = ("anytls.test", "localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A leaf certificate with its key, as PEM text."""

    #: The certificate.
    pem: str
    #: Its private key.
    key_pem: str = field(repr=False)
    #: The authority that signed it: what a client has to trust.
    ca_pem: str
    #: The first of its names.
    name: str

    def server_context(self, alpn: Iterable[str] = ()) -> ssl.SSLContext:
        """Return a context for a server that shows this certificate and offers ``alpn``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.load_into(context)
        if protocols := list(alpn):
            context.set_alpn_protocols(protocols)
        return context

    def client_context(self, alpn: Iterable[str] = ()) -> ssl.SSLContext:
        """Return a context for a client that trusts this certificate's authority and nothing else."""
        context = ssl.create_default_context(cadata=self.ca_pem)
        if protocols := list(alpn):
            context.set_alpn_protocols(protocols)
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make ``context`` show this certificate; for a server's context, or a client's that must identify itself."""
        # The ssl module takes certificates from files only.
        with tempfile.TemporaryDirectory(prefix="anytls-test-") as directory:
            path = os.path.join(directory, "certificate.pem")
            with open(path, "w", encoding="ascii") as file:
                file.write(self.pem + self.key_pem)
            context.load_cert_chain(path)


class Authority:
    """A certificate authority for tests; :attr:`pem` is what clients have to trust."""

    def __init__(self, name: str = "anytls_http test authority") -> None:
        now = _now()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        public_key = self._key.public_key()
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=400))
            .not_valid_after(now + datetime.timedelta(days=400))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        #: This authority's own certificate, as PEM text.
        self.pem = _to_pem(self._certificate)

    def __repr__(self) -> str:
        return f"<Authority {self._name.rfc4514_string()}>"

    def issue(self, *names: str, expired: bool = False, not_yet_valid: bool = False) -> Certificate:
        """Return a new certificate for ``names`` (DNS names and IP addresses; default: :data:`DEFAULT_NAMES`).

        ``expired``: it ended yesterday. ``not_yet_valid``: it begins tomorrow. For a certificate with
        the wrong name, give another name than the one that will be asked for.
        """
        names = names or DEFAULT_NAMES
        now = _now()
        day = datetime.timedelta(days=1)
        start, end = now - day, now + 90 * day
        if expired:
            start, end = now - 90 * day, now - day
        elif not_yet_valid:
            start = now + day
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            # Python 3.13 and later verify strictly: a leaf must say which key signed it.
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode("ascii")
        return Certificate(pem=_to_pem(certificate), key_pem=key_pem, ca_pem=self.pem, name=names[0])


def make_authority(name: str = "anytls_http test authority") -> Authority:
    """Return a new certificate authority."""
    return Authority(name)


def make_certificate(
    *names: str, authority: Authority | None = None, expired: bool = False, not_yet_valid: bool = False
) -> Certificate:
    """Return a new certificate, signed by ``authority`` or by a new one; see :meth:`Authority.issue`."""
    return (authority or Authority()).issue(*names, expired=expired, not_yet_valid=not_yet_valid)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _to_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
