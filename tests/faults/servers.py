"""The servers that the faults are tried on, with the same handles: the embedded one and the real sing-box."""

from __future__ import annotations

from typing import Any, Protocol, Self

import pytest

from anytls_http.testing import AnyTLSServer
from tests.support.singbox import SingBoxServer, singbox_path


class Server(Protocol):
    """What the tests need of a server."""

    password: str
    port: int

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...
    def outbound(self, **extra: Any) -> dict[str, Any]: ...

    def pause(self) -> None:
        """Go silent, new connections included; TCP goes on acknowledging."""

    def resume(self) -> None:
        """End the pause."""

    def kill(self) -> None:
        """Be gone at once, with every session."""

    def start(self) -> None:
        """Listen again, on the same port."""


class Embedded(AnyTLSServer):
    """The server of ``anytls_http.testing``."""

    def pause(self) -> None:
        self.freeze()

    def resume(self) -> None:
        self.thaw()

    def kill(self) -> None:
        self.stop_listening()
        self.close_sessions(reset=True)

    def start(self) -> None:
        self.thaw()
        super().start()


class SingBox(SingBoxServer):
    """sing-box, patient with slow targets."""

    def config(self) -> dict[str, Any]:
        config = super().config()
        config["outbounds"] = [{"type": "direct", "connect_timeout": "20s"}]
        return config


def server_of(kind: str) -> Server:
    """Return a new server, not started, of a kind of :data:`KINDS`; skips the test where there is none."""
    if kind == "sing-box" and singbox_path() is None:
        pytest.skip("no sing-box here")
    return KINDS[kind]()


KINDS: dict[str, type[Embedded | SingBox]] = {"embedded": Embedded, "sing-box": SingBox}
