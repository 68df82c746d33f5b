"""close() wakes a caller that waits for a name lookup, too."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from anytls_http import AnyTLSClient, ClientClosed
from anytls_http.testing import AnyTLSServer
from tests.support.timing import STARVED


def test_close_wakes_a_caller_in_a_name_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    release, asked = threading.Event(), threading.Event()

    def hanging(*args: Any, **kwargs: Any) -> Any:
        asked.set()
        release.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    ended: list[BaseException] = []
    with AnyTLSServer() as server:
        client = AnyTLSClient(server.outbound(server="slow.example"))

        def connect() -> None:
            try:
                client.create_connection(("example.org", 80), timeout=10)
            except OSError as exc:
                ended.append(exc)

        thread = threading.Thread(target=connect)
        thread.start()
        try:
            assert asked.wait(5)
            start = time.monotonic()
            client.close()
            thread.join(5)
            assert time.monotonic() - start < 2 + STARVED
            assert [type(exc) for exc in ended] == [ClientClosed]
        finally:
            release.set()
            thread.join()
