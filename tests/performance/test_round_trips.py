"""Round trips are counted, not timed: a relay makes each cost the same, and long enough to be told apart.

The relay itself answers TCP's handshake at once, so a cold connection is one round trip more in life.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from anytls_http import AnyTLSClient, AnyTLSTransport
from anytls_http.testing import Site
from tests.support.relay import Relay
from tests.support.singbox import SingBoxServer, skip_without_singbox

pytestmark = skip_without_singbox

#: Each way, in seconds: a loaded machine's delays stay far below a round trip.
DELAY = 0.1


@pytest.fixture(scope="module")
def singbox() -> Iterator[SingBoxServer]:
    with SingBoxServer() as server:
        yield server


@pytest.fixture(params=["http", "https"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with Site(tls=request.param == "https") as site:
        yield site


def round_trips(client: AnyTLSClient, site: Site) -> int:
    """GET once on a new HTTP connection; return the round trips of the way to the server that it took."""
    context = site.ssl_context() if site.url.startswith("https") else True
    with httpx.Client(transport=AnyTLSTransport(client, verify=context), timeout=10) as http:
        start = time.perf_counter()
        assert http.get(site.url).status_code == 200
        return int((time.perf_counter() - start) / (2 * DELAY) + 0.2)


def test_a_warm_session_costs_no_round_trip(singbox: SingBoxServer, site: Site) -> None:
    """Nothing waits for the server before the request is sent: http is 1, https with TLS 1.3 is 2."""
    with (
        Relay(("127.0.0.1", singbox.port), DELAY) as relay,
        AnyTLSClient(relay.outbound(singbox.outbound())) as client,
    ):
        client.wait_ready(1, timeout=10)
        assert round_trips(client, site) == (2 if site.url.startswith("https") else 1)
        # And the session is reused as it is.
        assert round_trips(client, site) == (2 if site.url.startswith("https") else 1)
        assert client.stats().total == 1


def test_a_cold_session_adds_the_handshakes_only(singbox: SingBoxServer, site: Site) -> None:
    """TLS 1.3 with the server adds one (and TCP one, which the relay doesn't show)."""
    with (
        Relay(("127.0.0.1", singbox.port), DELAY) as relay,
        AnyTLSClient(relay.outbound(singbox.outbound())) as client,
    ):
        assert round_trips(client, site) == (3 if site.url.startswith("https") else 2)
