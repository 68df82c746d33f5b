"""The TLS context of an outbound: versions, ALPN, trusted roots, and what is verified."""

from __future__ import annotations

import logging
import os
import re
import ssl
import sys
import threading
import warnings
from typing import TYPE_CHECKING

from ..config.pem import KeyProblem, load_pair, read_pem_file
from ..config.tls_names import limit_curves, openssl_ciphers
from ..errors import ConfigError
from .client_hello import Fragmentation
from .handshake_errors import handshake_error, wrong_name
from .names import ascii_name, certificate_names, is_ip_address, valid_for
from .pins import check_public_key

if TYPE_CHECKING:
    from ..config import TLSOptions

__all__ = ["TLSContexts", "handshake_error"]

_log = logging.getLogger("anytls_http.net")

_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
_OLD_VERSIONS = {"1.0", "1.1"}
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

#: A file as it was when it was looked at: (modification time in ns, size, inode); None: it wasn't there.
_Fingerprint = tuple[int, int, int] | None
#: The options that name a file, each with the one that comes before it.
_FILES = {
    "certificate_path": "certificate",
    "client_certificate_path": "client_certificate",
    "client_key_path": "client_key",
}


class TLSContexts:
    """The SSLContext for an outbound's ``tls`` options, shared by all of a client's sessions.

    Loading the roots takes about 15 ms, so the context is made once, here, and again only when one of the
    files that it was made of has changed.

    Raises ConfigError when a certificate or the server's name can't be used. Safe to use from any thread.
    """

    def __init__(self, options: TLSOptions, server: str) -> None:
        self._options = options
        self._name = _verifiable_name(options.server_name or server)
        self._pins = frozenset(options.certificate_public_key_sha256)
        # With an IP address there is no SNI in any case, and OpenSSL compares it itself.
        self._match_here = options.disable_sni and not options.insecure and not is_ip_address(self._name)
        #: How the ClientHello is to be cut up; None: not at all.
        self.fragmentation: Fragmentation | None = None
        if options.fragment or options.record_fragment:
            self.fragmentation = Fragmentation(
                segments=options.fragment,
                records=options.record_fragment,
                fallback_delay=options.fragment_fallback_delay,
            )
            if self.server_hostname is None or is_ip_address(self._name):
                _log.warning("tls.fragment and tls.record_fragment have no effect: no server name is sent")
        if options.insecure and not self._pins:
            _log.warning(
                "tls.insecure is set: the certificate of %s is not verified; whoever is on the way can read "
                "everything and learn the password's hash",
                self._name,
            )
        # No lock guards these two: rebuilding twice is harmless, and a lock could be left held by a fork.
        self._files = [name for name, before in _FILES.items() if _is_read(options, name, before)]
        self._seen = self._fingerprints()
        self._context = _build_context(options, check_hostname=not self._match_here)

    def __repr__(self) -> str:
        return f"<TLSContexts for {self._name}{', insecure' if self._options.insecure else ''}>"

    @property
    def server_name(self) -> str:
        """The name, or IP address, that the server's certificate must be valid for."""
        return self._name

    @property
    def server_hostname(self) -> str | None:
        """What ``wrap_bio`` is to be given: the name for SNI and verification, None with ``disable_sni``."""
        return None if self._options.disable_sni and not is_ip_address(self._name) else self._name

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection.

        When a file that it was made of has become unusable since, the last good one stays in use and a
        warning is logged: a certificate that is being renewed must not stop the client.
        """
        if self._files:
            found = self._fingerprints()
            if found != self._seen:
                self._read_again(found)
        return self._context

    def _read_again(self, found: list[_Fingerprint]) -> None:
        changed = [
            getattr(self._options, name)
            for name, before, now in zip(self._files, self._seen, found, strict=True)
            if before != now
        ]
        self._seen = found
        try:
            self._context = _build_context(self._options, check_hostname=not self._match_here)
        except ConfigError as exc:
            _log.warning("the certificates read before stay in use: %s", exc)
        else:
            _log.info("read %s again: it has changed", " and ".join(changed))

    def verify_peer(self, ssl_object: ssl.SSLObject) -> None:
        """Check what OpenSSL could not, after the handshake and before anything is sent.

        With ``disable_sni`` OpenSSL has verified the chain, but not that it is valid for the server's name.
        With ``certificate_public_key_sha256`` it has verified nothing, and the public key alone counts.

        Raises CertificateError when it isn't so.
        """
        if self._pins:
            check_public_key(ssl_object.getpeercert(binary_form=True), self._pins, self._name)
        elif self._match_here:
            certificate = ssl_object.getpeercert() or {}
            if not valid_for(certificate, self._name):
                raise wrong_name(self._name, certificate_names(certificate))

    def _fingerprints(self) -> list[_Fingerprint]:
        return [_fingerprint(getattr(self._options, name)) for name in self._files]


def _is_read(options: TLSOptions, name: str, before: str) -> bool:
    return getattr(options, name) is not None and getattr(options, before) is None


def _fingerprint(path: str) -> _Fingerprint:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in it. Reading it tells what is wrong.
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _verifiable_name(name: str) -> str:
    if is_ip_address(name):
        return name.partition("%")[0]  # The interface of a link-local address is in no certificate.
    try:
        return ascii_name(name)
    except ValueError as exc:
        raise ConfigError(f'tls.server_name: "{name}" is not a host name or IP address: {exc}') from exc


def _build_context(options: TLSOptions, *, check_hostname: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Renegotiation would make a read want to write in mid-session; compression and tickets are no use here.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    _set_versions(context, options)
    _set_curves(context, options)
    if options.alpn:
        context.set_alpn_protocols(list(options.alpn))
    # VERIFY_X509_STRICT, which Python 3.13 sets in its default context, stays off: it refuses CAs without key
    # usage, as people make them by hand for their own server, and sing-box takes those.
    own_roots = _own_roots(options)
    context.hostname_checks_common_name = False
    if options.insecure or options.certificate_public_key_sha256:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.check_hostname = check_hostname
        context.verify_mode = ssl.CERT_REQUIRED
        if own_roots is None:
            load_default_roots(context)
    if own_roots is not None:
        _load_own_roots(context, *own_roots)
    _load_client_certificate(context, options)
    _set_key_log(context)
    return context


def _set_versions(context: ssl.SSLContext, options: TLSOptions) -> None:
    lowest, highest = options.min_version, options.max_version
    suites = openssl_ciphers(options.cipher_suites)
    if options.cipher_suites and not suites:
        # Those of TLS 1.3 alone: none is left for the older versions. OpenSSL takes no empty list.
        lowest = "1.3"
    ciphers = ":".join(suites)
    if {lowest, highest} & _OLD_VERSIONS:
        # OpenSSL 3 has no cipher for TLS 1.0 and 1.1 left at its default security level.
        ciphers = f"{ciphers or 'DEFAULT'}:@SECLEVEL=0"
    if ciphers:
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError as exc:
            raise ConfigError(f"tls.cipher_suites: {ssl.OPENSSL_VERSION} has none of them") from exc
    if not {lowest, highest} & _OLD_VERSIONS:
        context.minimum_version = _VERSIONS[lowest]
        context.maximum_version = _VERSIONS[highest]
        return
    # Python warns that the versions are deprecated. Whoever configured them knows, and under `-W error` the
    # warning would be an error. The lock, since catch_warnings() isn't safe among threads.
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = _VERSIONS[lowest]
        context.maximum_version = _VERSIONS[highest]


_warnings_lock = threading.Lock()


def _set_curves(context: ssl.SSLContext, options: TLSOptions) -> None:
    if options.curve_preferences:
        try:
            limit_curves(context, options.curve_preferences)
        except ValueError as exc:
            raise ConfigError(f"tls.curve_preferences: {exc}") from exc


def _load_client_certificate(context: ssl.SSLContext, options: TLSOptions) -> None:
    texts = []
    for name in ("client_certificate", "client_key"):
        text, path = getattr(options, name), getattr(options, f"{name}_path")
        if text is None and path is None:
            return
        try:
            texts.append(text if text is not None else read_pem_file(path))
        except ValueError as exc:
            raise ConfigError(f'tls.{name}_path: cannot read "{path}": {exc}') from exc
    try:
        load_pair(context, *texts)
    except ValueError as exc:
        field = "client_key" if isinstance(exc, KeyProblem) else "client_certificate"
        raise ConfigError(f"tls.{field}: {exc}") from exc


def _own_roots(options: TLSOptions) -> tuple[str, str] | None:
    """Return the field that names the trusted certificates and its PEM text; ``certificate`` goes first."""
    if options.certificate is not None:
        return "tls.certificate", options.certificate
    path = options.certificate_path
    if path is None:
        return None
    try:
        return "tls.certificate_path", read_pem_file(path)
    except ValueError as exc:
        raise ConfigError(
            f'tls.certificate_path: cannot read "{path}": {exc}; it takes a file with PEM certificates'
        ) from exc


def _load_own_roots(context: ssl.SSLContext, field: str, text: str) -> None:
    # Only the blocks themselves: what people write between them need not be ASCII, as `cadata` must be.
    blocks = [block for block in _PEM.findall(text) if block.isascii()]
    if not blocks:
        raise ConfigError(f"{field}: no PEM certificate in it; it takes one or more BEGIN CERTIFICATE blocks")
    try:
        context.load_verify_locations(cadata="\n".join(blocks) + "\n")
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(f"{field}: a PEM certificate in it is damaged ({exc})") from exc
    # As in Go, what is given is trusted whatever it is: an intermediate CA, or the server's own certificate.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def load_default_roots(context: ssl.SSLContext) -> None:
    """Trust the roots that httpx trusts: SSL_CERT_FILE, else SSL_CERT_DIR, else certifi's."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        if file:
            context.load_verify_locations(cafile=file)
        elif folder:
            context.load_verify_locations(capath=folder)
        else:
            import certifi  # not at the top: it takes a few milliseconds that own roots save

            context.load_verify_locations(cafile=certifi.where())
    except OSError as exc:  # ssl.SSLError too
        source = f'the environment variable SSL_CERT_FILE ("{file}")' if file else "the default roots"
        if not file and folder:
            source = f'the environment variable SSL_CERT_DIR ("{folder}")'
        raise ConfigError(f"tls: cannot load the trusted certificates of {source}: {exc}") from exc


def _set_key_log(context: ssl.SSLContext) -> None:
    """Write the session keys to SSLKEYLOGFILE, by the same rule as ``ssl.create_default_context``."""
    path = os.environ.get("SSLKEYLOGFILE")
    if path and not sys.flags.ignore_environment:
        try:
            context.keylog_filename = path
        except OSError as exc:
            raise ConfigError(
                f'tls: cannot write to the environment variable SSLKEYLOGFILE\'s "{path}": {exc.strerror}'
            ) from exc
