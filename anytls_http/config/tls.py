"""Reading the ``tls`` object of the outbound."""

from __future__ import annotations

import logging
import os
import re

from ..errors import ConfigError
from .fields import Fields, show_text
from .hosts import plausible_host
from .options import TLSOptions
from .unsupported import not_supported_names, refuse_not_supported

__all__ = ["read_tls"]

logger = logging.getLogger("anytls_http.config")

_NAMES = frozenset(
    {
        "enabled",
        "engine",
        "server_name",
        "disable_sni",
        "insecure",
        "alpn",
        "min_version",
        "max_version",
        "certificate",
        "certificate_path",
        "handshake_timeout",
        "fragment_fallback_delay",
        "kernel_tx",
        "kernel_rx",
        *not_supported_names("tls"),
    }
)
_VERSIONS = ("1.0", "1.1", "1.2", "1.3")
_LONGEST_ALPN = 255
_LONGEST_PATH_SHOWN = 1000
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")


def read_tls(outbound: Fields) -> TLSOptions:
    """Return the TLS options. Raises ``ConfigError``, first of all where TLS isn't enabled."""
    fields = outbound.group("tls", _NAMES)
    if fields is None or not fields.flag("enabled"):
        # Before everything else: the seed's own sample has an empty object here.
        raise ConfigError(f"{outbound.where('tls')}.enabled must be true: AnyTLS requires TLS")
    refuse_not_supported(fields)
    _read_without_effect(fields)
    server_name = fields.filled_text("server_name")
    min_version, max_version = _versions(fields)
    certificate, certificate_path = _trusted_roots(fields)
    return TLSOptions(
        server_name=server_name and fields.parsed("server_name", server_name, plausible_host),
        disable_sni=fields.flag("disable_sni"),
        insecure=fields.flag("insecure"),
        alpn=_alpn(fields),
        min_version=min_version,
        max_version=max_version,
        certificate=certificate,
        certificate_path=certificate_path,
        handshake_timeout=fields.duration("handshake_timeout") or TLSOptions().handshake_timeout,
    )


def _read_without_effect(fields: Fields) -> None:
    engine = fields.filled_text("engine")
    if engine not in (None, "go"):
        fields.fail("engine", f'got {show_text(engine)}, takes "go" or nothing')
    fields.duration("fragment_fallback_delay")  # acts with "fragment" only, which has a row of its own
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


def _trusted_roots(fields: Fields) -> tuple[str | None, str | None]:
    """Return (certificate, certificate_path), at most one of them set."""
    text = "\n".join(fields.texts("certificate", secret=True))
    path = fields.filled_text("certificate_path")
    if text.strip():
        if path:
            logger.warning(
                "%s is not read: %s is set and comes first, as in sing-box",
                fields.where("certificate_path"),
                fields.where("certificate"),
            )
        return _certificates_in(fields, "certificate", text), None
    if path:
        _certificates_in(fields, "certificate_path", _read_certificate_file(fields, path))
    return None, path


def _read_certificate_file(fields: Fields, path: str) -> str:
    try:
        # A pipe or a device would be waited for, and it can't be read again later anyway.
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError("not a file")
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        fields.fail("certificate_path", f"cannot read {show_text(path, _LONGEST_PATH_SHOWN)}: {reason}")


def _certificates_in(fields: Fields, name: str, text: str) -> str:
    """Return the certificates of a PEM text alone, without comments or a key that was pasted with them."""
    import ssl  # not at the top: most configurations have no certificate, and ssl is slow to import

    certificates = "\n".join(_CERTIFICATE.findall(text))
    try:
        if not certificates:
            raise ValueError("no certificate")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError):
        fields.fail(name, "holds no certificate that can be read, takes PEM (-----BEGIN CERTIFICATE-----)")
    return certificates + "\n"
