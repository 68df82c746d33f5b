"""The rows that schema, check-config and documentation are made of, beside what the readers read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anytls_http.config import AnyTLSOutbound
from anytls_http.config.definitions import FIELDS, Kind, default_text
from anytls_http.config.dial import DIAL_NAMES
from anytls_http.config.effective import chain, effective_settings, raw_outbound
from anytls_http.config.pool import POOL_NAMES
from anytls_http.config.schema import SCHEMA_PATH, outbound_schema, schema_text
from anytls_http.config.tls import TLS_NAMES
from anytls_http.config.unsupported import MEMBERS, NOT_SUPPORTED_YET
from anytls_http.errors import ConfigError
from tests.config import document
from tests.config.differences import ONLY_WE_ACCEPT, ONLY_WE_REFUSE, Row

jsonschema = pytest.importorskip("jsonschema")

Make = Callable[..., AnyTLSOutbound]
OWN_NAMES = {"type", "tag", "server", "server_port", "password", "client_metadata", "tls"}


def smallest(row: Row = ({}, {})) -> dict[str, Any]:
    fields, tls = row
    return {
        "type": "anytls",
        "server": "proxy.example",
        "server_port": 443,
        "password": "pw",
        "tls": {"enabled": True, **tls},
        **fields,
    }


def test_there_is_a_row_for_every_field() -> None:
    assert len({field.path for field in FIELDS}) == len(FIELDS)
    assert {field.path for field in FIELDS if not field.parent} == OWN_NAMES | POOL_NAMES | DIAL_NAMES
    assert {field.name for field in FIELDS if field.parent == "tls"} == TLS_NAMES
    refused = {field.path for field in FIELDS if field.refused}
    switches = {f"{path}.enabled" if path in MEMBERS else path for path in NOT_SUPPORTED_YET}
    assert refused == switches | {"tcp_fast_open", "protect_path"}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.path)
def test_every_row_is_read_as_it_says(field: Any) -> None:
    """A value of the row's type is read, one of another type is refused, and what is refused is refused by name."""
    good: dict[Kind, Any] = {
        Kind.TEXT: field.choices[0] if field.choices else "x",
        Kind.TEXTS: [field.choices[0]] if field.choices else ["x"],
        Kind.FLAG: True,
        Kind.INTEGER: max(field.lowest, 1),
        Kind.DURATION: "1s",
        Kind.MARK: "0x10",
        Kind.OBJECT: {},
        Kind.TEXT_OR_OBJECT: "local",
    }

    def verdict(value: Any) -> str | None:
        config: dict[str, Any] = smallest()
        *parents, name = field.path.split(".")
        target = config
        for parent in parents:
            target = target.setdefault(parent, {})
        target[name] = value
        try:
            AnyTLSOutbound.from_dict(config)
        except ConfigError as problem:
            return str(problem)
        return None

    wrong = verdict([[]])
    assert wrong is not None
    assert wrong.startswith(field.path), wrong
    found = verdict(good[field.kind])
    if field.refused:
        assert found is not None
        assert found.startswith(field.path.removesuffix(".enabled"))
    else:
        # The value may still be no address, no PEM, no file; or it wants a second field. It isn't of a wrong type.
        assert found is None or "takes a string" not in found
        assert found is None or found.startswith((field.parent or field.path, "tls."))


def test_defaults() -> None:
    shown = {field.path: default_text(field) for field in FIELDS}
    assert shown["idle_session_timeout"] == "30s"
    assert shown["fallback_delay"] == "0.3s"
    assert shown["tls.max_version"] == "1.3"
    assert shown["tls.insecure"] == "false"
    assert shown["heartbeat"] == "off"
    assert shown["tls.alpn"] == ""
    for name, text in shown.items():
        if not any(
            text.startswith(words) for words in ("anytls", "unlimited", "none", "off", "the ", "`", "certifi")
        ):
            tls = {name.removeprefix("tls."): text} if name.startswith("tls.") else {}
            kind = next(field.kind for field in FIELDS if field.path == name)
            if text and kind in (Kind.TEXT, Kind.DURATION):
                row = ({}, tls) if tls else ({name: text}, {})
                assert AnyTLSOutbound.from_dict(smallest(row)) == AnyTLSOutbound.from_dict(smallest())


class TestSchema:
    def test_the_file_is_up_to_date(self) -> None:
        assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text(), (
            "run python -m anytls_http.config.schema"
        )

    def test_it_is_a_schema(self) -> None:
        jsonschema.Draft202012Validator.check_schema(outbound_schema())

    #: What one field's value alone doesn't tell: forms of names and addresses, PEM, files, other fields, lengths.
    BEYOND = (
        {
            "server",
            "inet4_bind_address",
            "inet6_bind_address",
            "client_metadata",
            "idle_session_check_interval",
        },
        {
            "server_name",
            "alpn",
            "min_version",
            "max_version",
            "cipher_suites",
            "certificate_public_key_sha256",
        },
    )

    @pytest.mark.parametrize("row", [row for row, _ in ONLY_WE_REFUSE], ids=str)
    def test_what_we_refuse(self, row: Row) -> None:
        fields, tls = row
        if set(fields) <= self.BEYOND[0] and set(tls) <= self.BEYOND[1] and self.is_valid(smallest(row)):
            return
        assert not self.is_valid(smallest(row))

    @pytest.mark.parametrize("row", [row for row, _ in ONLY_WE_ACCEPT], ids=str)
    def test_what_we_accept(self, row: Row) -> None:
        assert self.is_valid(smallest(row))

    @pytest.mark.parametrize(
        "row",
        [
            ({"idle_session_timeout": "1h30m", "heartbeat": "+1.5s", "connect_timeout": ".5m"}, {}),
            ({"routing_mark": "0x1234", "domain_resolver": {"server": "local", "strategy": "ipv4_only"}}, {}),
            ({"routing_mark": 5, "domain_resolver": "local", "server_port": 443.0}, {}),
            ({"network_type": ["wifi"], "fallback_network_type": "wifi", "client_metadata": ""}, {}),
            ({}, {"alpn": "h2", "cipher_suites": ["TLS_AES_128_GCM_SHA256"], "curve_preferences": "P256"}),
            ({}, {"ech": {"enabled": False, "config": ["x"]}, "utls": {}, "reality": None, "spoof": ""}),
            (dict.fromkeys(sorted(POOL_NAMES | DIAL_NAMES)), dict.fromkeys(sorted(TLS_NAMES - {"enabled"}))),
        ],
        ids=str,
    )
    def test_good_ones(self, row: Row) -> None:
        AnyTLSOutbound.from_dict(smallest(row))
        assert self.is_valid(smallest(row))

    @pytest.mark.parametrize(
        "row",
        [
            ({"type": "vless"}, {}),
            ({"server_port": "443"}, {}),
            ({"server_port": 65536}, {}),
            ({"password": 5}, {}),
            *(({"idle_session_timeout": value}, {}) for value in (30, "30", "1w", "1h-5m", " 5s", "-5s")),
            *(({"min_idle_session": value}, {}) for value in ("1", True, 1.5)),
            ({"nonsense": 1}, {}),
            ({"network_type": ["x"]}, {}),
            ({"domain_resolver": {"nonsense": 1}}, {}),
            ({"tcp_fast_open": True}, {}),
            *(({"routing_mark": mark}, {}) for mark in ("1234x", -1, 2**32, "08")),
            ({"reuse_addr": "true"}, {}),
            *(({"tls": tls}, {}) for tls in ({}, None, [], {"enabled": False})),
            *(({}, {name: {"enabled": True}}) for name in MEMBERS),
            *(
                ({}, tls)
                for tls in ({"engine": "apple"}, {"alpn": [1]}, {"min_version": 1.2}, {"nonsense": 1})
            ),
            ({}, {"cipher_suites": "x"}),
            ({}, {"curve_preferences": ["P224"]}),
            ({}, {"client_certificate_path": ["x"]}),
        ],
        ids=str,
    )
    def test_bad_ones(self, row: Row) -> None:
        with pytest.raises(ConfigError):
            AnyTLSOutbound.from_dict(smallest(row))
        assert not self.is_valid(smallest(row))

    @staticmethod
    def is_valid(config: dict[str, Any]) -> bool:
        return bool(jsonschema.Draft202012Validator(outbound_schema()).is_valid(config))


def test_the_documentation_is_up_to_date() -> None:
    text = document.PAGE.read_text(encoding="utf-8")
    assert document.page(text) == text, "run python -m tests.config.document"


def test_the_documentations_json_is_good(tmp_path: Path) -> None:
    text = document.PAGE.read_text(encoding="utf-8")
    sample = text.partition("```json\n")[2].partition("```")[0]
    outbound = json.loads(sample)["outbounds"][0]
    assert jsonschema.Draft202012Validator(outbound_schema()).is_valid(outbound)
    ca = outbound["tls"]["certificate_path"]
    with pytest.raises(ConfigError, match=f"outbounds.0..tls.certificate_path: cannot read .{ca}"):
        AnyTLSOutbound.from_json(sample)


class TestEffectiveSettings:
    def of(self, row: Row, origin: str = "file") -> dict[str, tuple[str, str]]:
        raw = smallest(row)
        settings = effective_settings(AnyTLSOutbound.from_dict(raw), raw, origin)
        return {setting.path: (setting.value, setting.set_by) for setting in settings}

    @pytest.fixture(autouse=True)
    def without_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)

    def test_what_each_one_was_set_by(self) -> None:
        found = self.of(
            (
                {
                    "heartbeat": "11s",
                    "max_connection_lifetime": "",
                    "connect_timeout": "0s",
                    "client_metadata": "",
                    "udp_fragment": True,
                    "domain_resolver": {"server": "local", "strategy": "ipv4_only"},
                },
                {"alpn": "h2", "server_name": None, "ech": {"enabled": False}},
            )
        )
        assert found["heartbeat"] == ('"11s"', "file")
        assert found["idle_session_timeout"] == ('"30s"', "default")
        assert found["max_connection_lifetime"] == ("unlimited", "file (empty: unlimited)")
        assert found["connect_timeout"] == ('"5s"', "file (empty: 5s)")
        assert found["client_metadata"] == ('""', "file")
        assert found["udp_fragment"] == ("true", "file")
        assert found["domain_strategy"] == ('"ipv4_only"', "domain_resolver.strategy")
        assert found["domain_resolver.server"] == ('"local"', "file")
        assert found["tls.alpn"] == ('["h2"]', "file")
        assert found["tls.server_name"] == ('"proxy.example"', "default")
        assert found["tls.certificate"] == ("certifi's", "default")
        assert found["tls.ech.enabled"] == ("false", "file")
        assert "network_strategy" not in found
        assert "tls" not in found

    def test_the_default_roots(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", "x")
        assert self.of(({}, {}))["tls.certificate"] == ("those of SSL_CERT_FILE", "default")
        assert self.of(({}, {"insecure": True}))["tls.certificate"] == ("-", "default")

    def test_secrets_are_hidden(self, ca_pem: str) -> None:
        found = self.of(({"password": "s3cr3t"}, {"certificate": ca_pem}), "URI")
        assert found["password"] == ("(hidden)", "URI")
        assert found["tls.certificate"] == ("(PEM)", "URI")
        assert "s3cr3t" not in str(found)

    def test_in_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        config = {"outbounds": [{"type": "direct", "tag": "d"}, smallest(({"tag": "a", "detour": "d"}, {}))]}
        path.write_text(json.dumps(config))
        outbound = AnyTLSOutbound.from_file(path)
        assert raw_outbound(str(path))["tag"] == "a"
        assert list(chain(outbound)) == ["d (direct)"]
