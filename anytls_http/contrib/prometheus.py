"""The pool's numbers for Prometheus; needs ``prometheus-client`` (``pip install 'anytls_http[prometheus]'``).

    from prometheus_client import REGISTRY, start_http_server
    REGISTRY.register(PoolCollector({"frankfurt": client}))
    start_http_server(9100)

Nothing is counted twice or kept here: each scrape asks the clients for their ``stats()``.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from anytls_http.client import AnyTLSClient

if TYPE_CHECKING:
    from anytls_http.pool.stats import PoolStats

__all__ = ["PoolCollector"]


class PoolCollector(Collector):
    """A collector for a ``CollectorRegistry``, of one client or several.

    ``clients``: a client, called by its outbound's tag (or ``server:port``) in the label ``client``; or a dict
    of names to clients. They are held weakly: one that nobody uses any more vanishes from the
    metrics, and so does a closed one's pool, which is empty.

    | metric | labels besides ``client`` | what |
    | --- | --- | --- |
    | ``anytls_pool_sessions`` | ``state``: ``idle``, ``busy`` | sessions now |
    | ``anytls_pool_deficit_sessions`` | | sessions missing to ``ensure_idle_session`` |
    | ``anytls_pool_oldest_session_age_seconds`` | | 0 without sessions |
    | ``anytls_pool_sessions_created_total`` | ``reason``: as ``PoolStats.created`` | |
    | ``anytls_pool_sessions_closed_total`` | ``reason``: as ``PoolStats.closed`` | |
    | ``anytls_pool_streams_opened_total`` | | |
    | ``anytls_pool_sent_bytes_total``, ``anytls_pool_received_bytes_total`` | | the users' bytes |
    """

    def __init__(self, clients: AnyTLSClient | Mapping[str, AnyTLSClient]) -> None:
        self._lock = threading.Lock()
        self._clients: dict[str, weakref.ref[AnyTLSClient]] = {}
        if isinstance(clients, AnyTLSClient):
            outbound = clients.outbound
            clients = {outbound.tag or f"{outbound.server}:{outbound.server_port}": clients}
        for name, client in clients.items():
            self.add(name, client)

    def add(self, name: str, client: AnyTLSClient) -> None:
        """Collect from ``client`` too, in place of the one that was called ``name`` so far."""
        with self._lock:
            self._clients[name] = weakref.ref(client)

    def remove(self, name: str) -> None:
        """Collect no longer from the client called ``name``. Raises :class:`KeyError` where there is none."""
        with self._lock:
            del self._clients[name]

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values: registering asks no client."""
        return self._metrics({})

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment."""
        with self._lock:
            found = {name: reference() for name, reference in self._clients.items()}
            for name, client in found.items():
                if client is None:
                    del self._clients[name]
        return self._metrics({name: client.stats() for name, client in found.items() if client is not None})

    def _metrics(self, stats: Mapping[str, PoolStats]) -> Iterator[Metric]:
        def gauge(name: str, text: str, value: Callable[[PoolStats], float]) -> Metric:
            family = GaugeMetricFamily(f"anytls_pool_{name}", text, labels=["client"])
            for client, numbers in stats.items():
                family.add_metric([client], value(numbers))
            return family

        def counter(name: str, text: str, value: Callable[[PoolStats], int]) -> Metric:
            family = CounterMetricFamily(f"anytls_pool_{name}", text, labels=["client"])
            for client, numbers in stats.items():
                family.add_metric([client], value(numbers))
            return family

        def reasons(name: str, text: str, value: Callable[[PoolStats], Mapping[str, int]]) -> Metric:
            family = CounterMetricFamily(f"anytls_pool_{name}", text, labels=["client", "reason"])
            for client, numbers in stats.items():
                for reason, count in value(numbers).items():
                    family.add_metric([client, reason], count)
            return family

        sessions = GaugeMetricFamily("anytls_pool_sessions", "Sessions now", labels=["client", "state"])
        for client, numbers in stats.items():
            sessions.add_metric([client, "idle"], numbers.idle)
            sessions.add_metric([client, "busy"], numbers.active)
        yield sessions
        yield gauge(
            "deficit_sessions", "Sessions missing to ensure_idle_session", lambda numbers: numbers.deficit
        )
        yield gauge(
            "oldest_session_age_seconds",
            "Age of the oldest session, 0 without sessions",
            lambda numbers: numbers.oldest_age or 0.0,
        )
        yield reasons("sessions_created", "Sessions created", lambda numbers: numbers.created)
        yield reasons("sessions_closed", "Sessions closed", lambda numbers: numbers.closed)
        yield counter("streams_opened", "Streams opened", lambda numbers: numbers.streams_opened)
        yield counter("sent_bytes", "Bytes sent, of the users", lambda numbers: numbers.bytes_sent)
        yield counter(
            "received_bytes", "Bytes received, for the users", lambda numbers: numbers.bytes_received
        )
