"""The pool's numbers for Prometheus, and the example dashboard that shows them."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from anytls_http import AnyTLSClient
from anytls_http.contrib.prometheus import PoolCollector
from anytls_http.pool.stats import CLOSED_BY, CREATED_FOR
from anytls_http.testing import AnyTLSServer, Site
from tests.support.timing import wait_until

DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana-dashboard.json"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(scope="module")
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as server:
        yield server


def test_the_numbers_of_a_client(server: AnyTLSServer, registry: CollectorRegistry) -> None:
    with (
        Site() as site,
        AnyTLSClient(server.outbound(tag="mine", ensure_idle_session=2)) as client,
    ):
        registry.register(PoolCollector(client))
        client.wait_ready(2, timeout=5)
        with client.create_connection((site.host, site.port), timeout=5) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while sock.recv(1000):
                pass
            # The session that is dialled in its place is nobody's for a moment: not idle yet.
            wait_until(lambda: not client.stats().deficit)
            busy = {"client": "mine", "state": "busy"}
            assert registry.get_sample_value("anytls_pool_sessions", busy) == 1

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(f"anytls_pool_{name}", {"client": "mine", **labels})

        stats = client.stats()
        assert value("sessions", state="busy") == 0
        assert value("sessions", state="idle") == stats.idle >= 2
        assert value("deficit_sessions") == 0
        assert value("oldest_session_age_seconds") == pytest.approx(stats.oldest_age, abs=1)
        assert value("streams_opened_total") == 1
        assert value("sent_bytes_total") == 18
        assert value("received_bytes_total") == stats.bytes_received > 40
        for reason in CREATED_FOR:
            assert value("sessions_created_total", reason=reason) == stats.created[reason]
        for reason in CLOSED_BY:
            assert value("sessions_closed_total", reason=reason) == 0
    closed = value("sessions_closed_total", reason="client_closed")
    assert closed == sum(stats.created.values())
    assert value("oldest_session_age_seconds") == 0


def test_several_clients_by_label(server: AnyTLSServer, registry: CollectorRegistry) -> None:
    clients = {
        "one": AnyTLSClient(server.outbound()),
        "two": AnyTLSClient(server.outbound(ensure_idle_session=3)),
    }
    collector = PoolCollector(clients)
    registry.register(collector)
    name = "anytls_pool_deficit_sessions"
    assert registry.get_sample_value(name, {"client": "one"}) == 0
    assert registry.get_sample_value(name, {"client": "two"}) == 3
    collector.remove("one")
    assert registry.get_sample_value(name, {"client": "one"}) is None
    with pytest.raises(KeyError):
        collector.remove("one")
    collector.add("two", clients["one"])
    assert registry.get_sample_value(name, {"client": "two"}) == 0


def test_without_a_tag_it_is_the_server(server: AnyTLSServer, registry: CollectorRegistry) -> None:
    client = AnyTLSClient(server.outbound())
    registry.register(PoolCollector(client))
    labels = {"client": f"127.0.0.1:{server.port}", "state": "idle"}
    assert registry.get_sample_value("anytls_pool_sessions", labels) == 0


def test_a_client_that_is_gone_vanishes(server: AnyTLSServer, registry: CollectorRegistry) -> None:
    client = AnyTLSClient(server.outbound(tag="gone"))
    registry.register(PoolCollector(client))
    assert b'client="gone"' in generate_latest(registry)
    del client
    gc.collect()
    assert b'client="gone"' not in generate_latest(registry)


def test_names_and_labels_keep_the_conventions(server: AnyTLSServer, registry: CollectorRegistry) -> None:
    client = AnyTLSClient(server.outbound(tag='a "quoted" \\ name'))
    registry.register(PoolCollector(client))
    families = list(text_string_to_metric_families(generate_openmetrics(registry).decode()))
    assert len(families) == 8
    for family in families:
        assert family.name.startswith("anytls_pool_")
        assert family.documentation
        assert {sample.labels["client"] for sample in family.samples} == {'a "quoted" \\ name'}
    assert server.password not in generate_latest(registry).decode()


def test_the_dashboard_asks_for_metrics_that_exist(server: AnyTLSServer, registry: CollectorRegistry) -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    client = AnyTLSClient(server.outbound())
    registry.register(PoolCollector(client))
    names = {sample.name for family in registry.collect() for sample in family.samples}
    labels = {label for family in registry.collect() for sample in family.samples for label in sample.labels}
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            found = set(re.findall(r"anytls_\w+", target["expr"]))
            assert found, target
            asked |= found
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels
    assert asked == names
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
