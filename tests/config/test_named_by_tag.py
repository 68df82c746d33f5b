"""What ``detour`` and ``domain_resolver`` name, whatever is in the file: a value, or a ``ConfigError``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from anytls_http.config import AnyTLSOutbound
from anytls_http.errors import ConfigError

Make = Callable[..., AnyTLSOutbound]

MARKER = "8JCsPssfgS8tiRwiMlhARg=="
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 70_000),
    st.sampled_from(["", "a", "b", "0", "1", "127.0.0.1", "localhost", "5", "4a", "tcp", "/x", "1s", MARKER]),
)
NAMES = st.sampled_from(
    ["type", "tag", "server", "server_port", "version", "username", "password", "network", "path", "method"]
    + [
        "headers",
        "tls",
        "detour",
        "domain_resolver",
        "domain_strategy",
        "connect_timeout",
        "netns",
        "enabled",
    ]
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(NAMES, SCALARS, max_size=3), st.just(MARKER)
)
TYPES = st.sampled_from(["anytls", "socks", "http", "direct", "udp", "tcp", "tls", "https", "local", "vmess"])
BASE = {"server": "127.0.0.1", "server_port": 1, "password": MARKER, "tls": {"enabled": True}}


@st.composite
def entries(draw: st.DrawFn) -> Any:
    entry: dict[str, Any] = {"type": draw(TYPES), "tag": draw(st.sampled_from(["a", "b"]))}
    if draw(st.booleans()):
        entry |= {"server": "127.0.0.1", "server_port": 1}
    entry |= draw(st.dictionaries(NAMES, VALUES, max_size=3))
    return draw(st.sampled_from([entry, entry, entry, None, [entry], MARKER]))


@given(st.lists(entries(), max_size=3), st.lists(entries(), max_size=3), st.sampled_from(["a", "b", "0", ""]))
def test_config_errors_only_and_no_secret(outbounds: list[Any], servers: list[Any], tag: str) -> None:
    for named in ({"detour": tag}, {"domain_resolver": tag}):
        try:
            outbound = AnyTLSOutbound.from_dict({**BASE, **named}, outbounds=outbounds, dns_servers=servers)
        except ConfigError as problem:
            said = str(problem)
        else:
            said = repr(outbound)
            assert (
                AnyTLSOutbound.from_dict(outbound.to_dict(), outbounds=outbounds, dns_servers=servers)
                == outbound
            )
        for entry in (*outbounds, *servers):
            if (
                isinstance(entry, dict)
                and entry.get("password") == MARKER
                and list(entry.values()).count(MARKER) == 1
            ):
                continue
            if MARKER in str(entry):
                return  # it is shown where it is no password
        assert MARKER not in said
