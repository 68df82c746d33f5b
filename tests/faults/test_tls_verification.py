"""A server that is not the right one gets not one byte after the handshake: no password, no padding, nothing."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any, Self

import pytest

from anytls_http import AnyTLSClient, AnyTLSError, CertificateError, DialError
from anytls_http.testing import AnyTLSServer, make_authority, make_certificate
from tests.faults.libraries import Way
from tests.faults.servers import Embedded, SingBox
from tests.sockets.targets import Background
from tests.support.reliability import Ended
from tests.support.singbox import SingBoxServer, singbox_path
from tests.support.timing import wait_until

OTHER_PIN = "A" * 43 + "="
AUTHORITY = make_authority()

#: What is wrong, to: which server it is, the fields of the client's ``tls``, what the client must raise.
CASES: dict[str, tuple[str, dict[str, Any], type[AnyTLSError]]] = {
    "wrong name": ("right", {"server_name": "other.test"}, CertificateError),
    "wrong CA": ("right", {"certificate": make_certificate("anytls.test").ca_pem}, CertificateError),
    "expired": ("expired", {}, CertificateError),
    "not yet valid": ("early", {}, CertificateError),
    "pin mismatch": (
        "right",
        {"certificate": None, "certificate_public_key_sha256": OTHER_PIN},
        CertificateError,
    ),
    "pin mismatch, TLS 1.2": (
        "right",
        {"certificate": None, "certificate_public_key_sha256": OTHER_PIN, "max_version": "1.2"},
        CertificateError,
    ),
    "older TLS than allowed": ("old", {"min_version": "1.3"}, DialError),
}


def farm_of(kind: str) -> dict[str, Embedded | SingBox]:
    """Return one server, not started, of each name in :data:`CASES`."""
    if kind == "sing-box" and singbox_path() is None:
        pytest.skip("no sing-box here")
    right, early, expired = (
        AUTHORITY.issue("anytls.test", not_yet_valid=name == "early", expired=name == "expired")
        for name in ("right", "early", "expired")
    )
    if kind == "embedded":
        old: Embedded | SingBox = Embedded(certificate=right, maximum_tls=ssl.TLSVersion.TLSv1_2)
    else:
        old = SingBox(certificate=right, max_version="1.2")
    make: Any = type(old)
    return {
        "right": make(certificate=right),
        "early": make(certificate=early),
        "expired": make(certificate=expired),
        "old": old,
    }


class Farm:
    """The servers of one kind, and what each of them has seen since :meth:`forget`."""

    def __init__(self, servers: dict[str, Embedded | SingBox]) -> None:
        self.servers = servers
        self._seen: dict[str, int] = {}

    def forget(self) -> None:
        for name, server in self.servers.items():
            if isinstance(server, SingBoxServer):
                self._seen[name] = len(server.log())
            else:
                self._seen[name] = len(server.connections)

    def assert_nothing_came(self, name: str, connections: int | None = None) -> None:
        """Wait until the server has seen the connections end; none may have got beyond the handshake."""
        server = self.servers[name]
        seen = self._seen[name]
        if isinstance(server, AnyTLSServer):
            server.wait_for(lambda: self._all_over(server, seen, connections))
            assert server.unauthenticated_bytes == 0
            assert server.sessions_accepted == server.auth_failures == 0
            return
        # In TLS 1.2 the server's part of the handshake is done before ours: its next read is at the end, at once.
        over = re.compile(r"process connection from \S+: (TLS handshake: .*|EOF)$", re.MULTILINE)
        wait_until(lambda: len(over.findall(server.log()[seen:])) >= (connections or 1), 5)
        # Its only other words are that a TCP connection came: none of a stream, a user, or a fallback.
        lines = [line for line in server.log()[seen:].splitlines() if line and not over.search(line)]
        assert [line for line in lines if "inbound connection from" not in line] == []

    @staticmethod
    def _all_over(server: AnyTLSServer, seen: int, connections: int | None) -> bool:
        new = server.connections[seen:]
        enough = bool(new) if connections is None else len(new) == connections
        return enough and all(connection.closed for connection in new)


@pytest.fixture(scope="module", params=["embedded", "sing-box"])
def server(request: pytest.FixtureRequest) -> Iterator[Farm]:
    servers = farm_of(request.param)
    with contextlib.ExitStack() as stack:
        for running in servers.values():
            stack.enter_context(running)
        yield Farm(servers)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.fault("server with the wrong TLS identity ({case}): nothing is sent to it")
@pytest.mark.parametrize("case", list(CASES))
def test_nothing_is_sent(server: Farm, case: str, lib: Way, ended: Ended) -> None:
    name, tls, kind = CASES[case]
    server.forget()
    outbound = server.servers[name].outbound(tls=tls)
    with AnyTLSClient(outbound) as client, lib.open(client, timeout=5) as http:
        with pytest.raises(lib.errors) as caught:
            http.post("http://target.test:80/", b"secret")
        assert any(isinstance(error, kind) for error in causes(caught.value))
        server.assert_nothing_came(name)
        assert client.stats().total == 0
    ended(kind.__name__, lib.name)


@pytest.mark.fault("warm sessions to a server with the wrong TLS identity ({case}): nothing is sent to it")
@pytest.mark.parametrize("case", ["wrong CA", "pin mismatch"])
def test_nothing_is_sent_by_the_pool_itself(server: Farm, case: str, ended: Ended) -> None:
    name, tls, _ = CASES[case]
    server.forget()
    outbound = server.servers[name].outbound(tls=tls, ensure_idle_session=3, heartbeat="100ms")
    with AnyTLSClient(outbound) as client:
        wait_until(lambda: client._pool.state.refill.failed_at > 0 and not client._pool.state.refill.dialing)
        server.assert_nothing_came(name)
        assert client.stats().total == 0
    ended("refills back off; no session")


class Downgrader:
    """A man in the middle who takes TLS 1.3 out of the ClientHello; serves one connection."""

    _VERSIONS = bytes.fromhex("002b0005040304")  # supported_versions: 1.3 first, two in all

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.struck = False
        self.sent_after_hello = b""
        self._thread = Background(self._serve)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._thread.result(10)
        self._listener.close()

    def _serve(self) -> None:
        self._listener.settimeout(5)
        client, _ = self._listener.accept()
        with client, socket.create_connection(self._target, timeout=5) as server:
            client.settimeout(5)
            hello = client.recv(65536)
            # An extension of an unknown number is ignored: what is left of it offers TLS 1.2.
            self.struck = self._VERSIONS in hello
            server.sendall(hello.replace(self._VERSIONS, b"\xfa\xfa" + self._VERSIONS[2:]))
            back = threading.Thread(target=self._pass_back, args=(server, client), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while piece := client.recv(65536):
                    self.sent_after_hello += piece
                    server.sendall(piece)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join(5)

    @staticmethod
    def _pass_back(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := server.recv(65536):
                client.sendall(piece)


@pytest.mark.fault("man in the middle who takes TLS 1.3 out of the ClientHello: nothing but an alert is sent")
def test_a_downgrade_on_the_way(server: Farm, ended: Ended) -> None:
    right = server.servers["right"]
    server.forget()
    with Downgrader(("127.0.0.1", right.port)) as between:
        with (
            AnyTLSClient({**right.outbound(), "server_port": between.port}) as client,
            pytest.raises(DialError),
        ):
            client.create_connection(("target.test", 80), timeout=5)
        server.assert_nothing_came("right", connections=1)
    assert between.struck
    alert = between.sent_after_hello
    assert (len(alert), alert[0]) == (7, 21), "one plain alert record"
    ended("DialError")
