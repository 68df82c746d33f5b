"""The real sing-box as the upstream of a ``detour``: SOCKS and HTTP with and without users, and AnyTLS."""

from __future__ import annotations

from typing import Any

from anytls_http.testing import make_certificate
from tests.support.singbox import SingBoxProcess, free_port

USER, PASSWORD = "proxy-user", "8JCsPssfgS8tiRwiMlhARg=="


class Upstream(SingBoxProcess):
    """One process with three inbounds: ``mixed``, ``mixed`` that wants a user, and ``anytls``."""

    def __init__(self) -> None:
        super().__init__()
        self.user_port = free_port()
        self.anytls_port = free_port()
        self.certificate = make_certificate()

    def config(self) -> dict[str, Any]:
        def listen(kind: str, tag: str, port: int, **fields: Any) -> dict[str, Any]:
            return {"type": kind, "tag": tag, "listen": "127.0.0.1", "listen_port": port, **fields}

        tls = {
            "enabled": True,
            "certificate": self.certificate.pem.splitlines(),
            "key": self.certificate.key_pem.splitlines(),
        }
        return {
            "log": {"level": "debug", "timestamp": False},
            "dns": {"servers": [{"type": "local", "tag": "local"}]},
            "route": {"default_domain_resolver": "local"},
            "inbounds": [
                listen("mixed", "open-in", self.port),
                listen("mixed", "user-in", self.user_port, users=[{"username": USER, "password": PASSWORD}]),
                listen(
                    "anytls",
                    "anytls-in",
                    self.anytls_port,
                    users=[{"name": USER, "password": PASSWORD}],
                    tls=tls,
                ),
            ],
            "outbounds": [{"type": "direct"}],
        }

    def anytls(self, **extra: Any) -> dict[str, Any]:
        """Return the outbound to the ``anytls`` inbound."""
        tls = {
            "enabled": True,
            "server_name": self.certificate.name,
            "certificate": self.certificate.ca_pem,
        }
        fields = {"type": "anytls", "tag": "up", "password": PASSWORD, "tls": tls}
        return {**fields, "server": "127.0.0.1", "server_port": self.anytls_port, **extra}

    def proxy(self, kind: str, *, user: bool = False, **extra: Any) -> dict[str, Any]:
        """Return an outbound of type ``kind`` (socks, http) to one of the ``mixed`` inbounds."""
        fields: dict[str, Any] = {"type": kind, "tag": "up", "server": "127.0.0.1"}
        if user:
            return {
                **fields,
                "server_port": self.user_port,
                "username": USER,
                "password": PASSWORD,
                **extra,
            }
        return {**fields, "server_port": self.port, **extra}
