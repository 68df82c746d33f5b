"""Whether a server's public key is one of those that ``tls.certificate_public_key_sha256`` names."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection

from ..errors import CertificateError

__all__ = ["check_public_key", "public_key_sha256"]


def check_public_key(certificate: bytes | None, pins: Collection[str], server_name: str) -> None:
    """Raise CertificateError unless the public key of this certificate (DER) has one of the hashes (base64)."""
    try:
        found = base64.b64encode(public_key_sha256(certificate or b"")).decode("ascii")
    except ValueError as exc:
        raise CertificateError(f'the certificate of "{server_name}" can\'t be read: {exc}') from exc
    if found not in pins:
        raise CertificateError(
            f'the public key of "{server_name}" is not one of tls.certificate_public_key_sha256, its SHA-256 is '
            f"{found}; unless the server has a new key, this is another server"
        )


def public_key_sha256(certificate: bytes) -> bytes:
    """Return the SHA-256 of the SubjectPublicKeyInfo of a certificate (DER).

    Raises ``ValueError`` where the certificate, or the kind of its key, is not understood.
    """
    # Here and not above: only these few configurations need it, and it is slow to import.
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except UnsupportedAlgorithm as exc:
        raise ValueError(str(exc)) from exc
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
