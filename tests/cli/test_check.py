"""``anytls-http check``: with the real sing-box where it works, and with each failure provoked."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from anytls_http import client as client_module
from anytls_http.cli import main
from anytls_http.cli.doctor import examination, parse_target
from anytls_http.errors import ConfigError
from anytls_http.testing import AnyTLSServer, Site, make_certificate
from tests.support.singbox import SingBoxServer, free_port, skip_without_singbox

Config = Callable[[dict[str, Any]], str]
GOOD = [
    "configuration",
    "name lookup",
    "TCP",
    "TLS",
    "authentication",
    "heartbeat",
    "server",
    "stream",
    "answer",
]


@pytest.fixture(scope="module")
def singbox() -> Iterator[SingBoxServer]:
    with SingBoxServer(alpn=["anytls-test"]) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[AnyTLSServer]:
    with AnyTLSServer() as server:
        yield server


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


class Checked:
    """What ``check --json`` said."""

    def __init__(self, code: int, out: str) -> None:
        self.code = code
        self.out = out
        self.report = json.loads(out)
        self.phases = {phase["name"]: phase for phase in self.report["phases"]}
        self.failure = self.report["failure"] or {}

    @property
    def advice(self) -> str:
        return " ".join([self.failure["meaning"], *self.failure["try"]])


@pytest.fixture
def check(config: Config, capsys: pytest.CaptureFixture[str]) -> Callable[..., Checked]:
    def check(outbound: dict[str, Any], url: str = "", *options: str) -> Checked:
        code = main(
            ["check", "-c", config(outbound), "--json", *([url] if url else ["--no-target"]), *options]
        )
        out, err = capsys.readouterr()
        assert not err
        return Checked(code, out)

    return check


def tls_target(site: Site, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    path.write_text(site.ca_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


@skip_without_singbox
def test_the_whole_way(singbox: SingBoxServer, site: Site, check: Callable[..., Checked]) -> None:
    outbound = singbox.outbound(tag="mine", tls={"alpn": ["anytls-test"]})
    result = check(outbound, f"{site.url}/bytes/2000000", "--throughput")
    assert result.code == 0
    assert list(result.phases) == [*GOOD, "throughput"]
    assert result.report["ok"] is True
    assert result.report["failure"] is None
    assert result.report["outbound"] == f"mine (anytls, 127.0.0.1:{singbox.port})"
    tls = result.phases["TLS"]
    assert tls["version"] == "TLS 1.3"
    assert tls["alpn"] == "anytls-test"
    assert tls["verified"] is True
    certificate = tls["certificate"]
    assert certificate["names"][0] == "anytls.test"
    assert certificate["issuer"] == "CN=anytls_http test authority"
    assert 88 < certificate["days_left"] < 91
    assert len(result.phases["heartbeat"]["round_trips"]) == 3
    assert result.phases["server"]["anytls_version"] == 2
    assert result.phases["server"]["padding_default"] is True
    assert result.phases["answer"]["status"] == 200
    assert result.phases["throughput"]["bytes"] == 2_000_000
    assert all(0 <= phase["seconds"] < 5 for phase in result.phases.values())
    starts = [phase["start"] for phase in result.phases.values()]
    assert starts == sorted(starts)


@skip_without_singbox
def test_the_pin_that_it_shows_can_be_pasted(singbox: SingBoxServer, check: Callable[..., Checked]) -> None:
    pin = check(singbox.outbound()).phases["TLS"]["certificate"]["public_key_sha256"]
    pinned = singbox.outbound(
        tls={"certificate": None, "server_name": "any.test", "certificate_public_key_sha256": [pin]}
    )
    result = check(pinned)
    assert result.code == 0
    assert result.phases["TLS"]["verified"] == "pin"
    assert list(result.phases) == GOOD[:-2]


@skip_without_singbox
def test_a_padding_scheme_of_the_servers_own(check: Callable[..., Checked]) -> None:
    with SingBoxServer(padding_scheme=["stop=2", "0=30-30", "1=100-400"]) as singbox:
        result = check(singbox.outbound())
    assert result.phases["server"]["padding_default"] is False
    assert result.phases["server"]["detail"].endswith("of its own")


@skip_without_singbox
@pytest.mark.parametrize(
    ("change", "phase", "said"),
    [
        ({"password": "not-the-one"}, "authentication", ["wrong", "unknown user password"]),
        ({"tls": {"server_name": "other.test"}}, "TLS", ['set `tls.server_name` to "anytls.test"']),
        (
            {"tls": {"certificate": None}},
            "TLS",
            ["certificate_path", "certificate_public_key_sha256", "insecure"],
        ),
        ({"server_port": 0}, "TCP", ["nothing listens on port", "listen_port"]),
    ],
    ids=["password", "name", "CA", "port"],
)
def test_failures_at_the_server(
    singbox: SingBoxServer, check: Callable[..., Checked], change: dict[str, Any], phase: str, said: list[str]
) -> None:
    if "server_port" in change:
        change["server_port"] = free_port()
    result = check(singbox.outbound(**change), "https://never.test/")
    assert result.code == 1
    assert result.failure["phase"] == phase == result.report["phases"][-1]["name"]
    assert result.phases[phase]["outcome"] == "failed"
    for words in said:
        assert words in result.advice
    assert "not-the-one" not in result.out


@skip_without_singbox
def test_an_untrusted_certificate_is_shown_with_its_pin(
    singbox: SingBoxServer, check: Callable[..., Checked]
) -> None:
    good = check(singbox.outbound()).phases["TLS"]["certificate"]
    result = check(singbox.outbound(tls={"certificate": None}))
    assert result.phases["TLS"]["certificate"]["public_key_sha256"] == good["public_key_sha256"]
    assert good["public_key_sha256"] in result.advice


@skip_without_singbox
@pytest.mark.parametrize("when", ["expired", "not_yet_valid"])
def test_a_certificate_out_of_its_time(check: Callable[..., Checked], when: str) -> None:
    with SingBoxServer(certificate=make_certificate("anytls.test", **{when: True})) as singbox:
        result = check(singbox.outbound())
    assert result.code == 1
    assert result.failure["phase"] == "TLS"
    assert "the clock here says" in result.advice
    assert (result.phases["TLS"]["certificate"]["days_left"] < 0) == (when == "expired")


@skip_without_singbox
def test_a_target_that_refuses(singbox: SingBoxServer, check: Callable[..., Checked]) -> None:
    result = check(singbox.outbound(), f"http://127.0.0.1:{free_port()}/")
    assert result.code == 1
    assert result.failure["phase"] == "stream"
    assert "refused" in result.failure["message"]
    assert "The tunnel works" in result.advice


def test_a_target_without_address(server: AnyTLSServer, check: Callable[..., Checked]) -> None:
    # The words of sing-box; it would take its time to ask a DNS server that isn't there.
    server.faults.refuse = lambda host, port: f"lookup {host}: no such host"
    try:
        result = check(server.outbound(), "http://nowhere.test/")
    finally:
        server.faults.refuse = None
    assert result.failure["phase"] == "stream"
    assert "found no address" in result.advice


@skip_without_singbox
def test_a_target_that_is_silent(
    singbox: SingBoxServer, listener: socket.socket, check: Callable[..., Checked]
) -> None:
    result = check(singbox.outbound(), f"http://127.0.0.1:{listener.getsockname()[1]}/", "--timeout", "0.5")
    assert result.code == 1
    assert result.failure["phase"] == "answer"
    assert "says nothing" in result.advice


@skip_without_singbox
def test_a_target_that_the_server_is_still_dialling(
    check: Callable[..., Checked], server: AnyTLSServer
) -> None:
    server.faults.withhold_synack = True
    try:
        result = check(server.outbound(), "http://slow.test/", "--timeout", "0.3")
    finally:
        server.faults.withhold_synack = False
    assert result.failure["phase"] == "stream"
    assert "still trying" in result.advice


def test_a_target_that_speaks_no_http(
    server: AnyTLSServer, site: Site, check: Callable[..., Checked]
) -> None:
    with Site(tls=True) as secure:
        result = check(server.outbound(), secure.url.replace("https", "http"))
        assert result.failure["phase"] == "answer"
        result = check(server.outbound(), site.url.replace("http", "https"))
        assert result.failure["phase"] == "target TLS"
        assert "https site?" in result.advice


def test_a_target_with_tls(
    server: AnyTLSServer, check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Site(tls=True) as secure:
        result = check(server.outbound(), secure.url)
        assert result.failure["phase"] == "target TLS"
        assert "SSL_CERT_FILE" in result.advice
        tls_target(secure, monkeypatch, tmp_path / "roots.pem")
        result = check(server.outbound(), secure.url)
        assert result.code == 0
        assert list(result.phases) == [*GOOD[:-1], "target TLS", "answer"]


def test_a_web_site_is_no_anytls_server(check: Callable[..., Checked]) -> None:
    with Site(tls=True) as secure:
        outbound = {
            "type": "anytls",
            "server": "127.0.0.1",
            "server_port": secure.port,
            "password": "test-password",
            "tls": {"enabled": True, "server_name": "localhost", "certificate": secure.ca_pem},
        }
        result = check(outbound, "https://never.test/", "--timeout", "0.5")
    assert result.code == 1
    assert result.failure["phase"] == "authentication"
    assert "A web site answers there" in result.advice
    assert result.phases["authentication"]["http"].startswith("HTTP/1.1")


def test_a_port_without_tls(site: Site, server: AnyTLSServer, check: Callable[..., Checked]) -> None:
    result = check(server.outbound(server_port=site.port))
    assert result.failure["phase"] == "TLS"
    assert "no TLS server" in result.advice


def test_a_server_that_hangs_before_tls(
    server: AnyTLSServer, listener: socket.socket, check: Callable[..., Checked]
) -> None:
    result = check(server.outbound(server_port=listener.getsockname()[1]), "", "--timeout", "0.3")
    assert result.code == 1
    assert result.failure["phase"] == "TLS"
    assert "TCP works" in result.advice
    assert result.report["seconds"] < 3


def test_a_black_hole(server: AnyTLSServer, check: Callable[..., Checked]) -> None:
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # its queue is full: further packets are dropped
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        result = check(server.outbound(server_port=deaf.getsockname()[1]), "", "--timeout", "0.4")
    if result.failure["phase"] == "TLS":
        pytest.skip("this system answers though the backlog is full")
    assert result.failure["phase"] == "TCP"
    assert "firewall" in result.advice


def test_a_server_without_address(
    server: AnyTLSServer, check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*args: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    result = check(server.outbound(server="nowhere.test"))
    assert result.failure["phase"] == "name lookup"
    assert "getent hosts nowhere.test" in result.advice


def test_a_server_with_a_name(server: AnyTLSServer, check: Callable[..., Checked]) -> None:
    result = check(server.outbound(server="localhost"))
    assert result.code == 0
    assert "127.0.0.1" in result.phases["name lookup"]["addresses"]


def test_a_pin_of_another_key(server: AnyTLSServer, check: Callable[..., Checked]) -> None:
    tls = {"certificate_public_key_sha256": ["A" * 43 + "="], "certificate": None}
    result = check(server.outbound(tls=tls))
    assert result.failure["phase"] == "TLS"
    assert "only then replace the pin" in result.advice


def test_unverified_is_said_loudly(server: AnyTLSServer, check: Callable[..., Checked]) -> None:
    result = check(server.outbound(tls={"insecure": True}))
    assert result.code == 0
    assert result.phases["TLS"]["verified"] is False
    assert any("NOT VERIFIED" in note for note in result.phases["TLS"]["notes"])
    assert any("insecure" in note for note in result.phases["configuration"]["notes"])


def test_a_detour(server: AnyTLSServer, check: Callable[..., Checked]) -> None:
    proxy = {"type": "socks", "tag": "up", "server": "127.0.0.1", "server_port": free_port()}
    result = check({"outbounds": [server.outbound(detour="up"), proxy]})
    assert list(result.phases) == ["configuration", "detour"]
    assert "(`detour`)" in result.advice


def test_a_server_that_breaks_while_answering(
    server: AnyTLSServer, site: Site, check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        examination._Examination, "_compare_clocks", lambda *_: server.close_sessions(reset=True)
    )
    result = check(server.outbound(), f"{site.url}/stream?count=100", "--throughput")
    assert result.code == 1
    assert result.failure["phase"] == "throughput"
    assert "session with the AnyTLS server ended" in result.advice


def test_a_server_of_version_1(
    site: Site, check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "FIRST_ANSWER", 0.2)
    monkeypatch.setattr(client_module, "VERSION_1_AFTER", 0.2)
    with AnyTLSServer(version=1) as old:
        result = check(old.outbound(), site.url)
    assert result.code == 0
    assert result.phases["authentication"]["outcome"] == "skipped"
    assert result.phases["stream"]["outcome"] == "skipped"
    assert any("version: it is 1" in note for note in result.phases["answer"]["notes"])


def test_a_clock_that_is_off(
    server: AnyTLSServer, site: Site, check: Callable[..., Checked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        examination,
        "parsedate_to_datetime",
        lambda date: examination.datetime.now(examination.UTC).replace(year=2000),
    )
    result = check(server.outbound(), site.url)
    assert result.phases["answer"]["clock_ahead"] > 1e6
    assert any("ahead of the target's" in note for note in result.phases["answer"]["notes"])


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture(params=[[], ["--plain"]], ids=["rich", "plain"])
def style(request: pytest.FixtureRequest) -> list[str]:
    if not request.param:
        pytest.importorskip("rich")
    return list(request.param)


def test_what_a_person_sees(
    server: AnyTLSServer, site: Site, config: Config, style: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "-c", config(server.outbound()), site.url, *style]) == 0
    out, err = capsys.readouterr()
    assert not err
    for words in (*GOOD, "TLS 1.3", "its pin:", "padding scheme", "round trip", "OK: everything works"):
        assert words in out
    assert ("Where the time went" in out) == (not style)
    assert "Mbit/s" not in out


def test_what_a_person_sees_of_a_failure(
    server: AnyTLSServer, config: Config, style: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(server.outbound(password="[red]secret[/red]-MARKER"))
    assert main(["check", "-c", path, "http://never.test/", *style]) == 1
    out, err = capsys.readouterr()
    assert "FAILED: authentication: " in out
    assert "What it means:\n  The server closed the connection as soon as" in out
    assert "What to try:\n  1. compare the password" in out
    assert "MARKER" not in out + err


def test_a_configuration_that_is_wrong(
    config: Config, server: AnyTLSServer, style: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(server.outbound(heartbeat=11))
    assert main(["check", "-c", path, *style]) == 2
    out, _ = capsys.readouterr()
    assert 'write "11s"' in out
    assert "What to try:" in out
    assert main(["check", "-c", path, "--json"]) == 2
    out, _ = capsys.readouterr()
    assert json.loads(out)["failure"]["phase"] == "configuration"


@pytest.mark.parametrize(
    "arguments",
    [
        ["ftp://example.org/"],
        ["https://"],
        ["http://user:secret-MARKER@example.org"],
        ["http://example.org:port"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--uri", "anytls://x@127.0.0.1:1", *arguments]) == 2
    assert "MARKER" not in "".join(capsys.readouterr())


def test_without_an_outbound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--plain"]) == 2
    assert "give either -c FILE or --uri URI" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "shown", "address"),
    [
        ("example.org", "https://example.org/", "example.org:443"),
        (
            "http://example.org:80/ä b?q=ü&x=%20",
            "http://example.org/%C3%A4%20b?q=%C3%BC&x=%20",
            "example.org:80",
        ),
        ("https://[::1]:8443/x", "https://[::1]:8443/x", "[::1]:8443"),
        ("http://[::1]", "http://[::1]/", "[::1]:80"),
    ],
)
def test_targets(url: str, shown: str, address: str) -> None:
    target = parse_target(url)
    assert str(target) == shown
    assert target.address == address
    with pytest.raises(ConfigError):
        parse_target(url.partition(":")[0] + "x://")


def test_a_progress_bar_on_a_terminal_and_nothing_in_a_pipe(
    server: AnyTLSServer, site: Site, config: Config
) -> None:
    pytest.importorskip("rich")
    pty = pytest.importorskip("pty")
    command = [sys.executable, "-m", "anytls_http", "check", "-c", config(server.outbound()), "--throughput"]
    command += [f"{site.url}/stream?count=8&pause=0.1&size=100000", "--json"]
    ours, theirs = pty.openpty()
    with open(ours, "rb", closefd=True) as terminal:
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=30, check=False)
        finally:
            os.close(theirs)
        shown = b""
        try:
            while data := os.read(terminal.fileno(), 65536):
                shown += data
        except OSError:  # Linux: everybody has closed the other end
            pass
    assert b"throughput" in shown
    assert json.loads(done.stdout)["ok"] is True
    piped = subprocess.run(command, capture_output=True, timeout=30, check=True)
    assert piped.stderr == b""
    assert json.loads(piped.stdout)["phases"][-1]["bytes"] == 800_000


def test_the_context_for_targets_verifies() -> None:
    context = examination._target_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
