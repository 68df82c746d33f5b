"""The pages say of the code what is so: names, paths, commands, fields, exceptions."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields

import pytest

import anytls_http
from anytls_http import cli, errors, testing
from anytls_http.pool.events import EVENT_NAMES
from anytls_http.pool.stats import CLOSED_BY, CREATED_FOR
from anytls_http.testing import Faults
from tests.docs.pages import ROOT, pages
from tests.singbox.http_libraries import library_of

_PAGES = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in pages()}


def test_every_public_name_is_in_the_reference() -> None:
    public = {*anytls_http.__all__, *anytls_http._LAZY, *testing.__all__} - {"__version__"}
    missing = [name for name in public if not re.search(rf":: (\S+\.)?{name}\b", _PAGES["docs/api.md"])]
    assert missing == []


@pytest.mark.parametrize("name", _PAGES)
def test_paths_are_there(name: str) -> None:
    found = re.findall(r"`((?:tests|docs|benchmarks|anytls_http|examples)/[\w./-]+)`", _PAGES[name])
    assert [path for path in found if not (ROOT / path).exists()] == []


def test_every_command_is_shown() -> None:
    (commands,) = (
        action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    everything = "\n".join(_PAGES.values())
    assert [name for name in commands.choices if f"anytls-http {name}" not in everything] == []


def test_observability_has_every_event_reason_and_metric() -> None:
    page = _PAGES["docs/observability.md"]
    names = [*EVENT_NAMES, *CLOSED_BY, *CREATED_FOR]
    assert [name for name in names if f"`{name}`" not in page] == []
    collector = pytest.importorskip("anytls_http.contrib.prometheus").PoolCollector({})
    for metric in collector.describe():
        total = "_total" if metric.type == "counter" else ""
        assert f"`{metric.name}{total}`" in page


def test_testing_has_the_faults_that_exist() -> None:
    named = re.findall(r"^\| `(\w+)", _PAGES["docs/testing.md"], re.MULTILINE)
    assert set(named) <= {field.name for field in fields(Faults)}


def test_the_table_of_errors() -> None:
    """What the tests against sing-box expect of each library is what the table says."""
    rows = [
        line.strip("| ").split(" | ") for line in _PAGES["docs/errors.md"].splitlines() if line[:2] == "| "
    ]
    by_mishap = {
        "the server can't be reached": "unreachable",
        "the server's certificate": "tunnel_not_trusted",
        "wrong password": "wrong_password",
        "the server can't reach the target": "refused",
        "the target's certificate": "target_not_trusted",
        "connecting took too long": "connect_timeout",
        "sending took too long": "write_timeout",
        "the answer took too long": "read_timeout",
        "the tunnel broke while the answer": "broken",
        "the target ended its body": "body_cut",
    }
    for mishap, attribute in by_mishap.items():
        (row,) = (row for row in rows if row[0].startswith(mishap))
        for library, cell in (("httpx", row[2]), ("httpx2", row[2]), ("requests", row[3])):
            assert cell == f"`{getattr(library_of(library), attribute).__name__}`", row
    classes = {name: getattr(errors, name) for name in errors.__all__}
    described = {row[0].strip("`"): row[1].strip("`") for row in rows if row[0].strip("`") in classes}
    assert described.keys() == classes.keys() - {"AnyTLSError"}
    for name, base in described.items():
        assert classes[name].__mro__[2].__name__ == base
