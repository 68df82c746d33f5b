"""The examples of docs/recipes.md, run as they stand there."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import GREETING
from tests.support.smtp import MailServer

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"

#: Those with a server of their own, and what they import.
_WEBSOCKETS = {"websockets": "websockets", "httpx-ws": "httpx_ws"}
#: What can't run here, and what it would need.
_NOT_HERE = {"Browsers: Playwright and Selenium": "a browser", "paramiko": "an SSH server"}


def recipes() -> dict[str, str]:
    """Return the first example under each heading."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        match = re.search(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        assert match is not None, section
        found[section.partition("\n")[0]] = match[1]
    return found


RECIPES = recipes()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AnyTLSServer]:
    """The names of the page, behind the test server."""
    with (
        AnyTLSServer() as running,
        Site() as site,
        Site(tls=True, names=["example.org", "mail.example.org"]) as secure,
    ):
        running.routes["example.org", 80] = (site.host, site.port)
        running.routes["example.org", 443] = (secure.host, secure.port)
        roots = tmp_path / "roots.pem"
        roots.write_text(secure.ca_pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        assert secure.certificate is not None
        with MailServer(secure.certificate.server_context([])) as mail:
            running.routes["mail.example.org", 587] = mail.address
            yield running
            assert len(mail.mails) <= 1
            assert all(b"through the tunnel" in one for one in mail.mails)


@pytest.fixture
def websocket_echo(server: AnyTLSServer) -> Iterator[None]:
    serve: Any = pytest.importorskip("websockets.sync.server").serve

    def echo(websocket: Any) -> None:
        for message in websocket:
            websocket.send(message)

    with serve(echo, "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        server.routes["ws.example.org", 80] = running.socket.getsockname()
        yield
        running.shutdown()
        thread.join(5)


def run(name: str, server: AnyTLSServer) -> None:
    start = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert start is not None
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(start[1], str(PAGE), "exec"), names)
    names["outbound"] = server.outbound()
    exec(compile(RECIPES[name], f"{PAGE} ({name})", "exec"), names)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in {*_NOT_HERE, *_WEBSOCKETS}])
def test_recipe(name: str, server: AnyTLSServer, capsys: pytest.CaptureFixture[str]) -> None:
    run(name, server)
    out = capsys.readouterr().out
    if name == "smtplib":
        assert server.streams_opened == 1
    else:
        assert GREETING.decode().strip() in out or "200 OK" in out
        assert server.streams_opened >= 1


@pytest.mark.parametrize(("name", "module"), _WEBSOCKETS.items())
def test_websocket_recipe(
    name: str, module: str, server: AnyTLSServer, websocket_echo: None, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(module)
    run(name, server)
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize("name", _NOT_HERE)
def test_recipe_is_python(name: str) -> None:
    compile(RECIPES[name], str(PAGE), "exec")
