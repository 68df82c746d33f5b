"""The tools of the other tests do what their tests rely on."""

from __future__ import annotations

import time

import httpx
import pytest

from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING, body_bytes
from tests.support import rawclient as raw
from tests.support.h2site import H2Site
from tests.support.rawclient import RawClient, frame
from tests.support.relay import Relay
from tests.support.singbox import SingBoxClient, SingBoxServer, skip_without_singbox
from tests.support.timing import wait_until


def test_h2site() -> None:
    with H2Site() as site, httpx.Client(http2=True, verify=site.ssl_context(), trust_env=False) as http:
        answer = http.get(site.url + "/bytes/1000000")
        assert answer.http_version == "HTTP/2"
        assert answer.content == body_bytes(1_000_000)
        assert http.post(site.url + "/echo-hash", content=bytes(300_000)).json()["length"] == 300_000
        assert (site.connections, site.requests) == (1, 2)


class TestRelay:
    def test_passes_on_and_counts(self) -> None:
        with Site() as site, Relay((site.host, site.port)) as relay:
            url = f"http://127.0.0.1:{relay.port}/bytes/3000000"
            assert httpx.get(url, trust_env=False).content == body_bytes(3_000_000)
            wait_until(lambda: relay.bytes_down > 3_000_000)  # counted just after it was sent
            assert relay.connections == 1

    def test_delays_each_way(self) -> None:
        with Site() as site, Relay((site.host, site.port), delay=0.1) as relay:
            start = time.monotonic()
            assert httpx.get(f"http://127.0.0.1:{relay.port}/", trust_env=False).content == GREETING
            assert time.monotonic() - start >= 0.2

    @pytest.mark.parametrize("how", ["swallow", "hold"])
    def test_goes_deaf_and_keeps_the_connection(self, how: str) -> None:
        with (
            AnyTLSServer() as server,
            Relay((server.host, server.port)) as relay,
            RawClient(relay.outbound(server.outbound())) as client,
        ):
            client.begin()
            client.wait_for(raw.SERVER_SETTINGS)
            setattr(relay, how, True)
            client.send(frame(raw.HEART_REQUEST))
            client.sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.next_frame()
            assert relay.open_connections == 1
            if how == "hold":  # what is swallowed is lost, what is held comes later
                relay.hold = False
                client.sock.settimeout(5)
                client.wait_for(raw.HEART_RESPONSE)

    def test_cuts_and_refuses(self) -> None:
        with AnyTLSServer() as server, Relay((server.host, server.port)) as relay:
            outbound = relay.outbound(server.outbound())
            with RawClient(outbound) as client:
                client.begin()
                client.wait_for(raw.SERVER_SETTINGS)
                relay.cut()
                assert client.has_ended()
            relay.refuse = True
            with pytest.raises(OSError):
                RawClient(outbound)


@skip_without_singbox
class TestSingBox:
    def test_sing_box_as_a_client_takes_the_embedded_server(self) -> None:
        with AnyTLSServer() as server, Site() as site, SingBoxClient(server.outbound()) as proxy:
            with httpx.Client(proxy=proxy.proxy_url, trust_env=False) as http:
                assert http.get(site.url + "/bytes/300000").content == body_bytes(300_000)
            assert server.streams_opened == 1

    def test_pause_resume_and_restart_on_the_same_port(self) -> None:
        with SingBoxServer() as server:
            port = server.port
            with RawClient(server.outbound(), timeout=0.2) as client:
                client.begin()
                client.wait_for(raw.SERVER_SETTINGS)
                server.pause()
                client.send(frame(raw.HEART_REQUEST))
                with pytest.raises(TimeoutError):
                    client.next_frame()
                server.resume()
                client.sock.settimeout(5)
                client.wait_for(raw.HEART_RESPONSE)
                server.restart()
                assert client.has_ended()
            with RawClient(server.outbound()) as client:
                client.begin()
                client.wait_for(raw.SERVER_SETTINGS)
            assert server.port == port
            server.wait_for_log("inbound connection")

    def test_a_configuration_that_it_refuses(self) -> None:
        with pytest.raises(RuntimeError, match="sing-box ended"), SingBoxServer(nonsense=True):
            pass
