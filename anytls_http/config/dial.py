"""Reading the dial fields of the outbound."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence

from .dns import read_resolver
from .fields import Fields, show_text
from .hosts import ip_address_text
from .options import DialOptions
from .unsupported import refuse_not_supported

__all__ = ["DIAL_NAMES", "read_dial"]

logger = logging.getLogger("anytls_http.config")

DIAL_NAMES = frozenset(
    {
        "detour",
        "bind_interface",
        "inet4_bind_address",
        "inet6_bind_address",
        "bind_address_no_port",
        "routing_mark",
        "reuse_addr",
        "netns",
        "connect_timeout",
        "tcp_fast_open",
        "tcp_multi_path",
        "disable_tcp_keep_alive",
        "tcp_keep_alive",
        "tcp_keep_alive_interval",
        "udp_fragment",
        "domain_resolver",
        "domain_strategy",
        "network_strategy",
        "network_type",
        "fallback_network_type",
        "fallback_delay",
        "protect_path",
    }
)

#: Fields that only some systems can honour: sys.platform -> the names that people use.
_PLATFORMS = {
    "bind_interface": {"linux": "Linux", "darwin": "macOS"},
    "bind_address_no_port": {"linux": "Linux"},
    "routing_mark": {"linux": "Linux"},
    "netns": {"linux": "Linux"},
}
_NETWORK_STRATEGIES = ("default", "hybrid", "fallback")
_NETWORK_TYPES = ("wifi", "cellular", "ethernet", "other")
_LONGEST_INTERFACE_NAME = 15
_HIGHEST_MARK = 2**32 - 1
_MARK_TAKES = f'takes an integer from 0 to {_HIGHEST_MARK}, or such a one as a string ("0x1234")'
#: What Go's ParseUint takes with base 0. A leading zero alone means octal there.
_MARK = re.compile(
    r"0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)|0[oO]?(?P<oct>[0-7]+)|(?P<dec>0|[1-9][0-9]*)"
)
_MARK_BASES = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}


def read_dial(fields: Fields, dns_servers: Sequence[object] | None = None) -> DialOptions:
    """Return the dial options. ``dns_servers``: the file's, which ``domain_resolver`` names by tag.

    Raises ``ConfigError``, also for what this platform can't honour.
    """
    refuse_not_supported(fields)
    _refuse_impossible(fields)
    _read_without_effect(fields)
    default = DialOptions()
    resolver, domain_strategy = read_resolver(fields, dns_servers)
    options = DialOptions(
        connect_timeout=fields.duration("connect_timeout") or default.connect_timeout,
        fallback_delay=fields.duration("fallback_delay") or default.fallback_delay,
        bind_interface=_interface(fields),
        inet4_bind_address=_address(fields, "inet4_bind_address", 4),
        inet6_bind_address=_address(fields, "inet6_bind_address", 6),
        bind_address_no_port=fields.flag("bind_address_no_port"),
        routing_mark=_routing_mark(fields),
        reuse_addr=fields.flag("reuse_addr"),
        tcp_multi_path=fields.flag("tcp_multi_path"),
        disable_tcp_keep_alive=fields.flag("disable_tcp_keep_alive"),
        tcp_keep_alive=fields.duration("tcp_keep_alive") or default.tcp_keep_alive,
        tcp_keep_alive_interval=fields.duration("tcp_keep_alive_interval") or default.tcp_keep_alive_interval,
        domain_strategy=domain_strategy,
        resolver=resolver,
        netns=_netns(fields),
        detour=fields.filled_text("detour"),
    )
    for name in _PLATFORMS:
        if getattr(options, name):
            _need_platform(fields, name)
    if options.detour is not None:
        _tell_what_detour_ignores(fields)
    return options


def _refuse_impossible(fields: Fields) -> None:
    if fields.flag("tcp_fast_open"):
        fields.fail("tcp_fast_open", "is not supported with the anytls outbound, nor is it in sing-box")
    if fields.text("protect_path"):
        fields.fail("protect_path", "is for Android only")


def _read_without_effect(fields: Fields) -> None:
    fields.flag("udp_fragment")  # the tunnel is TCP
    set_ones = [
        name
        for name, value in (
            ("network_strategy", fields.choice("network_strategy", _NETWORK_STRATEGIES)),
            ("network_type", fields.choices("network_type", _NETWORK_TYPES)),
            ("fallback_network_type", fields.choices("fallback_network_type", _NETWORK_TYPES)),
        )
        if value
    ]
    for name in set_ones:
        logger.warning("%s has no effect: it acts in graphical clients only, as in sing-box", name)


def _need_platform(fields: Fields, name: str) -> None:
    # Read at the call, not by mypy or at import: the tests stand on other platforms.
    platform = str(sys.platform)
    able = _PLATFORMS[name]
    if platform not in able:
        systems = " and ".join(able.values())
        fields.fail(name, f"is possible on {systems} only, not on this platform ({platform})")


def _interface(fields: Fields) -> str | None:
    name = fields.filled_text("bind_interface")
    if name and (len(name.encode()) > _LONGEST_INTERFACE_NAME or not name.isprintable()):
        takes = f"takes the name of an interface, at most {_LONGEST_INTERFACE_NAME} bytes"
        fields.fail("bind_interface", f"got {show_text(name)}, {takes}")
    return name


def _address(fields: Fields, name: str, version: int) -> str | None:
    value = fields.filled_text(name)
    return value and fields.parsed(name, value, lambda text: ip_address_text(text, version))


def _routing_mark(fields: Fields) -> int | None:
    value = fields.get("routing_mark")
    if not isinstance(value, str):
        # A mark of 0 is a socket without one.
        return fields.integer("routing_mark", 0, _HIGHEST_MARK) or None
    if not value:
        return None
    match = _MARK.fullmatch(value) if len(value) < 64 else None
    if match is None or match.lastgroup is None:
        fields.fail("routing_mark", f"got {show_text(value)}, {_MARK_TAKES}")
    mark = int(match[match.lastgroup], _MARK_BASES[match.lastgroup])
    if mark > _HIGHEST_MARK:
        fields.fail("routing_mark", f"got {show_text(value)}, {_MARK_TAKES}")
    return mark or None


def _netns(fields: Fields) -> str | None:
    netns = fields.filled_text("netns")
    if netns is not None and "\0" in netns:
        fields.fail("netns", "takes the name of a network namespace, or a path")
    return netns


def _tell_what_detour_ignores(fields: Fields) -> None:
    ignored = [name for name in fields.raw if name in DIAL_NAMES and name != "detour" and fields.raw[name]]
    if ignored:
        logger.warning("without effect, because detour is set: %s", ", ".join(ignored))
