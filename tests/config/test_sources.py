"""JSON texts and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anytls_http.config import AnyTLSOutbound, PoolOptions, TLSOptions
from anytls_http.config.sources import parse_json
from anytls_http.errors import ConfigError

Make = Callable[..., AnyTLSOutbound]

#: The sample in the documentation of the outbound, with a usable "tls" and without "... // Dial Fields".
SEED_SAMPLE = """
{
  "type": "anytls",
  "tag": "anytls-out",

  "server": "127.0.0.1",
  "server_port": 1080,
  "password": "8JCsPssfgS8tiRwiMlhARg==",
  "idle_session_check_interval": "30s",
  "idle_session_timeout": "30s",
  "min_idle_session": 5,
  "ensure_idle_session": 0,
  "ensure_idle_session_create_rate": 0,
  "max_connection_lifetime": "",
  "connection_lifetime_jitter": "",
  "min_idle_session_for_age": 0,
  "heartbeat": "11s",
  "tls": {"enabled": true, "server_name": "x.example"},
}
"""


@pytest.fixture
def outbound_dict(make: Make) -> dict[str, Any]:
    return make(tag="a").to_dict()


def test_the_seeds_sample_loads_as_it_stands() -> None:
    assert AnyTLSOutbound.from_json(SEED_SAMPLE) == AnyTLSOutbound(
        server="127.0.0.1",
        server_port=1080,
        password="8JCsPssfgS8tiRwiMlhARg==",
        tls=TLSOptions(server_name="x.example"),
        pool=PoolOptions(min_idle_session=5, heartbeat=11.0),
        tag="anytls-out",
    )


def test_the_seeds_sample_with_its_empty_tls_is_refused() -> None:
    text = SEED_SAMPLE.replace('{"enabled": true, "server_name": "x.example"}', "{}")
    with pytest.raises(ConfigError, match=r"^tls\.enabled must be true: AnyTLS requires TLS$"):
        AnyTLSOutbound.from_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1,}', {"a": 1}),
        ("[1, 2 , ]", [1, 2]),
        ('{"a": [1,], /* c */ }', {"a": [1]}),
        ('{"a": 1, // c\n}', {"a": 1}),
        ('{ # c\n"a": 1}', {"a": 1}),
        ('{"a": 1} // the end', {"a": 1}),
        ('/* a /* b */{"a": 1}', {"a": 1}),
        ("/**/1", 1),
        ('\ufeff{"a": 1}', {"a": 1}),
        (r'{"a": "// # /* */ ,] ,} \" // "}', {"a": '// # /* */ ,] ,} " // '}),
        (r'["\\", 1,]', ["\\", 1]),
        (b'{"a": "\xc3\xa9"}', {"a": "é"}),
    ],
)
def test_json_as_sing_box_takes_it(text: str | bytes, value: object) -> None:
    assert parse_json(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSON: line 1, column 1: Expecting value"),
        ('{"a" 1}', "JSON: line 1, column 6: Expecting ':' delimiter"),
        (
            '{\n  // comment\n  /* one\n more */ "a": 1\n  "b": 2}',
            "JSON: line 5, column 3: Expecting ',' delimiter",
        ),
        ("[1,,]", "JSON: line 1, column 4: Expecting value"),
        ("[,]", "JSON: line 1, column 2: Expecting value"),
        ('{"a": ,}', "JSON: line 1, column 7: Expecting value"),
        ("{'a': 1}", "JSON: line 1, column 2: Expecting property name enclosed in double quotes"),
        ("{a: 1}", "JSON: line 1, column 2: Expecting property name enclosed in double quotes"),
        ("{} {}", "JSON: line 1, column 4: Extra data"),
        ("{}\n  /* c", "JSON: line 2, column 3: the comment has no end"),
        ("{}\n  /*/", "JSON: line 2, column 3: the comment has no end"),
        ('["a', "JSON: line 1, column 2: Unterminated string starting at"),
        ("[NaN]", "JSON: NaN is no JSON value"),
        ("[" * 100_000, "JSON: nested too deeply"),
        ("9" * 5000, "JSON: a number has too many digits"),
        (b"\xff\xfe", "JSON: not UTF-8 text"),
        (5, "JSON: got a number, takes text"),
    ],
)
def test_bad_json_says_where(text: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_json(text)
    assert str(caught.value) == message
    assert caught.value.__context__ is None  # a JSONDecodeError would carry the text, with the password


@pytest.mark.parametrize(
    "hostile", ['"' + '\\"' * 200_000, "/*" * 200_000, "," * 400_000, "[" + " " * 400_000 + ","]
)
@pytest.mark.timeout(5)
def test_hostile_text_takes_no_more_than_its_length(hostile: str) -> None:
    with pytest.raises(ConfigError):
        parse_json(hostile)


def test_a_field_that_is_there_twice_is_a_warning(warnings_logged: Callable[[], list[str]]) -> None:
    assert parse_json('{"b": 1, "a": 2, "b": 3}') == {"b": 3, "a": 2}
    assert warnings_logged() == ["the JSON text has a field twice in one object, the last one counts: b"]


def test_from_json_takes_a_whole_configuration_too(make: Make, outbound_dict: dict[str, Any]) -> None:
    text = json.dumps({"log": {}, "outbounds": [{"type": "direct"}, outbound_dict]})
    assert AnyTLSOutbound.from_json(text) == make(tag="a")
    assert AnyTLSOutbound.from_json(text.encode(), tag="a") == make(tag="a")


@pytest.mark.parametrize("document", [[], 5, None, "x"])
def test_a_document_that_is_no_object(document: object) -> None:
    with pytest.raises(ConfigError, match=r"^got .*takes an object: an outbound or a whole sing-box conf"):
        AnyTLSOutbound.from_json(json.dumps(document))


def write(path: Path, outbounds: object) -> Path:
    path.write_text(json.dumps({"outbounds": outbounds}), encoding="utf-8")
    return path


def test_a_bare_outbound_in_a_file(make: Make, outbound_dict: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text(json.dumps(outbound_dict), encoding="utf-8-sig")
    assert AnyTLSOutbound.from_file(path) == AnyTLSOutbound.from_file(str(path), tag="a") == make(tag="a")
    with pytest.raises(ConfigError, match=r'one outbound, tagged "a" \(a string\), and not \'b\''):
        AnyTLSOutbound.from_file(path, tag="b")


def test_the_only_anytls_outbound_needs_no_tag(
    make: Make, outbound_dict: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "c.json", [{"type": "direct", "tag": "d"}, 5, outbound_dict])
    assert AnyTLSOutbound.from_file(path) == make(tag="a")


def test_several_outbounds_are_chosen_by_tag(make: Make, tmp_path: Path) -> None:
    untagged = make(server="2.2.2.2").to_dict()
    path = write(tmp_path / "c.json", [make(tag="a").to_dict(), untagged, make(tag="b").to_dict()])
    assert AnyTLSOutbound.from_file(path, tag="b").tag == "b"
    assert AnyTLSOutbound.from_file(path, tag="1").server == "2.2.2.2"  # sing-box's tag for the untagged
    with pytest.raises(
        ConfigError, match=r"several are of type anytls, choose one by its tag: 'a', '1', 'b'$"
    ):
        AnyTLSOutbound.from_file(path)
    with pytest.raises(
        ConfigError, match=r"none of type anytls has the tag 'x'; the tags are: 'a', '1', 'b'$"
    ):
        AnyTLSOutbound.from_file(path, tag="x")


def test_the_same_tag_twice(make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", [make(tag="a").to_dict()] * 2)
    with pytest.raises(ConfigError, match=r'outbounds\[0\], \[1\]: several have the tag "a"$'):
        AnyTLSOutbound.from_file(path, tag="a")


@pytest.mark.parametrize(
    ("outbounds", "problem"),
    [([], 'outbounds: there is none of type "anytls"'), (None, "outbounds: got null, takes a list")],
)
def test_no_anytls_outbound(tmp_path: Path, outbounds: object, problem: str) -> None:
    path = write(tmp_path / "c.json", outbounds)
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_file(path)
    assert str(caught.value) == f"{path}: {problem}"


def test_errors_name_the_file_and_the_place(make: Make, tmp_path: Path, marker: str) -> None:
    wrong = {**make().to_dict(), "server_port": "443"}
    path = write(tmp_path / "c.json", [{"type": "direct"}, wrong])
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_file(path)
    assert str(caught.value) == (
        f'{path}: outbounds[1].server_port: got "443" (a string), takes an integer from 1 to 65535'
    )
    path.write_text(f'{{"password": "{marker}"\n"server": 1}}')
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_file(path)
    assert str(caught.value) == f"{path}: JSON: line 2, column 1: Expecting ',' delimiter"


def test_overrides_are_put_over_the_file(make: Make, tmp_path: Path) -> None:
    base = make(ensure_idle_session=2, tls={"server_name": "x.example"}).to_dict()
    path = write(tmp_path / "c.json", [base])
    outbound = AnyTLSOutbound.from_file(
        path, heartbeat="11s", ensure_idle_session=None, tls={"insecure": True}
    )
    assert outbound == make(heartbeat="11s", tls={"server_name": "x.example", "insecure": True})
    assert AnyTLSOutbound.from_file(path, domain_resolver={"server": "local"}) == AnyTLSOutbound.from_file(
        path
    )
    with pytest.raises(ConfigError, match="heartbeet: unknown field"):
        AnyTLSOutbound.from_file(path, heartbeet="11s")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, problem in (
        (tmp_path / "missing.json", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (binary, "not UTF-8 text"),
        ("a\0b", "embedded null"),
    ):
        with pytest.raises(ConfigError, match=problem) as caught:
            AnyTLSOutbound.from_file(path)
        assert str(caught.value).startswith(f"{path}: cannot read: ")


@pytest.mark.parametrize("wrong", ["anytls://{}@host", '{{"password": "{}"}}'])
def test_what_is_no_path_is_explained_and_not_shown(wrong: str, marker: str) -> None:
    with pytest.raises(ConfigError, match="for a URI there is from_uri") as caught:
        AnyTLSOutbound.from_file(wrong.format(marker))
    assert marker not in str(caught.value)
