"""``domain_resolver``: the server's name looked up at a DNS server of the file, by each type of server."""

from __future__ import annotations

import builtins
import importlib.util
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dns", reason="needs dnspython: pip install 'anytls_http[dns]'")

import dns.rcode

from anytls_http import AnyTLSClient, AnyTLSOutbound
from anytls_http.errors import AnyTLSTimeout, ConfigError, DialError
from anytls_http.net import dns as lookups
from anytls_http.testing import AnyTLSServer
from tests.support.dnsserver import DNSTestServer
from tests.support.timing import LATE, STARVED

NAME = "proxy.example"


@pytest.fixture
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as running:
        yield running


@pytest.fixture
def short_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups that nobody waits for any more end soon."""
    monkeypatch.setattr(lookups, "QUERY_TIMEOUT", 1.0)


def client_of(
    server: AnyTLSServer, entries: list[dict[str, Any]], resolver: Any = "dns", **fields: Any
) -> AnyTLSClient:
    config = server.outbound(server=NAME, domain_resolver=resolver, **fields)
    return AnyTLSClient(AnyTLSOutbound.from_dict(config, dns_servers=entries))


def connect(client: AnyTLSClient, timeout: float = 5) -> str:
    """Dial; return the address that was reached."""
    with client, client.create_connection(("127.0.0.1", 9), timeout) as sock:
        peer = sock._session._tls.peer_address
        assert peer is not None
        return str(peer[0])


@pytest.mark.parametrize("kind", ["udp", "tcp", "tls", "https"])
def test_each_type_of_server(server: AnyTLSServer, kind: str) -> None:
    with DNSTestServer(kind) as dns_server:
        dns_server.records[NAME] = ["127.0.0.1"]
        assert connect(client_of(server, [dns_server.server()])) == "127.0.0.1"
        assert sorted(dns_server.questions) == [(NAME, "A"), (NAME, "AAAA")]


def test_the_servers_of_the_file(server: AnyTLSServer, tmp_path: Path) -> None:
    with DNSTestServer() as dns_server:
        dns_server.records[NAME] = ["127.0.0.1"]
        document = {
            "dns": {"servers": [{"type": "fakeip", "tag": "other"}, dns_server.server()]},
            "outbounds": [server.outbound(server=NAME, domain_resolver={"server": "dns"})],
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps(document))
        outbound = AnyTLSOutbound.from_file(path)
        assert connect(AnyTLSClient(outbound)) == "127.0.0.1"
        assert AnyTLSOutbound.from_json(json.dumps(outbound.to_config())) == outbound
        assert outbound.to_dict()["domain_resolver"] == "dns"


@pytest.mark.parametrize(
    "entry", [{"type": "local", "tag": "dns"}, {"type": "local", "tag": "dns", "prefer_go": True}]
)
def test_local_is_the_system(server: AnyTLSServer, entry: dict[str, Any]) -> None:
    config = server.outbound(server="localhost", domain_resolver="dns", domain_strategy="ipv4_only")
    outbound = AnyTLSOutbound.from_dict(config, dns_servers=[entry])
    assert outbound.dial.resolver is None
    assert connect(AnyTLSClient(outbound)) == "127.0.0.1"


@pytest.mark.parametrize(
    ("strategy", "questions"),
    [("ipv4_only", ["A"]), ("prefer_ipv4", ["A", "AAAA"]), ("prefer_ipv6", ["A", "AAAA"])],
)
def test_the_strategy(server: AnyTLSServer, strategy: str, questions: list[str]) -> None:
    with DNSTestServer() as dns_server:
        dns_server.records[NAME] = ["127.0.0.1"]
        connect(client_of(server, [dns_server.server()], {"server": "dns", "strategy": strategy}))
        assert sorted(kind for _, kind in dns_server.questions) == questions


def test_the_strategy_orders_the_families() -> None:
    from anytls_http.net.resolve import resolve

    with DNSTestServer() as dns_server:
        dns_server.records[NAME] = ["192.0.2.1", "2001:db8::1"]
        with AnyTLSServer() as server:
            outbound = client_of(server, [dns_server.server()]).outbound

        def hosts(strategy: str) -> list[str]:
            found = resolve(NAME, 1, strategy, time.monotonic() + 5, outbound.dial.resolver)
            return [str(address[0]) for _, address in found]

        assert hosts("prefer_ipv4") == ["192.0.2.1", "2001:db8::1"]
        assert hosts("prefer_ipv6") == ["2001:db8::1", "192.0.2.1"]
        assert hosts("ipv6_only") == ["2001:db8::1"]


def test_aliases_are_followed_and_cut_answers_asked_for_again(server: AnyTLSServer) -> None:
    with DNSTestServer() as dns_server:
        dns_server.records["real.example"] = ["127.0.0.1"]
        dns_server.aliases[NAME] = "real.example"
        dns_server.truncate = True
        assert connect(client_of(server, [dns_server.server()])) == "127.0.0.1"


@pytest.mark.parametrize("mute", ["A", "AAAA"])
def test_one_family_without_answer_costs_little(server: AnyTLSServer, short_queries: None, mute: str) -> None:
    with DNSTestServer() as dns_server:
        dns_server.records[NAME] = ["127.0.0.1", "::ffff:127.0.0.1"]
        dns_server.mute = {mute}
        started = time.monotonic()
        connect(client_of(server, [dns_server.server()]))
        assert time.monotonic() - started < lookups.OTHER_FAMILY_PATIENCE + LATE


@pytest.mark.parametrize("kind", ["tls", "https"])
def test_a_dns_server_given_by_name(server: AnyTLSServer, kind: str) -> None:
    """Its own name is looked up at the one that it names, or by the system."""
    with DNSTestServer() as first, DNSTestServer(kind) as second:
        first.records["dns.example"] = ["127.0.0.1"]
        second.records[NAME] = ["127.0.0.1"]
        entries = [
            second.server(server="dns.example", domain_resolver={"server": "first", "strategy": "ipv4_only"}),
            first.server(tag="first"),
        ]
        assert connect(client_of(server, entries)) == "127.0.0.1"
        assert first.questions == [("dns.example", "A")]
        assert connect(client_of(server, [second.server(server="localhost", domain_strategy="ipv4_only")]))


def test_the_hops_of_a_detour_have_resolvers_of_their_own(server: AnyTLSServer, tmp_path: Path) -> None:
    with DNSTestServer() as dns_server, AnyTLSServer() as outer:
        dns_server.records["outer.example"] = ["127.0.0.1"]
        hop = outer.outbound(tag="up", server="outer.example", domain_resolver="dns")
        document = {
            "dns": {"servers": [dns_server.server()]},
            "outbounds": [server.outbound(tag="in", detour="up"), hop],
        }
        outbound = AnyTLSOutbound.from_json(json.dumps(document))
        with AnyTLSClient(outbound) as client:
            client.wait_ready(1, 5)
        assert ("outer.example", "A") in dns_server.questions
        assert AnyTLSOutbound.from_json(json.dumps(outbound.to_config())) == outbound


# -- what goes wrong --------------------------------------------------------------------------------------


def failure(server: AnyTLSServer, entry: dict[str, Any], timeout: float = 5) -> OSError:
    with pytest.raises(OSError) as caught:
        connect(client_of(server, [entry]), timeout)
    return caught.value


def test_what_the_server_says_is_in_the_error(server: AnyTLSServer) -> None:
    with DNSTestServer() as dns_server:
        said = f'name lookup of "{NAME}" failed: dns (udp, 127.0.0.1:{dns_server.port})'
        error = failure(server, dns_server.server())
        assert type(error) is DialError
        assert str(error) == f"{said} says that the name doesn't exist"
        dns_server.rcode = dns.rcode.REFUSED
        assert str(failure(server, dns_server.server())) == f"{said}: REFUSED"
        dns_server.rcode = None
        dns_server.records[NAME] = []
        assert str(failure(server, dns_server.server())) == f'name lookup of "{NAME}" found no address'


@pytest.mark.parametrize("kind", ["udp", "tcp", "tls", "https"])
def test_no_answer_costs_the_callers_time_and_no_more(
    server: AnyTLSServer, short_queries: None, kind: str
) -> None:
    with DNSTestServer(kind) as dns_server:
        dns_server.mute = {"A", "AAAA"}
        started = time.monotonic()
        error = failure(server, dns_server.server(), 0.3)
        assert 0.25 < time.monotonic() - started < 0.3 + LATE
        assert type(error) is AnyTLSTimeout
        assert str(error).startswith(f'name lookup of "{NAME}" timed out after 0.3')
        error = failure(server, dns_server.server(), 5)
        assert f" dns ({kind}, 127.0.0.1:{dns_server.port})" in str(error)


# dnspython 2.9 doesn't close the socket of a refused connection to an https server; it goes with its frame.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("kind", "words"),
    [("tcp", "Connection refused"), ("tls", "Connection refused"), ("https", "could not connect")],
)
def test_a_server_that_is_not_there(server: AnyTLSServer, kind: str, words: str) -> None:
    with DNSTestServer(kind) as dns_server:
        entry = dns_server.server()
    started = time.monotonic()
    assert f": dns ({kind}, 127.0.0.1:{dns_server.port}): {words}" in str(failure(server, entry))
    assert time.monotonic() - started < 2 + STARVED


@pytest.mark.parametrize("kind", ["tls", "https"])
@pytest.mark.parametrize(
    "tls", [{"server_name": "wrong.example"}, {"certificate": None}], ids=["wrong name", "unknown root"]
)
def test_the_certificate_of_the_dns_server_is_verified(
    server: AnyTLSServer, short_queries: None, kind: str, tls: dict[str, Any]
) -> None:
    with DNSTestServer(kind) as dns_server:
        dns_server.records[NAME] = ["127.0.0.1"]
        entry = dns_server.server()
        entry["tls"] = {**entry["tls"], **tls}  # type: ignore[dict-item]
        message = str(failure(server, entry)).lower()
        assert "certificate" in message
        assert not dns_server.questions
        entry["tls"] = {"insecure": True}
        assert connect(client_of(server, [entry])) == "127.0.0.1"


# -- the configuration ------------------------------------------------------------------------------------

REMOTE = {"tag": "dns", "server": "192.0.2.53"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"tag": "x"}, 'there is no DNS server with the tag "dns"'),
        ({"tag": "dns"}, 'type: is required, takes one of "local", "udp", "tcp", "tls", "https"'),
        ({"tag": "dns", "address": "tls://192.0.2.53"}, "type: is required, takes one of"),
        ({"type": "fakeip", "tag": "dns"}, 'type: got "fakeip" (a string), takes one of'),
        ({"type": "udp", "tag": "dns"}, "server: is required: the host name or IP address of the DNS server"),
        ({"type": "udp", **REMOTE, "tls": {}}, "tls: unknown field"),
        ({"type": "udp", **REMOTE, "detour": "up"}, "detour: unknown field"),
        ({"type": "tls", **REMOTE, "tls": {"alpn": "x"}}, "tls.alpn: is not supported for a DNS server"),
        ({"type": "tls", **REMOTE, "tls": {"nonsense": 1}}, "tls.nonsense: unknown field"),
        ({"type": "tls", **REMOTE, "tls": 5}, "tls: got 5 (a number), takes an object"),
        ({"type": "https", **REMOTE, "path": "x"}, 'path: got "x", takes the path of a URL'),
        ({"type": "https", **REMOTE, "method": "GET"}, 'method: got "GET", takes "POST"'),
        ({"type": "udp", **REMOTE, "domain_resolver": "dns"}, "domain_resolver: a loop: dns -> dns"),
        (
            {"type": "udp", **REMOTE, "domain_resolver": "x"},
            'domain_resolver: there is no DNS server with the tag "x"',
        ),
    ],
)
def test_what_is_wrong_in_a_server_is_named(entry: dict[str, Any], message: str) -> None:
    with AnyTLSServer() as server:
        config = server.outbound(server=NAME, domain_resolver="dns")
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_dict(config, dns_servers=[{"type": "udp", "tag": "first"}, entry])
    place = "" if entry.get("tag") == "x" else "dns.servers[1]."
    assert str(caught.value).startswith(f"domain_resolver: {place}{message}")


def test_a_tag_without_a_file_is_refused() -> None:
    with AnyTLSServer() as server:
        config = server.outbound(domain_resolver="dns")
    with pytest.raises(ConfigError) as caught:
        AnyTLSClient(config)
    assert str(caught.value) == (
        'domain_resolver: there is no DNS server with the tag "dns"'
        ' ("local" is the system; from_file knows those of the file\'s dns.servers)'
    )


def test_without_dnspython_it_says_what_to_install(
    server: AnyTLSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DNSTestServer() as dns_server:
        outbound = client_of(server, [dns_server.server()]).outbound
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *args: None if name == "dns" else find_spec(name, *args)
        )
        with pytest.raises(ConfigError, match=r"pip install 'anytls_http\[dns\]'"):
            client_of(server, [dns_server.server()])
        # Or it was there when the configuration was made, and isn't in the process that uses it.
        monkeypatch.delitem(sys.modules, "anytls_http.net.dns")
        real_import = builtins.__import__

        def no_dns(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.startswith("dns."):
                raise ImportError("No module named 'dns'")
            return real_import(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", no_dns)
        with pytest.raises(DialError, match=r"pip install 'anytls_http\[dns\]'"):
            connect(AnyTLSClient(outbound))


def test_nothing_is_imported_without_need() -> None:
    import subprocess

    code = (
        "import sys, anytls_http; from anytls_http import AnyTLSClient; "
        "AnyTLSClient({'server': 'a', 'server_port': 1, 'password': 'x', 'tls': {'enabled': True}}).close(); "
        "sys.exit('dns' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_system_is_asked_without_a_resolver(
    server: AnyTLSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if host == NAME else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert connect(client_of(server, [], "local")) == "127.0.0.1"
    assert asked == [NAME]
