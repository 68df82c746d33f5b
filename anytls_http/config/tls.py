"""Reading the ``tls`` object of the outbound."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import logging
import re

from ..errors import ConfigError
from .fields import Fields, one_of, show_text
from .hosts import plausible_host
from .options import TLSOptions
from .pem import KeyProblem, load_pair, read_pem_file
from .tls_names import CIPHER_SUITES, CURVES, limit_curves, openssl_ciphers
from .unsupported import not_supported_names, refuse_not_supported

__all__ = ["TLS_NAMES", "read_tls"]

logger = logging.getLogger("anytls_http.config")

TLS_NAMES = frozenset(
    {field.name for field in dataclasses.fields(TLSOptions)}
    | {"enabled", "engine", "kernel_tx", "kernel_rx"}
    | set(not_supported_names("tls"))
)
_VERSIONS = ("1.0", "1.1", "1.2", "1.3")
_LONGEST_ALPN = 255
_SHA256_SIZE = 32
_LONGEST_PATH_SHOWN = 1000
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")


def read_tls(outbound: Fields) -> TLSOptions:
    """Return the TLS options. Raises ``ConfigError``, first of all where TLS isn't enabled."""
    fields = outbound.group("tls", TLS_NAMES)
    if fields is None or not fields.flag("enabled"):
        # Before everything else: the seed's own sample has an empty object here.
        raise ConfigError(f"{outbound.where('tls')}.enabled must be true: AnyTLS requires TLS")
    refuse_not_supported(fields)
    _read_without_effect(fields)
    default = TLSOptions()
    server_name = fields.filled_text("server_name")
    min_version, max_version = _versions(fields)
    certificate, certificate_path = _trusted_roots(fields)
    client = _client_certificate(fields)
    return TLSOptions(
        server_name=server_name and fields.parsed("server_name", server_name, plausible_host),
        disable_sni=fields.flag("disable_sni"),
        insecure=fields.flag("insecure"),
        alpn=_alpn(fields),
        min_version=min_version,
        max_version=max_version,
        cipher_suites=_cipher_suites(fields, max_version),
        curve_preferences=_curves(fields),
        certificate=certificate,
        certificate_path=certificate_path,
        certificate_public_key_sha256=_pins(fields),
        client_certificate=client.get("client_certificate"),
        client_certificate_path=client.get("client_certificate_path"),
        client_key=client.get("client_key"),
        client_key_path=client.get("client_key_path"),
        handshake_timeout=fields.duration("handshake_timeout") or default.handshake_timeout,
        fragment=fields.flag("fragment"),
        fragment_fallback_delay=fields.duration("fragment_fallback_delay") or default.fragment_fallback_delay,
        record_fragment=fields.flag("record_fragment"),
    )


def _read_without_effect(fields: Fields) -> None:
    engine = fields.filled_text("engine")
    if engine not in (None, "go"):
        fields.fail("engine", f'got {show_text(engine)}, takes "go" or nothing')
    for name in ("kernel_tx", "kernel_rx"):
        if fields.flag(name):
            logger.info("%s has no effect: there is no kernel TLS here", fields.where(name))


def _alpn(fields: Fields) -> tuple[str, ...]:
    protocols = fields.texts("alpn")
    for position, protocol in enumerate(protocols):
        if not protocol.isascii() or not 1 <= len(protocol) <= _LONGEST_ALPN:
            name = "alpn" if isinstance(fields.get("alpn"), str) else f"alpn[{position}]"
            fields.fail(name, f"takes a protocol name of 1 to {_LONGEST_ALPN} ASCII characters")
    return protocols


def _versions(fields: Fields) -> tuple[str, str]:
    default = TLSOptions()
    lowest = fields.choice("min_version", _VERSIONS) or default.min_version
    highest = fields.choice("max_version", _VERSIONS) or default.max_version
    if lowest > highest:
        # sing-box accepts it and then fails in every handshake.
        fields.fail("min_version", f'"{lowest}" is above max_version "{highest}": no version is left')
    return lowest, highest


def _cipher_suites(fields: Fields, max_version: str) -> tuple[str, ...]:
    suites = fields.choices("cipher_suites", tuple(CIPHER_SUITES))
    wanted = openssl_ciphers(suites)
    if suites and not wanted and max_version < "1.3":
        fields.fail("cipher_suites", f'names none of TLS 1.2 or older, and max_version is "{max_version}"')
    if wanted:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.set_ciphers(":".join(wanted))
        except ssl.SSLError:
            wanted = []
        able = {cipher["name"] for cipher in context.get_ciphers()}
        for name in suites:
            if CIPHER_SUITES[name] is not None and (not wanted or CIPHER_SUITES[name] not in able):
                fields.fail("cipher_suites", f'"{name}" is not in this {ssl.OPENSSL_VERSION}')
    return suites


def _curves(fields: Fields) -> tuple[str, ...]:
    curves = tuple(name.upper() for name in fields.texts("curve_preferences"))
    for curve in curves:
        if curve not in CURVES:
            fields.fail("curve_preferences", f"got {show_text(curve)}, takes {one_of(tuple(CURVES))}")
    if curves:
        import ssl

        try:
            limit_curves(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), curves)
        except ValueError as problem:
            fields.fail("curve_preferences", str(problem))
    return curves


def _pins(fields: Fields) -> tuple[str, ...]:
    pins = fields.texts("certificate_public_key_sha256")
    for pin in pins:
        try:
            length = len(base64.b64decode(pin, validate=True))
        except (binascii.Error, ValueError):
            length = 0
        if length != _SHA256_SIZE:
            fields.fail(
                "certificate_public_key_sha256",
                f"got {show_text(pin)}, takes the SHA-256 of a public key in base64 (44 characters)",
            )
    if pins and any(map(fields.texts, ("certificate", "certificate_path"))):
        fields.fail(
            "certificate_public_key_sha256",
            "is in conflict with certificate and certificate_path: it takes the place of trusted roots",
        )
    return pins


def _client_certificate(fields: Fields) -> dict[str, str | None]:
    """Return the two of the four fields that are to be used, by name; nothing where none is set."""
    certificate, certificate_text = _text_or_path(fields, "client_certificate")
    key, key_text = _text_or_path(fields, "client_key")
    if not certificate and not key:
        return {}
    if not certificate:
        fields.fail("client_key", "goes together with client_certificate, which is missing")
    if not key:
        fields.fail("client_certificate", "goes together with client_key, which is missing")
    import ssl

    try:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate_text, key_text)
    except ValueError as problem:
        blamed = key if isinstance(problem, KeyProblem) else certificate
        fields.fail(next(iter(blamed)), str(problem))
    return {**certificate, **key}


def _text_or_path(fields: Fields, name: str) -> tuple[dict[str, str | None], str]:
    """Return ({field: its value}, PEM text) of a field and its twin that names a file."""
    text = "\n".join(fields.texts(name, secret=True))
    path_name = f"{name}_path"
    path = fields.filled_text(path_name)
    if text.strip():
        if path:
            _warn_not_read(fields, path_name, name)
        return {name: text}, text
    if not path:
        return {}, ""
    return {path_name: path}, _read_file(fields, path_name, path)


def _warn_not_read(fields: Fields, path_name: str, name: str) -> None:
    logger.warning(
        "%s is not read: %s is set and comes first, as in sing-box",
        fields.where(path_name),
        fields.where(name),
    )


def _trusted_roots(fields: Fields) -> tuple[str | None, str | None]:
    """Return (certificate, certificate_path), at most one of them set."""
    text = "\n".join(fields.texts("certificate", secret=True))
    path = fields.filled_text("certificate_path")
    if text.strip():
        if path:
            _warn_not_read(fields, "certificate_path", "certificate")
        return _certificates_in(fields, "certificate", text), None
    if path:
        _certificates_in(fields, "certificate_path", _read_file(fields, "certificate_path", path))
    return None, path


def _read_file(fields: Fields, name: str, path: str) -> str:
    try:
        return read_pem_file(path)
    except ValueError as problem:
        fields.fail(name, f"cannot read {show_text(path, _LONGEST_PATH_SHOWN)}: {problem}")


def _certificates_in(fields: Fields, name: str, text: str) -> str:
    """Return the certificates of a PEM text alone, without comments or a key that was pasted with them."""
    found: list[str] = _CERTIFICATE.findall(text)
    if not found:
        fields.fail(name, "holds no certificate that can be read, takes PEM (-----BEGIN CERTIFICATE-----)")
    certificates = "\n".join(found)
    if not _can_be_read(certificates):
        number = 1 + next((index for index, each in enumerate(found) if not _can_be_read(each)), 0)
        which = f"certificate {number} of {len(found)}" if len(found) > 1 else "its certificate"
        fields.fail(name, f"{which} can't be read, takes PEM (-----BEGIN CERTIFICATE-----)")
    return certificates + "\n"


def _can_be_read(certificates: str) -> bool:
    import ssl  # not at the top: most configurations have no certificate, and ssl is slow to import

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError):
        return False
    return True
