"""Go's names of cipher suites and curves, which sing-box's configuration has, and what OpenSSL calls them."""

from __future__ import annotations

import sys
from collections.abc import Iterable

__all__ = ["CIPHER_SUITES", "CURVES", "limit_curves", "openssl_ciphers"]

#: The suites that Go calls secure, which are all that sing-box takes. None: one of TLS 1.3, which neither Go
#: nor Python lets anybody choose.
CIPHER_SUITES: dict[str, str | None] = {
    "TLS_AES_128_GCM_SHA256": None,
    "TLS_AES_256_GCM_SHA384": None,
    "TLS_CHACHA20_POLY1305_SHA256": None,
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
CURVES: dict[str, str] = {
    "P256": "prime256v1",
    "P384": "secp384r1",
    "P521": "secp521r1",
    "X25519": "X25519",
    "X25519MLKEM768": "X25519MLKEM768",
}


def openssl_ciphers(names: Iterable[str]) -> list[str]:
    """Return OpenSSL's names of the suites of TLS 1.2 and older among Go's ``names``, in their order."""
    return [ours for ours in map(CIPHER_SUITES.__getitem__, names) if ours is not None]


def limit_curves(context: object, names: Iterable[str]) -> None:
    """Let an ``ssl.SSLContext`` offer these curves only (Go's names).

    Raises ``ValueError``, saying what this Python or OpenSSL is short of.
    """
    curves = [CURVES[name] for name in dict.fromkeys(names)]
    set_groups = getattr(context, "set_groups", None)
    try:
        if set_groups is not None:  # Python 3.15
            set_groups(":".join(curves))
        elif len(curves) > 1:
            raise ValueError(
                f"more than one curve needs Python 3.15 or later (this is {_here()}); name one, or leave it out"
            )
        else:
            # Despite its name it takes X25519 too, and limits TLS 1.3's groups as well.
            context.set_ecdh_curve(curves[0])  # type: ignore[attr-defined]
    except OSError:  # ssl.SSLError: OpenSSL knows the curve by name only
        raise ValueError(_unknown(names)) from None
    except ValueError as problem:
        if "unknown" not in str(problem):
            raise
        raise ValueError(_unknown(names)) from None


def _unknown(names: Iterable[str]) -> str:
    return f"{' or '.join(names)} can't be had from {_here()}"


def _here() -> str:
    import ssl

    return (
        f"Python {'.'.join(map(str, sys.version_info[:3]))} with {' '.join(ssl.OPENSSL_VERSION.split()[:2])}"
    )
