"""Which of urllib3's pools a request gets, and its path: as requests' own adapter says, although it is remembered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

requests = pytest.importorskip("requests")

from requests.adapters import HTTPAdapter  # noqa: E402

from anytls_http.integrations import requests as integration  # noqa: E402
from anytls_http.integrations.requests import AnyTLSAdapter  # noqa: E402

OUTBOUND = {
    "type": "anytls",
    "server": "127.0.0.1",
    "server_port": 1,
    "password": "p",
    "tls": {"enabled": True},
}


def prepared(url: str) -> Any:
    request = requests.Request("GET", "http://any/").prepare()
    request.url = url  # as a hook or a subclass may leave it
    return request


@pytest.fixture
def ours() -> Iterator[AnyTLSAdapter]:
    adapter = AnyTLSAdapter(OUTBOUND)
    yield adapter
    adapter.close()


@pytest.fixture
def theirs() -> Iterator[HTTPAdapter]:
    adapter = HTTPAdapter()
    yield adapter
    adapter.close()


SETTINGS = [(True, None), (1, None), (0, None), (False, None), (None, None), (".", None), ("nowhere.pem", None),
            (True, "c.pem"), (True, ("c.pem", "k.pem")), (False, ["c.pem"])]  # fmt: skip
URLS = ["http://a/", "HTTP://A/x", "https://a/", "https://a:8443/", "https://a?x/y", "https://a#x/y", "https://u:p@a/",
        "https://[::1]:443/", "http://a"]  # fmt: skip


@pytest.mark.parametrize("again", [False, True])
def test_attributes_are_those_of_requests(ours: AnyTLSAdapter, theirs: Any, again: bool) -> None:
    for _ in range(1 + again):
        for verify, cert in SETTINGS:
            for url in URLS:
                said = ours.build_connection_pool_key_attributes(prepared(url), verify, cert)
                assert said == theirs.build_connection_pool_key_attributes(prepared(url), verify, cert)


def test_what_a_subclass_does_to_them_stays_its_own(ours: AnyTLSAdapter) -> None:
    for _ in range(2):
        host_params, pool_kwargs = ours.build_connection_pool_key_attributes(prepared("https://a/"), True)
        assert "mine" not in host_params | pool_kwargs
        host_params["mine"] = pool_kwargs["mine"] = "x"


def test_pools_differ_by_what_is_verified(ours: AnyTLSAdapter) -> None:
    strict, lax, strict_again = (
        ours.get_connection_with_tls_context(prepared("https://a/"), verify) for verify in (True, False, True)
    )
    assert strict is strict_again
    assert strict is not lax
    assert (strict.cert_reqs, lax.cert_reqs) == ("CERT_REQUIRED", "CERT_NONE")


def test_few_targets_are_remembered(ours: AnyTLSAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integration, "MAX_REMEMBERED", 5)
    for number in range(20):
        host_params, _ = ours.build_connection_pool_key_attributes(prepared(f"https://a{number}/"), True)
        assert host_params["host"] == f"a{number}"
        assert len(ours._pool_attributes) <= 5


def test_a_port_that_is_none_is_told(ours: AnyTLSAdapter) -> None:
    for _ in range(2):
        with pytest.raises(requests.exceptions.InvalidURL, match=r"[Pp]ort"):
            ours.get_connection_with_tls_context(prepared("https://a:99999/"), True)


@pytest.mark.parametrize(
    "url", ["http://a/", "http://a/x?y=z#w", "http://a//b//c", "http://a", "https://a//", "http://a?x"]
)
def test_the_path_is_that_of_requests(ours: AnyTLSAdapter, theirs: Any, url: str) -> None:
    proxies = {"http": "http://proxy:1"}
    assert ours.request_url(prepared(url), proxies) == theirs.request_url(prepared(url), {})
