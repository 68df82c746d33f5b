"""The world that the examples of the documentation are run in.

An example says what a user would write: ``proxy.example`` as the server, ``...`` as its password, ``example.org``
as the target. Here these names lead to the embedded test server and to two sites on loopback: by
``socket.getaddrinfo``, by the server's routes, and by an authority that ``SSL_CERT_FILE`` names. So the examples
run as they stand.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anytls_http.protocol.uot import TARGET as UDP_TARGET
from anytls_http.proxy import LocalProxy
from anytls_http.testing import AnyTLSServer, Site, make_authority
from tests.support.uot import UDPEcho, UoTGateway

#: The password of every example.
PASSWORD = "..."
#: AnyTLS servers, all of them the same.
SERVERS = ("proxy.example", "inner.example", "outer.example", "name.example")
#: An HTTP proxy that asks for a name and a password.
OFFICE = ("proxy.office.example", 8080)
#: Answers each datagram with itself.
DNS = (("dns.example", 53), ("dns.example.org", 53))
#: Web sites, http and https.
TARGETS = ("example.org", "www.example.org", "example.com", "api.example.org")

_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_getaddrinfo = socket.getaddrinfo


@contextlib.contextmanager
def world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Set up the world, with ``folder`` as the current directory; give what hidden tests may look at."""
    authority = make_authority()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            AnyTLSServer(PASSWORD, certificate=authority.issue(*SERVERS, "localhost", "127.0.0.1"))
        )
        plain = stack.enter_context(Site())
        secure = stack.enter_context(Site(tls=True, certificate=authority.issue(*TARGETS)))
        echo = stack.enter_context(UDPEcho())
        gateway = stack.enter_context(UoTGateway())
        server.routes[UDP_TARGET] = gateway.address
        for name in TARGETS:
            server.routes[name, 80] = (plain.host, plain.port)
            server.routes[name, 443] = (secure.host, secure.port)
        for name in SERVERS:
            server.routes[name, 443] = (server.host, server.port)
        addresses = {(name, 443): server.port for name in SERVERS}
        addresses.update(dict.fromkeys(DNS, echo.address[1]))
        office = stack.enter_context(LocalProxy(server.outbound(), username="me", password=PASSWORD))
        addresses[OFFICE] = office.port
        monkeypatch.setattr(socket, "getaddrinfo", _names(addresses))

        (folder / "ca.pem").write_text(authority.pem)
        (folder / "roots.pem").write_text(authority.pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "roots.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder / "roots.pem"))
        for name in _PROXY_VARIABLES:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.chdir(folder)
        outbound = {
            "type": "anytls",
            "tag": "proxy",
            "server": "proxy.example",
            "server_port": 443,
            "password": PASSWORD,
            "tls": {"enabled": True},
        }
        (folder / "config.json").write_text(json.dumps({"outbounds": [outbound, {"type": "direct"}]}))
        monkeypatch.setenv("ANYTLS_CONFIG", str(folder / "config.json"))
        yield {
            "server": server,
            "plain": plain,
            "secure": secure,
            "has_curl": shutil.which("curl") is not None,
        }


def _names(addresses: dict[tuple[str, int], int]) -> Any:
    """Return a ``getaddrinfo`` that knows the names of the examples, and asks nobody for others."""

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        found = addresses.get((host, port))
        if found is not None:
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", found))]
        if host in ("127.0.0.1", "::1", "localhost", None, ""):
            return _getaddrinfo(host, port, *args, **kwargs)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    return getaddrinfo
