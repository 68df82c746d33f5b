"""Where this package's verdict on a configuration differs from that of ``sing-box check``, and why that is meant.

``test_against_sing_box.py`` asks both about every row; ``docs/configuration.md`` shows the rows.
"""

from __future__ import annotations

import json
from typing import Any

#: (fields of the outbound, fields of its ``tls``)
Row = tuple[dict[str, Any], dict[str, Any]]


def out(**fields: Any) -> Row:
    return fields, {}


def tls(**fields: Any) -> Row:
    return {}, fields


def as_json(row: Row, longest: int = 70) -> str:
    """Return the row as one would write it."""
    fields, tls_fields = row
    shown = json.dumps({"tls": tls_fields} if tls_fields else fields, ensure_ascii=False)[1:-1]
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


UNCHECKED = "`sing-box check` doesn't look at it; it would fail at the first connection"
OTHERWISE = "it would mean something else than it seems to, silently"
LATER = "not supported yet"
NEGATIVE = "a negative duration or number means nothing"
LISTED_CURVES = "needs Python 3.15; below, OpenSSL can be told of one curve only"
ONLY_WE_REFUSE: list[tuple[Row, str]] = [
    (out(server=""), UNCHECKED),
    (out(server="a b"), UNCHECKED),
    (out(server="x.example:443"), UNCHECKED),
    (out(server="999.1.1.1"), UNCHECKED),
    (out(server="https://x.example"), UNCHECKED),
    (out(server_port=0), UNCHECKED),
    (out(server_port=None), UNCHECKED),
    (out(password=""), UNCHECKED),
    (out(password=None), UNCHECKED),
    (out(idle_session_timeout="-5s"), NEGATIVE),
    (out(connect_timeout="-1s"), NEGATIVE),
    (out(min_idle_session=-1), NEGATIVE),
    (tls(handshake_timeout="-5s"), NEGATIVE),
    (tls(fragment=True, fragment_fallback_delay="-1s"), NEGATIVE),
    (out(idle_session_check_interval="1ns"), "a check at every nanosecond"),
    (out(Server="x.example"), "field names are written as documented; the error says so"),
    (out(inet4_bind_address="::1"), UNCHECKED),
    (out(inet6_bind_address="1.2.3.4"), UNCHECKED),
    (out(routing_mark="0x_12"), "a typing mistake more likely than Go's digit separator"),
    (out(domain_resolver={"server": "local", "nonsense": 1}), "unknown fields are errors everywhere"),
    (out(client_metadata="a\nb=c"), "it would add settings of its own"),
    (out(protect_path="/x"), OTHERWISE + ": it acts on Android only"),
    (tls(server_name="a b"), UNCHECKED),
    (tls(alpn=["h2", ""]), UNCHECKED),
    (tls(alpn="a" * 256), UNCHECKED),
    (tls(min_version="1.3", max_version="1.2"), UNCHECKED),
    (tls(max_version="1.1"), UNCHECKED),
    (tls(cipher_suites="TLS_AES_128_GCM_SHA256", max_version="1.2"), UNCHECKED),
    (tls(certificate_public_key_sha256="AAAA"), UNCHECKED),
    (tls(certificate_public_key_sha256=[""]), UNCHECKED),
    (tls(ech={"enabled": True}), LATER),
    (tls(spoof="y.example"), LATER),
    (tls(spoof="y.example", spoof_method="wrong-sequence"), LATER),
]
#: These depend on the Python and the OpenSSL at hand.
WE_MAY_REFUSE: list[tuple[Row, str]] = [
    (tls(curve_preferences=["X25519", "P256"]), LISTED_CURVES),
    (tls(curve_preferences="X25519MLKEM768"), "needs OpenSSL 3.5 and a Python that can name it"),
]

SEED = "the seed's own field, not in the released sing-box"
EMPTY = "an empty string is the default, because the seed's sample has empty strings"
ONLY_WE_ACCEPT: list[tuple[Row, str]] = [
    (out(type=None), "only anytls outbounds are read here"),
    (out(heartbeat="11s"), SEED),
    (out(ensure_idle_session=2), SEED),
    (out(ensure_idle_session_create_rate=1), SEED),
    (out(max_connection_lifetime="1h"), SEED),
    (out(connection_lifetime_jitter="15m"), SEED),
    (out(min_idle_session_for_age=1), SEED),
    (out(idle_session_timeout=""), EMPTY),
    (out(idle_session_timeout=None), EMPTY),
    (out(inet4_bind_address=""), EMPTY),
    (out(routing_mark=""), EMPTY),
    (out(routing_mark=None), EMPTY),
    (out(network_strategy=""), EMPTY),
    (tls(handshake_timeout=""), EMPTY),
    (tls(cipher_suites=""), EMPTY),
    (tls(curve_preferences=""), EMPTY),
    (out(domain_strategy="prefer_ipv4"), "deprecated in sing-box and off in 1.14; there is no other reason"),
]
