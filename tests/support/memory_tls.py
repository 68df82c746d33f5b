"""A TLS server's end in memory: the test says which records there are, and where their bytes are cut."""

from __future__ import annotations

import ssl

from anytls_http.testing import Certificate


class MemoryTLS:
    """The server's end of one TLS connection."""

    def __init__(self, certificate: Certificate, version: ssl.TLSVersion | None = None) -> None:
        context = certificate.server_context()
        if version is not None:
            context.minimum_version = context.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.ready = False  #: the handshake is done

    def take(self, ciphertext: bytes) -> bytes:
        """Take what the client has sent; return its plaintext."""
        self._incoming.write(ciphertext)
        plain = b""
        try:
            if not self.ready:
                self._tls.do_handshake()
                self.ready = True
            while piece := self._tls.read(65536):
                plain += piece
        except ssl.SSLWantReadError:
            pass
        return plain

    def output(self) -> bytes:
        """Return what is to be sent: the handshake's, session tickets."""
        return self._outgoing.read()

    def record(self, data: bytes) -> bytes:
        """Return ``data`` as a record, as several where it is over 16 KiB."""
        self._tls.write(data)
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """Return a close_notify."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()
