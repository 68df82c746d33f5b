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

import certifi

from ..errors import ConfigError
from .handshake_errors import handshake_error, wrong_name
from .names import ascii_name, certificate_names, is_ip_address, valid_for

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


class TLSContexts:
    """The SSLContext for an outbound's ``tls`` options, shared by all of a client's sessions.

    Loading the roots takes about 15 ms, so the context is made once, here, and again only when the file of
    ``certificate_path`` has changed.

    Raises ConfigError when a certificate or the server's name can't be used. Safe to use from any thread.
    """

    def __init__(self, options: TLSOptions, server: str) -> None:
        self._options = options
        self._name = _verifiable_name(options.server_name or server)
        # With an IP address there is no SNI in any case, and OpenSSL compares it itself.
        self._match_here = options.disable_sni and not options.insecure and not is_ip_address(self._name)
        if options.insecure:
            _log.warning(
                "tls.insecure is set: the certificate of %s is not verified; whoever is on the way can read "
                "everything and learn the password's hash",
                self._name,
            )
        # No lock guards these two: rebuilding twice is harmless, and a lock could be left held by a fork.
        self._seen = self._fingerprint()
        self._context = _build_context(options, check_hostname=not self._match_here)

    def __repr__(self) -> str:
        return f"<TLSContexts for {self._name}{', insecure' if self._options.insecure else ''}>"

    @property
    def server_hostname(self) -> str | None:
        """What ``wrap_bio`` is to be given: the name for SNI and verification, None with ``disable_sni``."""
        return None if self._options.disable_sni and not is_ip_address(self._name) else self._name

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection.

        When the file of ``certificate_path`` has become unusable since, the last good one stays in use and a
        warning is logged: a certificate that is being renewed must not stop the client.
        """
        found = self._fingerprint()
        if found != self._seen:
            self._seen = found
            try:
                self._context = _build_context(self._options, check_hostname=not self._match_here)
            except ConfigError as exc:
                _log.warning("the certificates read before stay in use: %s", exc)
            else:
                _log.info("read %s again: it has changed", self._options.certificate_path)
        return self._context

    def verify_peer(self, ssl_object: ssl.SSLObject) -> None:
        """Check what OpenSSL could not, after the handshake and before anything is sent.

        With ``disable_sni`` OpenSSL has verified the chain, but not that it is valid for the server's name.

        Raises CertificateError when it isn't.
        """
        if not self._match_here:
            return
        certificate = ssl_object.getpeercert() or {}
        if not valid_for(certificate, self._name):
            raise wrong_name(self._name, certificate_names(certificate))

    def _fingerprint(self) -> _Fingerprint:
        path = self._options.certificate_path
        if path is None or self._options.certificate is not None:
            return None
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
    if options.alpn:
        context.set_alpn_protocols(list(options.alpn))
    # VERIFY_X509_STRICT, which Python 3.13 sets in its default context, stays off: it refuses CAs without key
    # usage, as people make them by hand for their own server, and sing-box takes those.
    own_roots = _own_roots(options)
    context.hostname_checks_common_name = False
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.check_hostname = check_hostname
        context.verify_mode = ssl.CERT_REQUIRED
        if own_roots is None:
            load_default_roots(context)
    if own_roots is not None:
        _load_own_roots(context, *own_roots)
    _set_key_log(context)
    return context


def _set_versions(context: ssl.SSLContext, options: TLSOptions) -> None:
    wanted = {options.min_version, options.max_version}
    if not wanted & _OLD_VERSIONS:
        context.minimum_version = _VERSIONS[options.min_version]
        context.maximum_version = _VERSIONS[options.max_version]
        return
    # OpenSSL 3 has no cipher for TLS 1.0 and 1.1 left at its default security level.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    # Python warns that the versions are deprecated. Whoever configured them knows, and under `-W error` the
    # warning would be an error. The lock, since catch_warnings() isn't safe among threads.
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = _VERSIONS[options.min_version]
        context.maximum_version = _VERSIONS[options.max_version]


_warnings_lock = threading.Lock()


def _own_roots(options: TLSOptions) -> tuple[str, str] | None:
    """Return the field that names the trusted certificates and its PEM text; ``certificate`` goes first."""
    if options.certificate is not None:
        return "tls.certificate", options.certificate
    path = options.certificate_path
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "tls.certificate_path", file.read()
    except (OSError, ValueError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or str(exc)
        raise ConfigError(
            f'tls.certificate_path: cannot read "{path}": {reason}; it takes a file with PEM certificates'
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
