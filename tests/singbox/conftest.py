"""Fixtures of the tests of HTTP through the real sing-box: a server, origins and libraries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anytls_http.testing import Certificate, Site, make_certificate
from tests.singbox.http_libraries import NAMES, Library, library_of
from tests.support.singbox import SingBoxServer


@pytest.fixture(params=NAMES)
def lib(request: pytest.FixtureRequest) -> Library:
    pytest.importorskip(request.param)
    return library_of(request.param)


@pytest.fixture(scope="module")
def server() -> Iterator[SingBoxServer]:
    """One process for the tests that leave it as it is."""
    with SingBoxServer() as running:
        yield running


@pytest.fixture
def own() -> Iterator[SingBoxServer]:
    """A process to be killed."""
    with SingBoxServer() as running:
        yield running


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    """The certificate of the https targets."""
    return make_certificate("localhost", "127.0.0.1", "::1")


@pytest.fixture(scope="session")
def ca_file(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the libraries have to trust for :func:`tls_site`."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_text(certificate.ca_pem)
    return str(path)


@pytest.fixture(scope="module")
def tls_site(certificate: Certificate) -> Iterator[Site]:
    with Site(tls=True, certificate=certificate) as running:
        yield running


@pytest.fixture(params=["http", "https"])
def any_site(request: pytest.FixtureRequest, site: Site, tls_site: Site) -> Site:
    return site if request.param == "http" else tls_site


@pytest.fixture(params=["http", "https"])
def own_site(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[Site]:
    """A site whose slow answers end with the test."""
    with Site(tls=request.param == "https", certificate=certificate) as running:
        yield running
