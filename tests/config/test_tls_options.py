from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anytls_http.config import AnyTLSOutbound, TLSOptions
from anytls_http.config.unsupported import NOT_SUPPORTED_YET
from anytls_http.errors import ConfigError

Make = Callable[..., AnyTLSOutbound]
Logged = Callable[[], list[str]]


def test_all_fields_arrive(make: Make) -> None:
    tls = make(
        tls={
            "engine": "go",
            "server_name": "[::1]",
            "disable_sni": True,
            "insecure": True,
            "alpn": ["h2", "http/1.1"],
            "min_version": "1.0",
            "max_version": "1.1",
            "handshake_timeout": "2s",
        }
    ).tls
    assert tls == TLSOptions(
        server_name="::1",
        disable_sni=True,
        insecure=True,
        alpn=("h2", "http/1.1"),
        min_version="1.0",
        max_version="1.1",
        handshake_timeout=2.0,
    )


def test_alpn_takes_one_or_a_list(make: Make) -> None:
    assert make(tls={"alpn": "h2"}).tls.alpn == ("h2",)
    assert make(tls={"alpn": ("h2", "x")}).tls.alpn == ("h2", "x")
    assert make(tls={"alpn": []}).tls.alpn == ()


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ({"alpn": ["h2", 1]}, "tls.alpn[1]: got 1 (a number), takes a string"),
        ({"alpn": ["h2", None]}, "tls.alpn[1]: got null, takes a string"),
        ({"alpn": ["h2", ""]}, "tls.alpn[1]: takes a protocol name of 1 to 255 ASCII characters"),
        ({"alpn": "a" * 256}, "tls.alpn: takes a protocol name of 1 to 255 ASCII characters"),
        ({"alpn": 5}, "tls.alpn: got 5 (a number), takes a string or a list of strings"),
        ({"min_version": "1.4"}, 'tls.min_version: got "1.4", takes one of "1.0", "1.1", "1.2", "1.3"'),
        ({"min_version": 1.2}, "tls.min_version: got 1.2 (a number), takes a string"),
        ({"max_version": "1.1"}, 'tls.min_version: "1.2" is above max_version "1.1": no version is left'),
        ({"engine": "apple"}, 'tls.engine: got "apple", takes "go" or nothing'),
        ({"server_name": "a b"}, 'tls.server_name: got "a b", takes a host name or an IP address'),
        (
            {"handshake_timeout": "-5s"},
            'tls.handshake_timeout: got "-5s", takes a duration that isn\'t negative',
        ),
        ({"sever_name": "x"}, 'tls.sever_name: unknown field, did you mean "server_name"?'),
        (
            {"fragment_fallback_delay": 5},
            'tls.fragment_fallback_delay: got 5, a number without a unit: write "5s" for seconds',
        ),
        ({"kernel_tx": 1}, "tls.kernel_tx: got 1 (a number), takes true or false"),
        ({"ech": {"nonsense": 1}}, "tls.ech.nonsense: unknown field"),
        ({"ech": False}, "tls.ech: got false (a boolean), takes an object"),
    ],
)
def test_errors(make: Make, tls: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(tls=tls)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spoof", "x"),
        ("spoof_method", "x"),
        ("ech", {"enabled": True}),
        ("utls", {"enabled": True, "fingerprint": "chrome"}),
        ("reality", {"enabled": True, "public_key": "x"}),
    ],
)
def test_what_is_not_supported_yet_is_refused_by_name(make: Make, name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        make(tls={name: value})
    assert str(caught.value) == f"tls.{name}: is not supported yet"
    # What it would be anyway asks for nothing.
    assert make(tls={name: type(value)()}) == make(tls={name: None}) == make()


def test_switched_off_objects_are_accepted(make: Make) -> None:
    for name, member in (("ech", "config"), ("utls", "fingerprint"), ("reality", "public_key")):
        assert f"tls.{name}" in NOT_SUPPORTED_YET
        assert make(tls={name: {"enabled": False, member: "x"}}) == make()
        assert make(tls={name: {member: "x"}}) == make()


def test_kernel_tls_is_a_note_in_the_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anytls_http.config")
    assert make(tls={"kernel_tx": True, "kernel_rx": False, "fragment_fallback_delay": "500ms"}) == make()
    assert [record.getMessage() for record in caplog.records] == [
        "tls.kernel_tx has no effect: there is no kernel TLS here"
    ]


def test_certificate_as_text_or_lines(make: Make, ca_pem: str) -> None:
    as_text = make(tls={"certificate": ca_pem}).tls.certificate
    as_lines = make(tls={"certificate": ca_pem.splitlines()}).tls.certificate
    assert as_text == as_lines == ca_pem


def test_certificate_leaves_comments_and_keys_behind(make: Make, ca_pem: str) -> None:
    key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    kept = make(tls={"certificate": f"# Größe\n{key}{ca_pem}{ca_pem}"}).tls.certificate
    assert kept == ca_pem + ca_pem


@pytest.mark.parametrize(
    "certificate",
    ["nonsense", ["-----BEGIN CERTIFICATE-----", "s3cr3t", "-----END CERTIFICATE-----"]]
    + ["-----BEGIN PRIVATE KEY-----\ns3cr3t\n-----END PRIVATE KEY-----", 5, ["x", 5], {"s3cr3t": 1}],
)
def test_bad_certificates_are_refused_and_not_shown(make: Make, certificate: object) -> None:
    with pytest.raises(ConfigError, match=r"^tls\.certificate") as caught:
        make(tls={"certificate": certificate})
    assert "s3cr3t" not in str(caught.value)
    assert "BEGIN PRIVATE" not in str(caught.value)


def test_certificate_path(make: Make, ca_file: Path) -> None:
    tls = make(tls={"certificate_path": str(ca_file)}).tls
    assert (tls.certificate_path, tls.certificate) == (str(ca_file), None)


def test_certificate_path_that_cannot_be_used(make: Make, tmp_path: Path, ca_pem: str) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for path, problem in (
        (str(tmp_path / "missing.pem"), "cannot read .*missing.pem.*: No such file"),
        (str(tmp_path), "not a file"),
        (str(tmp_path / "empty.pem"), "holds no certificate"),
        ("a\0b", "cannot read"),
        (ca_pem, "cannot read PEM"),
    ):
        with pytest.raises(ConfigError, match=rf"^tls\.certificate_path: .*{problem}") as caught:
            make(tls={"certificate_path": path})
        assert "MII" not in str(caught.value)


def test_which_certificate_of_several_cannot_be_read(make: Make, ca_pem: str) -> None:
    bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for texts, which in (
        ([ca_pem, bad], "certificate 2 of 2"),
        ([bad, ca_pem], "certificate 1 of 2"),
        ([bad], "its certificate"),
    ):
        with pytest.raises(ConfigError, match=rf"^tls\.certificate: {which} can't be read"):
            make(tls={"certificate": texts})


def test_certificate_comes_before_certificate_path_as_in_sing_box(
    make: Make, ca_pem: str, warnings_logged: Logged
) -> None:
    tls = make(tls={"certificate": ca_pem, "certificate_path": "/does/not/exist.pem"}).tls
    assert (tls.certificate, tls.certificate_path) == (ca_pem, None)
    assert warnings_logged() == [
        "tls.certificate_path is not read: tls.certificate is set and comes first, as in sing-box"
    ]
