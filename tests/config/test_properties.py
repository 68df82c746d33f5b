"""Whatever is thrown at the configuration, a ConfigError is all that comes back, and it keeps the secret."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.config import AnyTLSOutbound, DialOptions, PoolOptions, TLSOptions
from anytls_http.config.dial import DIAL_NAMES
from anytls_http.config.pool import POOL_NAMES
from anytls_http.config.unsupported import NOT_SUPPORTED_YET
from anytls_http.errors import ConfigError

MARKER = "pa55-MARKER-w0rd"
TOP_NAMES = sorted({"type", "tag", "server", "server_port", "client_metadata"} | POOL_NAMES | DIAL_NAMES)
TLS_NAMES = sorted(
    {"enabled", "engine", *TLSOptions.__dataclass_fields__}
    | {name.removeprefix("tls.") for name in NOT_SUPPORTED_YET}
)

# Mostly what nearly fits: with values out of nowhere, everything would end at the first field's type.
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(
        ["", "0s", "30s", "1h", "-5s", "30", "local", "1.2", "::1", "1.2.3.4", "x.example", "0x10"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["enabled", "server", "strategy"]) | st.text(), inner, max_size=3)
    ),
    max_leaves=5,
)
tls_objects = st.dictionaries(st.sampled_from(TLS_NAMES), values, max_size=4).map(
    lambda tls: {"enabled": True, **tls}
)
outbounds = st.builds(
    lambda base, fields, tls: {**base, **fields, "tls": tls},
    st.just({"server": "x.example", "server_port": 443, "password": MARKER}),
    st.dictionaries(st.sampled_from(TOP_NAMES) | st.text(max_size=5), values, max_size=4),
    tls_objects | values,
)


@given(outbounds | values.map(lambda value: {"password": MARKER, "x": value}))
def test_from_dict_raises_config_errors_only_and_never_shows_the_password(config: dict[str, Any]) -> None:
    try:
        outbound = AnyTLSOutbound.from_dict(config)
    except ConfigError as problem:
        assert MARKER not in str(problem)
        str(problem).encode()
    else:
        assert MARKER not in repr(outbound)
        assert AnyTLSOutbound.from_dict(outbound.to_dict()) == outbound


@given(values)
def test_from_dict_of_anything(config: Any) -> None:
    with pytest.raises(ConfigError):
        AnyTLSOutbound.from_dict(config)


@given(
    st.text()
    | st.text('{}[]",:/*#\\ \n1ae')
    | outbounds.map(lambda config: json.dumps(config)[:-3])
    | st.binary()
)
def test_from_json_raises_config_errors_only(text: str | bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_json(text)
    assert MARKER not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text('",:/*#\\]} \nx') | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('",:/*#\\]} \nx'), inner),
    max_leaves=10,
)


@given(json_values, st.sampled_from([None, 1]))
def test_plain_json_means_what_it_means_everywhere(value: object, indent: int | None) -> None:
    from anytls_http.config.sources import parse_json

    assert parse_json(json.dumps(value, indent=indent)) == value


@given(st.text())
def test_from_uri_raises_config_errors_only(rest: str) -> None:
    for uri in (rest, f"anytls://{rest}", f"anytls://pw@h:1{rest}", f"anytls://pw@{rest}"):
        try:
            AnyTLSOutbound.from_uri(uri)
        except ConfigError as problem:
            str(problem).encode()


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_any_password_passes_through_a_uri(password: str) -> None:
    from urllib.parse import quote

    assert AnyTLSOutbound.from_uri(f"anytls://{quote(password, safe='')}@h").password == password


durations = st.integers(10**6, 10**18).map(lambda nanoseconds: nanoseconds / 10**9)
numbers = st.integers(0, 1000)
made_outbounds = st.builds(
    AnyTLSOutbound,
    server=st.sampled_from(["x.example", "::1", "127.0.0.1"]),
    server_port=st.integers(1, 65535),
    password=st.text(min_size=1).filter(lambda text: text.isprintable()),
    tls=st.builds(
        TLSOptions,
        server_name=st.none() | st.just("y.example"),
        disable_sni=st.booleans(),
        insecure=st.booleans(),
        alpn=st.lists(st.text(string.ascii_letters, min_size=1), max_size=3).map(tuple),
        min_version=st.sampled_from(["1.0", "1.1", "1.2"]),
        max_version=st.sampled_from(["1.2", "1.3"]),
        handshake_timeout=durations,
    ),
    pool=st.builds(
        PoolOptions,
        idle_session_check_interval=durations,
        idle_session_timeout=durations,
        min_idle_session=numbers,
        ensure_idle_session=numbers,
        ensure_idle_session_create_rate=numbers,
        max_connection_lifetime=st.none() | durations,
        min_idle_session_for_age=numbers,
        heartbeat=st.none() | durations,
    ),
    dial=st.builds(
        DialOptions,
        connect_timeout=durations,
        fallback_delay=durations,
        inet4_bind_address=st.none() | st.just("127.0.0.1"),
        reuse_addr=st.booleans(),
        tcp_multi_path=st.booleans(),
        tcp_keep_alive=durations,
        domain_strategy=st.sampled_from(["", "prefer_ipv4", "ipv6_only"]),
    ),
    tag=st.none() | st.text(string.ascii_letters, min_size=1),
    client_metadata=st.none() | st.text(string.ascii_letters),
)


@given(made_outbounds)
def test_to_dict_and_json_go_round(outbound: AnyTLSOutbound) -> None:
    assert AnyTLSOutbound.from_dict(outbound.to_dict()) == outbound
    assert AnyTLSOutbound.from_json(json.dumps(outbound.to_dict())) == outbound
