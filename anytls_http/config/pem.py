"""PEM texts of the configuration: the files that hold them, and the client's own certificate with its key.

``ssl`` is imported where it is needed only: most configurations name no certificate, and it is slow to import.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

__all__ = ["KeyProblem", "load_pair", "read_pem_file"]

_ENCRYPTED = re.compile(r"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: *4, *ENCRYPTED", re.MULTILINE)


def read_pem_file(path: str) -> str:
    """Return a file's text. Raises ``ValueError`` with the reason where it can't be read."""
    try:
        # A pipe or a device would be waited for, and it can't be read again later anyway.
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError("not a file")
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as problem:
        raise ValueError(problem.strerror or str(problem)) from None


class KeyProblem(ValueError):
    """The key alone is to blame."""


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Make ``context`` show this certificate (PEM, with its chain) wherever the other side asks for one.

    Raises ``ValueError`` in words that fit behind the name of a field; none of the key is in them.
    """
    import ssl

    if "-----BEGIN CERTIFICATE-----" not in certificate:
        raise ValueError("there is no PEM certificate in it (-----BEGIN CERTIFICATE-----)")
    if _ENCRYPTED.search(key):
        raise KeyProblem("the key is encrypted, takes one without a passphrase")
    if "PRIVATE KEY-----" not in key:
        raise KeyProblem("there is no PEM key in it (-----BEGIN PRIVATE KEY-----)")
    problem = "the certificate or its key can't be read"
    with _as_file(certificate.strip() + "\n" + key.strip() + "\n") as path:
        try:
            # The password: should it be asked for after all, OpenSSL must not ask on the terminal.
            context.load_cert_chain(path, password="")
            return
        except ssl.SSLError as exc:
            if exc.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
                problem = "the key belongs to another certificate"
            elif exc.reason:
                problem += f" ({exc.reason.replace('_', ' ').lower()})"
        except ValueError:
            pass
    # Outside of the except block: nothing of what OpenSSL has read travels along.
    raise ValueError(problem)


@contextlib.contextmanager
def _as_file(text: str) -> Iterator[str]:
    """Give the path of a file with ``text``: Python takes certificates from files only.

    Where the system can, the file is in memory alone; elsewhere it is readable by this user only.
    """
    data = text.encode("utf-8", "replace")
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        fd = os.memfd_create("anytls_http")
        try:
            os.write(fd, data)
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)
        return
    import tempfile  # rarely needed, and slow to load

    with tempfile.TemporaryDirectory(prefix="anytls_http-") as folder:
        path = os.path.join(folder, "pair.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        yield path
