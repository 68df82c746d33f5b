"""The passwords of the tests are in nothing that an object or an error says of itself, and the guard sees leaks."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest
import requests

from anytls_http import AnyTLSAdapter, AnyTLSClient, AnyTLSError, AnyTLSOutbound, AnyTLSTransport, ConfigError
from anytls_http.testing import AnyTLSServer, Site
from tests.support.secrets_guard import PASSWORDS, SecretsGuard, found_in


def told(*things: Any) -> str:
    """What a log or a debugger would show of ``things``."""
    return "\n".join(f"{thing!r} {thing!s} {[thing]}" for thing in things)


def test_the_servers_of_the_tests_use_passwords_that_the_guard_knows() -> None:
    assert AnyTLSServer().password in PASSWORDS


def test_no_object_tells_the_password() -> None:
    with AnyTLSServer() as server, Site() as site, AnyTLSClient(server.outbound()) as client:
        outbound = AnyTLSOutbound.from_dict(server.outbound())
        transport, adapter = AnyTLSTransport(client), AnyTLSAdapter(client)
        with client.create_connection((site.host, site.port), timeout=5) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert sock.recv(100)
            things = [client, outbound, client.outbound, transport, adapter, sock, server, site]
            things += [client.stats(), *client.sessions(), *vars(client).values(), *vars(adapter).values()]
            things += [outbound.describe()]
            assert found_in(told(*things)) is None
        adapter.close()
        transport.close()


def test_no_error_of_a_connection_tells_the_password() -> None:
    with AnyTLSServer() as server:
        bad_certificate = server.outbound(tls={"certificate": None})
        refused = server.outbound()
        outbound = server.outbound()
        server.password = "another one"
        for config, target in ((outbound, ("a.example", 1)), (bad_certificate, ("a.example", 1))):
            with AnyTLSClient(config) as client, pytest.raises(AnyTLSError) as caught:
                client.create_connection(target, timeout=5, wait_open=True)
            assert found_in(told(caught.value) + _shown(caught.value)) is None
            assert found_in(repr(vars(caught.value))) is None
    with AnyTLSClient(refused) as client, pytest.raises(AnyTLSError) as caught:
        client.create_connection(("a.example", 1), timeout=5)
    assert found_in(told(caught.value) + _shown(caught.value)) is None


def test_no_error_of_requests_tells_the_password() -> None:
    with AnyTLSServer() as server, requests.Session() as http:
        http.mount("http://", AnyTLSAdapter(server.outbound()))
        server.password = "another one"
        with pytest.raises(requests.ConnectionError) as caught:
            http.get("http://a.example/", timeout=5)
    assert found_in(told(caught.value) + _shown(caught.value)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"server_port": "x"},
        {"tls": {"enabled": False}},
        {"passwort": PASSWORDS[0]},
        {"password": [PASSWORDS[0]]},
        {"password": {"is": PASSWORDS[0]}},
        {"heartbeat": 3},
    ],
)
def test_no_complaint_about_a_configuration_tells_the_password(fields: dict[str, Any]) -> None:
    outbound = {
        "type": "anytls",
        "server": "a.example",
        "server_port": 443,
        "password": PASSWORDS[0],
        "tls": {"enabled": True},
    }
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_dict(outbound | fields)
    assert found_in(told(caught.value) + _shown(caught.value)) is None


@pytest.mark.parametrize("password", PASSWORDS)
def test_the_guard_sees_messages_arguments_and_tracebacks(password: str) -> None:
    guard = SecretsGuard()
    where = ("anytls_http", logging.DEBUG, __file__, 1)
    guard.look_at(logging.LogRecord(*where, "harmless", None, None))
    assert not guard.leaks
    guard.look_at(logging.LogRecord(*where, f"it is {password}", None, None))
    guard.look_at(logging.LogRecord(*where, "it is %s", (password,), None))
    guard.look_at(logging.LogRecord(*where, "of %d", ({"n": 1, "password": password},), None))
    error = ValueError(password)
    guard.look_at(logging.LogRecord(*where, "failed", None, (ValueError, error, None)))
    assert len(guard.leaks) == 4


def _shown(error: BaseException) -> str:
    """Return the traceback without source lines: those of a test may name a password."""
    return "".join(traceback.TracebackException.from_exception(error).format_exception_only()) + repr(
        [error.__cause__, error.__context__]
    )
