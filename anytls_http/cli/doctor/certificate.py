"""What a server's certificate says, for people."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from anytls_http.net.pins import public_key_sha256


@dataclass(frozen=True)
class CertificateFacts:
    """``names`` it is valid for, who signed it, from when to when, and its public key's SHA-256 (base64)."""

    names: list[str]
    issuer: str
    self_signed: bool
    not_before: datetime
    not_after: datetime
    pin: str

    @property
    def days_left(self) -> float:
        """Days until it ends by the clock here; less than 0 when it has ended."""
        return (self.not_after - datetime.now(UTC)).total_seconds() / 86400

    def lines(self) -> list[str]:
        """Return lines for people; the last one can be pasted into the configuration."""
        issuer = "itself (self-signed)" if self.self_signed else self.issuer
        return [
            f"certificate for {', '.join(self.names[:5]) or 'no name'}{', ...' if len(self.names) > 5 else ''}",
            f"issued by {issuer}",
            f"valid from {self.not_before:%Y-%m-%d} to {self.not_after:%Y-%m-%d}, {self.remaining()}",
            f'its pin: "certificate_public_key_sha256": ["{self.pin}"]',
        ]

    def remaining(self) -> str:
        """Return how long it is still valid, in words."""
        days = self.days_left
        return f"expired {-days:.0f} days ago" if days < 0 else f"{days:.0f} days left"

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return {
            "names": self.names,
            "issuer": self.issuer,
            "self_signed": self.self_signed,
            "not_before": self.not_before.isoformat(),
            "not_after": self.not_after.isoformat(),
            "days_left": round(self.days_left, 2),
            "public_key_sha256": self.pin,
        }


def read_certificate(der: bytes | None) -> CertificateFacts | None:
    """Return what a certificate (DER) says; None where it can't be read."""
    # Here and not above: it is slow to import.
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(der or b"")
        pin = base64.b64encode(public_key_sha256(der or b"")).decode("ascii")
    except ValueError:
        return None
    names: list[str] = []
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += alternatives.get_values_for_type(x509.DNSName)
        names += [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)]
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        pass  # Without names that can be read it is valid for none.
    return CertificateFacts(
        names=[printable(name) for name in names],
        issuer=printable(certificate.issuer.rfc4514_string()),
        self_signed=certificate.issuer == certificate.subject,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        pin=pin,
    )


def printable(text: str) -> str:
    """Cut and clean what anybody may have written, before it comes to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text[:200])
