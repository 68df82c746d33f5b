"""``anytls-http check-config`` and ``schema``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anytls_http.cli import main
from anytls_http.config.schema import SCHEMA_PATH

SECRET = "pa55-MARKER-w0rd"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(**fields: Any) -> str:
        outbound = {
            "type": "anytls",
            "tag": "proxy",
            "server": "proxy.example",
            "server_port": 443,
            "password": SECRET,
            "tls": {"enabled": True},
        }
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"outbounds": [{**outbound, **fields}, {"type": "direct", "tag": "d"}]}))
        return str(path)

    return write


def test_it_shows_what_a_file_comes_to(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(heartbeat="11s", max_connection_lifetime="", detour="d")
    assert main(["check-config", path]) == 0
    out, err = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:2] == [f"{path}: proxy (anytls, proxy.example:443)", "through d (direct)"]
    assert 'heartbeat "11s" file' in lines
    assert "max_connection_lifetime unlimited file (empty: unlimited)" in lines
    assert 'idle_session_timeout "30s" default' in lines
    assert "password (hidden) file" in lines
    assert SECRET not in out
    assert not err


@pytest.mark.parametrize("option", ["-c", "--config"])
def test_the_option_and_the_tag(write: Any, capsys: pytest.CaptureFixture[str], option: str) -> None:
    path = write()
    assert main(["check-config", option, path, "--tag", "proxy"]) == 0
    assert main(["check-config", option, path, "--tag", "other"]) == 2
    assert "other" in capsys.readouterr().err


def test_a_uri(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--uri", f"anytls://{SECRET}@proxy.example?sni=x.example"]) == 0
    out, _ = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "URI: outbound (anytls, proxy.example:443)"
    assert 'tls.server_name "x.example" URI' in lines
    assert SECRET not in out


def test_warnings_are_shown_once(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["check-config", write(network_strategy="hybrid", tls={"enabled": True, "kernel_tx": True})])
        == 0
    )
    err = capsys.readouterr().err
    assert err.count("warning: network_strategy has no effect") == 1
    assert err.count("info: tls.kernel_tx has no effect") == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"heartbeat": 11},
            'outbounds[0].heartbeat: got 11, a number without a unit: write "11s" for seconds',
        ),
        ({"tls": {}}, "tls.enabled must be true: AnyTLS requires TLS"),
        ({"heartbaet": "11s"}, 'outbounds[0].heartbaet: unknown field, did you mean "heartbeat"?'),
        ({"tls": {"enabled": True, "ech": {"enabled": True}}}, "outbounds[0].tls.ech: is not supported yet"),
        ({"detour": "nowhere"}, "detour"),
    ],
)
def test_a_wrong_one_is_exit_code_2(
    write: Any, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], said: str
) -> None:
    path = write(**fields)
    assert main(["check-config", path]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"anytls-http: {path}: ")
    assert said in err
    assert not out
    assert SECRET not in err


@pytest.mark.parametrize(
    "arguments",
    [[], ["x", "-c", "y"], ["x", "--uri", "anytls://p@h"], ["--uri", "anytls://p@h", "--tag", "t"]],
)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main(["check-config", *arguments]) == 2
    assert capsys.readouterr().err.startswith("anytls-http: ")


def test_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == SCHEMA_PATH.read_text(encoding="utf-8")
