"""What httpx's ``trace`` extension is told of the tunnel."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from anytls_http import AnyTLSClient, AnyTLSTransport
from anytls_http.net import steps
from anytls_http.pool import rules
from anytls_http.testing import AnyTLSServer, Site


@pytest.fixture(scope="module")
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as server:
        yield server


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


class Trace:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, name: str, facts: dict[str, Any]) -> None:
        self.events.append((name, facts))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events if name.startswith("anytls.")]

    def facts(self, name: str) -> dict[str, Any]:
        return dict(self.events)[f"anytls.{name}"]


def test_the_first_request_and_the_next(server: AnyTLSServer, site: Site) -> None:
    first, second, third = Trace(), Trace(), Trace()
    with AnyTLSClient(server.outbound()) as client:
        with httpx.Client(transport=AnyTLSTransport(client)) as http:
            http.get(site.url, extensions={"trace": first})
            http.get(site.url, extensions={"trace": second})
        with httpx.Client(transport=AnyTLSTransport(client)) as http:
            http.get(site.url, extensions={"trace": third})
    assert first.names == [
        "anytls.open_stream.started",
        "anytls.dial.started",
        "anytls.resolve.started",
        "anytls.resolve.complete",
        "anytls.connect_tcp.started",
        "anytls.connect_tcp.complete",
        "anytls.tls.started",
        "anytls.tls.complete",
        "anytls.dial.complete",
        "anytls.open_stream.complete",
    ]
    order = [name for name, _ in first.events]
    assert order.index("connection.connect_tcp.started") < order.index("anytls.open_stream.started")
    assert order.index("anytls.open_stream.complete") < order.index("connection.connect_tcp.complete")
    assert first.facts("open_stream.started") == {"target": (site.host, site.port)}
    assert first.facts("dial.started") == {"server": "127.0.0.1", "port": server.port}
    assert first.facts("tls.started") == {"server_name": "anytls.test"}
    assert first.facts("tls.complete")["ssl_object"].version() == "TLSv1.3"
    opened = first.facts("open_stream.complete")
    assert opened["reused"] is False
    assert opened["seconds"] >= first.facts("tls.complete")["seconds"] > 0
    # A kept-alive connection needs nothing of the tunnel; a new one takes the idle session.
    assert second.names == []
    assert any(name.startswith("http11.") for name, _ in second.events)
    assert third.names == ["anytls.open_stream.started", "anytls.open_stream.complete"]
    assert third.facts("open_stream.complete")["reused"] is True
    assert third.facts("open_stream.complete")["session"] == opened["session"]


def test_a_dial_that_fails(server: AnyTLSServer) -> None:
    trace = Trace()
    outbound = server.outbound(tls={"server_name": "other.test"})
    with httpx.Client(transport=AnyTLSTransport(outbound)) as http, pytest.raises(httpx.ConnectError):
        http.get("http://never.test/", extensions={"trace": trace})
    assert trace.names[-3:] == ["anytls.tls.failed", "anytls.dial.failed", "anytls.open_stream.failed"]
    assert "other.test" in str(trace.facts("tls.failed")["exception"])


def test_a_detour_is_one_step(server: AnyTLSServer, site: Site) -> None:
    trace = Trace()
    with AnyTLSServer() as hop:
        client = AnyTLSClient(server.outbound(detour="hop"), outbounds=[hop.outbound(tag="hop")])
        with client, httpx.Client(transport=AnyTLSTransport(client)) as http:
            http.get(site.url, extensions={"trace": trace})
    assert trace.names[2:6] == [
        "anytls.detour.started",
        "anytls.detour.complete",
        "anytls.tls.started",
        "anytls.tls.complete",
    ]
    assert "hop" in trace.facts("detour.started")["detour"]


def test_a_proof_of_life(server: AnyTLSServer, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace()
    with httpx.Client(transport=AnyTLSTransport(server.outbound())) as http:
        http.get(site.url)
        monkeypatch.setattr(rules, "silence_limit", lambda options: -1.0)
        http.get(site.url, extensions={"trace": trace})
    assert trace.names == ["anytls.proof_of_life.started", "anytls.proof_of_life.complete"]
    assert trace.facts("proof_of_life.complete")["alive"] is True


def test_a_callable_that_raises_is_logged(
    server: AnyTLSServer, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def trace(name: str, facts: dict[str, Any]) -> None:
        if name.startswith("anytls."):
            raise RuntimeError("no such trace")

    with caplog.at_level(logging.ERROR), httpx.Client(transport=AnyTLSTransport(server.outbound())) as http:
        assert http.get(site.url, extensions={"trace": trace}).status_code == 200
    assert "the trace extension failed at anytls.dial.complete" in caplog.text


def test_nobody_watches_afterwards(server: AnyTLSServer, site: Site) -> None:
    with httpx.Client(transport=AnyTLSTransport(server.outbound())) as http:
        http.get(site.url, extensions={"trace": Trace()})
        assert not steps.watched()
        with pytest.raises(httpx.ConnectError):
            http.get("http://127.0.0.1:1/", extensions={"trace": Trace()})
        assert not steps.watched()


def test_httpx2_too(server: AnyTLSServer, site: Site) -> None:
    httpx2 = pytest.importorskip("httpx2")
    from anytls_http.integrations.httpx2 import AnyTLSTransport as Transport

    trace = Trace()
    with httpx2.Client(transport=Transport(server.outbound())) as http:
        http.get(site.url, extensions={"trace": trace})
    assert "anytls.tls.complete" in trace.names


def test_observers_nest() -> None:
    outer, inner = Trace(), Trace()
    with steps.observed_by(outer), steps.step("a", x=1) as found:
        found["y"] = 2
        with steps.observed_by(inner), pytest.raises(KeyError), steps.step("b"):
            raise KeyError("z")
        with steps.observed_by(None), steps.step("c"):
            pass
    assert [name for name, _ in outer.events] == ["a.started", "a.complete"]
    assert [name for name, _ in inner.events] == ["b.started", "b.failed"]
    assert outer.events[0][1] == {"x": 1}
    assert outer.events[1][1].keys() == {"y", "seconds"}
    with steps.step("d") as nothing:
        nothing["lost"] = True
