"""What went wrong in a TLS handshake, in words that help the person who has to mend it."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from typing import NamedTuple

from ..errors import AnyTLSError, CertificateError, DialError, SessionClosed

__all__ = ["handshake_error", "session_error", "wrong_name"]

# X509_V_ERR_* of OpenSSL: `man x509_store_ctx_get_error`.
_NOT_YET_VALID = 9
_EXPIRED = 10
_SELF_SIGNED = 18
_UNKNOWN_CA = {2, 19, 20, 21}
_WRONG_NAME = {62, 64}

_NO_TLS = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "HTTPS_PROXY_REQUEST",
    "UNKNOWN_PROTOCOL",
    "PACKET_LENGTH_TOO_LONG",
}
_NO_TLS |= {"RECORD_LAYER_FAILURE", "RECORD_TOO_SMALL"}
_VERSIONS = {"UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE", "TLSV1_ALERT_PROTOCOL_VERSION"}
_ALERT = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(\w+)")
#: Alerts that are about the client's own certificate: no server has another one to complain of.
_CLIENT_CERTIFICATE = {
    "NO_CERTIFICATE",
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_REQUIRED",
    "UNKNOWN_CA",
}


class _Presented(NamedTuple):
    """What the certificate that was refused says."""

    names: list[str]
    not_before: datetime
    not_after: datetime


def handshake_error(
    exc: ssl.SSLError, server_name: str, ssl_object: ssl.SSLObject | None = None
) -> AnyTLSError:
    """Return the error to raise for one of ``ssl``: a CertificateError or a DialError, not yet raised.

    ``server_name`` is the name that the certificate was to be valid for; with ``ssl_object``, the one whose
    handshake failed, the error also tells the names and dates of the certificate.
    """
    if isinstance(exc, ssl.SSLCertVerificationError):
        return CertificateError(_certificate_text(exc, server_name, _presented(ssl_object)))
    return DialError(f"TLS handshake with {server_name} failed: {_handshake_text(exc)}")


def session_error(exc: ssl.SSLError) -> AnyTLSError:
    """Return the error to raise for one of ``ssl`` after the handshake.

    With TLS 1.3 the client's handshake is over before the server has looked at the client's certificate: that
    it was refused comes with the first read, and the session never worked. That is a DialError, else
    SessionClosed.
    """
    alert = _ALERT.fullmatch(getattr(exc, "reason", None) or "")
    if alert is not None and alert[1] in _CLIENT_CERTIFICATE:
        return DialError(_client_certificate_text(alert[1]))
    return SessionClosed(f"TLS error on the session: {exc.reason or exc}")


def wrong_name(server_name: str, names: list[str]) -> CertificateError:
    """Return the error for a certificate that is not valid for the server's name but for ``names``."""
    if names:
        shown = ", ".join(map(_printable, names[:5])) + (", ..." if len(names) > 5 else "")
        good_for, hint = f"it is for {shown}", "one of its names"
    else:
        good_for, hint = "it is for another name", "the name in it"
    return CertificateError(
        f'the server\'s certificate is not valid for "{server_name}": {good_for}; '
        f"if this is the right server, set tls.server_name to {hint}"
    )


def _printable(name: str) -> str:
    """Cut and clean a name that anybody may have written, before it goes into a log."""
    return "".join(char if char.isprintable() else "?" for char in name[:100])


def _certificate_text(
    exc: ssl.SSLCertVerificationError, server_name: str, presented: _Presented | None
) -> str:
    code = exc.verify_code
    whose = f'the certificate of "{server_name}"'
    if code in _WRONG_NAME:
        return str(wrong_name(server_name, presented.names if presented else []))
    if code == _EXPIRED:
        since = f" since {_date(presented.not_after)}" if presented and _is_past(presented.not_after) else ""
        return (
            f"{whose}, or the CA's above it, has expired and is not valid{since}; or the clock here is wrong"
        )
    if code == _NOT_YET_VALID:
        future = presented and not _is_past(presented.not_before)
        after = f" before {_date(presented.not_before)}" if presented and future else " yet"
        return f"{whose} is not valid{after}; or the clock here is wrong"
    roots = "tls.certificate or tls.certificate_path"
    if code == _SELF_SIGNED:
        return f"{whose} is self-signed and not trusted; if it is the right one, give it in {roots}"
    if code in _UNKNOWN_CA:
        return (
            f"{whose} comes from a CA that is not trusted; if it is the right one, give the CA's in {roots}"
        )
    return f"{whose} was not accepted: {exc.verify_message}"


def _handshake_text(exc: ssl.SSLError) -> str:
    reason = getattr(exc, "reason", None) or ""  # Absent from errors that didn't come from OpenSSL itself.
    if isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) or reason == "UNEXPECTED_EOF_WHILE_READING":
        return "the server closed the connection during the TLS handshake"
    if reason in _NO_TLS:
        return f"the server does not speak TLS on this port ({_words(reason)})"
    if reason in _VERSIONS:
        return f"no common TLS version, see tls.min_version and tls.max_version ({_words(reason)})"
    alert = _ALERT.fullmatch(reason)
    if alert is not None and alert[1] in _CLIENT_CERTIFICATE:
        return _client_certificate_text(alert[1])
    if alert is not None and alert[1] == "HANDSHAKE_FAILURE":
        # Go says so too where, with TLS 1.2, it wants a client certificate.
        return (
            "the server refused: handshake failure (no cipher suite, curve or kind of certificate in common, or it "
            "wants a client certificate, see tls.client_certificate)"
        )
    if alert is not None:
        return f"the server refused: {_words(alert[1])}"
    return _words(reason) or exc.strerror or str(exc)


def _client_certificate_text(alert: str) -> str:
    return (
        "the server wants a client certificate and got none that it accepts, "
        f"see tls.client_certificate and tls.client_key ({_words(alert)})"
    )


def _words(reason: str) -> str:
    return reason.replace("_", " ").lower()


def _presented(ssl_object: ssl.SSLObject | None) -> _Presented | None:
    """Read the certificate of a failed handshake, which ``getpeercert()`` won't give, or None."""
    if ssl_object is None:
        return None
    try:
        public = getattr(ssl_object, "get_unverified_chain", None)
        if public is not None:
            return _parse(public()[0])
        # Before Python 3.13 only the inner object has it; 2 is its constant for DER. Where that is gone, the
        # message does without.
        inner = getattr(ssl_object, "_sslobj")  # noqa: B009
        return _parse(inner.get_unverified_chain()[0].public_bytes(2))
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def _parse(der: bytes) -> _Presented:
    # Here and not above: only a failed handshake needs it, and it is slow to import.
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(der)
    names: list[str] = []
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += alternatives.get_values_for_type(x509.DNSName)
        names += [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)]
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        pass  # Without names that can be read it is valid for none.
    return _Presented(names, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _is_past(moment: datetime) -> bool:
    return moment < datetime.now(UTC)


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
