"""Reaching the AnyTLS server, or not: certificates, unreachable and silent servers, wait_ready."""

from __future__ import annotations

import pickle
import socket
import time

import pytest

import anytls_http
from anytls_http import (
    AnyTLSClient,
    AnyTLSTimeout,
    CertificateError,
    ClientClosed,
    DialError,
)
from anytls_http.testing import AnyTLSServer, Site, make_certificate
from anytls_http.testing.site import GREETING
from tests.sockets.targets import Background, FullBacklog, Target, get
from tests.support.timing import takes, wait_until

TARGET = ("target.test", 80)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


class TestCertificates:
    @pytest.mark.parametrize("kind", ["wrong authority", "wrong name", "expired", "not yet valid"])
    def test_nothing_is_sent_to_a_server_that_is_not_trusted(self, kind: str) -> None:
        certificate = make_certificate(
            "anytls.test", expired=kind == "expired", not_yet_valid=kind == "not yet valid"
        )
        with AnyTLSServer(certificate=certificate) as server:
            tls = {}
            if kind == "wrong authority":
                tls["certificate"] = make_certificate("anytls.test").ca_pem
            elif kind == "wrong name":
                tls["server_name"] = "other.test"
            with AnyTLSClient(server.outbound(tls=tls)) as client:
                with pytest.raises(CertificateError) as caught:
                    client.create_connection(TARGET, timeout=5)
                assert isinstance(caught.value, ConnectionError)
                server.wait_for(lambda: len(server.connections) == 1 and server.connections[0].closed)
                assert server.sessions_accepted == 0
                assert server.unauthenticated_bytes == 0
                assert client.stats().total == 0

    @pytest.mark.parametrize("version", ["1.2", "1.3"])
    def test_tls_versions(self, server: AnyTLSServer, site: Site, version: str) -> None:
        tls = {"min_version": version, "max_version": version}
        with (
            AnyTLSClient(server.outbound(tls=tls)) as client,
            client.create_connection(("127.0.0.1", site.port), timeout=5) as sock,
        ):
            assert get(sock).endswith(GREETING)
        assert server.sessions[0].tls_version == f"TLSv{version}"

    def test_a_trusted_one(self, server: AnyTLSServer) -> None:
        with AnyTLSClient(server.outbound()) as client:
            client.wait_ready(1, timeout=5)
            server.wait_for(lambda: server.sessions_accepted == 1)
        assert server.sessions[0].server_name == "anytls.test"


class TestUnreachable:
    def test_a_closed_port(self, server: AnyTLSServer) -> None:
        port = closed_port()
        with (
            AnyTLSClient(server.outbound(server_port=port)) as client,
            takes(0, 1),
            pytest.raises(DialError, match=rf"127\.0\.0\.1:{port}.*refused"),
        ):
            client.create_connection(TARGET, timeout=5)

    def test_a_server_without_tls(self, server: AnyTLSServer, site: Site) -> None:
        with AnyTLSClient(server.outbound(server_port=site.port)) as client, pytest.raises(DialError):
            client.create_connection(TARGET, timeout=5)

    def test_a_server_that_hangs_up(self, server: AnyTLSServer) -> None:
        server.faults.close_on_accept = True
        with AnyTLSClient(server.outbound()) as client, pytest.raises(DialError):
            client.create_connection(TARGET, timeout=5)

    @pytest.mark.parametrize("wait_open", [False, True])
    def test_a_silent_server_ends_at_the_users_deadline(self, server: AnyTLSServer, wait_open: bool) -> None:
        server.freeze()
        with (
            AnyTLSClient(server.outbound()) as client,
            takes(0.3),
            pytest.raises(AnyTLSTimeout, match="TLS handshake"),
        ):
            client.create_connection(TARGET, timeout=0.3, wait_open=wait_open)

    def test_the_handshake_has_a_time_out_of_its_own(self, server: AnyTLSServer) -> None:
        server.freeze()
        with (
            AnyTLSClient(server.outbound(tls={"handshake_timeout": "300ms"})) as client,
            takes(0.3),
            pytest.raises(AnyTLSTimeout, match=r"within 0\.3 s"),
        ):
            client.create_connection(TARGET, timeout=None)

    def test_no_answer_to_tcp(self, server: AnyTLSServer) -> None:
        with (
            FullBacklog() as port,
            AnyTLSClient(server.outbound(server_port=port)) as client,
            takes(0.3),
            pytest.raises(AnyTLSTimeout),
        ):
            client.create_connection(TARGET, timeout=0.3)
        with (
            FullBacklog() as port,
            AnyTLSClient(server.outbound(server_port=port, connect_timeout="300ms")) as client,
            takes(0.3),
            pytest.raises(AnyTLSTimeout),
        ):
            client.create_connection(TARGET, timeout=None)


class TestWaitReady:
    def test_dials_more_than_the_warm_target_where_asked(self, server: AnyTLSServer) -> None:
        with AnyTLSClient(server.outbound(ensure_idle_session=1)) as client:
            client.wait_ready(3, timeout=5)
            stats = client.stats()
            assert stats.idle == 3
            assert stats.deficit == 0
            server.wait_for(lambda: server.sessions_accepted == 3)

    def test_without_any_option(self, server: AnyTLSServer) -> None:
        client = AnyTLSClient(server.outbound())
        client.wait_ready(timeout=5)
        assert client.stats().idle == 1
        client.wait_ready(1, timeout=0)
        client.close()

    def test_tells_the_last_error_at_its_deadline(self, server: AnyTLSServer) -> None:
        port = closed_port()
        with (
            AnyTLSClient(server.outbound(server_port=port)) as client,
            takes(0.3),
            pytest.raises(AnyTLSTimeout, match=r"0 of 2 sessions.*refused"),
        ):
            client.wait_ready(2, timeout=0.3)

    def test_a_failing_server_is_not_dialled_in_a_loop(self, server: AnyTLSServer) -> None:
        server.faults.close_after_authentication = True
        with AnyTLSClient(server.outbound(ensure_idle_session=1)) as client:
            server.wait_for(lambda: len(server.connections) >= 1)
            time.sleep(0.4)
            assert len(server.connections) <= 3
            assert client.stats().total <= 1

    def test_wakes_when_the_client_is_closed(self, server: AnyTLSServer) -> None:
        server.freeze()
        client = AnyTLSClient(server.outbound())
        waiter = Background(client.wait_ready, 1, 10)
        server.wait_for(lambda: len(server.connections) == 1)
        with takes(0, 1):
            client.close()
            assert isinstance(waiter.error(1), ClientClosed)

    def test_the_pool_is_filled_again(self, server: AnyTLSServer, target: Target) -> None:
        with AnyTLSClient(server.outbound(ensure_idle_session=1)) as client:
            client.wait_ready(1, timeout=5)
            with client.create_connection(target.address, timeout=5):
                wait_until(lambda: client.stats().idle == 1)
                assert client.stats().active == 1
            assert client.stats().idle == 2


@pytest.mark.parametrize("name", [name for name in anytls_http.errors.__all__ if name != "AnyTLSError"])
def test_errors_can_be_pickled(name: str) -> None:
    kind = getattr(anytls_http, name)
    error = pickle.loads(pickle.dumps(kind("what happened")))
    assert type(error) is kind
    assert str(error) == "what happened"
    assert isinstance(error, anytls_http.AnyTLSError)
    assert isinstance(error, OSError) == (name != "ConfigError")
