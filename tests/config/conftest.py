"""What the tests of the configuration share: a smallest outbound, and the warnings it logs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from anytls_http.config import AnyTLSOutbound

#: Stands for the user's password wherever a test asks whether a password got out.
MARKER = "pa55-MARKER-w0rd"


@pytest.fixture
def marker() -> str:
    return MARKER


@pytest.fixture
def make() -> Callable[..., AnyTLSOutbound]:
    """``make(min_idle_session=3, tls={"alpn": "h2"})``: the smallest outbound with these fields put in."""

    def make(*, tls: dict[str, Any] | None = None, **changes: Any) -> AnyTLSOutbound:
        config: dict[str, Any] = {"server": "proxy.example", "server_port": 443, "password": MARKER}
        return AnyTLSOutbound.from_dict({**config, "tls": {"enabled": True, **(tls or {})}, **changes})

    return make


@pytest.fixture
def warnings_logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "anytls_http.config")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.fixture(scope="session")
def ca_pem() -> str:
    """A certificate that may stand for trusted roots."""
    return trustme.CA().cert_pem.bytes().decode("ascii")


@pytest.fixture
def ca_file(tmp_path: Path, ca_pem: str) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text(ca_pem)
    return path
