"""A newcomer's way: a fresh virtual environment, the README's own words, a request through the real sing-box server.

It installs from the package registry, as a newcomer does (12 s, where the registry is near). So it runs under
tox, which has just done the same, and elsewhere with ``ANYTLS_NEWCOMER=1``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from anytls_http.testing import Site
from tests.docs.pages import ROOT, blocks
from tests.support.singbox import SingBoxServer, skip_without_singbox

#: Seconds from nothing to the answer.
LIMIT = 120

_NOT_COPIED = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "_build", "__pycache__", "tests", "benchmarks", "htmlcov"
)


@skip_without_singbox
@pytest.mark.skipif(
    "TOX_ENV_NAME" not in os.environ and "ANYTLS_NEWCOMER" not in os.environ,
    reason="installs from the package registry: run by tox, or with ANYTLS_NEWCOMER=1",
)
@pytest.mark.timeout(300)
def test_from_nothing_to_a_request(tmp_path: Path) -> None:
    start = time.monotonic()
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=_NOT_COPIED)
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COV_", "SSL_CERT"))
    }
    environment["PATH"] = os.pathsep.join([str(scripts), environment.get("PATH", "")])

    def run(*command: str, **extra: str) -> str:
        done = subprocess.run(
            [str(scripts / command[0]), *command[1:]],
            cwd=checkout,
            env=environment | extra,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    readme = ROOT / "README.md"
    # The first command of the README, word by word.
    assert blocks(readme, "sh")[0].code.startswith("python -m pip install '.[all]' && anytls-http demo ")
    run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ".[all]")
    installed = time.monotonic() - start
    assert "OK: 4 bodies arrived intact" in run("anytls-http", "demo")

    # The first example, with an outbound and a target of one's own pasted over those of the README.
    example = blocks(readme, "python")[0].code
    with SingBoxServer() as server, Site(tls=True) as site:
        mine = server.outbound()
        text, count = re.subn(
            r"^outbound = \{.*?^\}", lambda _: f"outbound = {mine!r}", example, flags=re.DOTALL | re.MULTILINE
        )
        assert count == 1 and text.count("https://example.org/") == 1
        (tmp_path / "first.py").write_text(text.replace("https://example.org/", f"{site.url}/"))
        (tmp_path / "roots.pem").write_text(site.ca_pem)
        (tmp_path / "outbound.json").write_text(json.dumps(mine))
        roots = str(tmp_path / "roots.pem")
        assert run("python", str(tmp_path / "first.py"), SSL_CERT_FILE=roots) == "200\n"
        assert site.requests == 1 and f"inbound connection to 127.0.0.1:{site.port}" in server.log()
        run(
            "anytls-http", "check", "-c", str(tmp_path / "outbound.json"), f"{site.url}/", SSL_CERT_FILE=roots
        )
    took = time.monotonic() - start
    print(f"{took:.0f} s from nothing to the answer, {installed:.0f} of them for the installation")
    assert took < LIMIT
