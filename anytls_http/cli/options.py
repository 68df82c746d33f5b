"""What several commands share: options that name an outbound (``-c FILE [--tag TAG]``, ``--uri URI``), and numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from anytls_http.config import AnyTLSOutbound
from anytls_http.errors import ConfigError

__all__ = ["add_outbound_options", "read_number", "read_outbound"]

Number = TypeVar("Number", int, float)


def add_outbound_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("the outbound")
    group.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="an anytls outbound, or a whole sing-box configuration, as JSON",
    )
    group.add_argument("--tag", help="which outbound of the file, where there are several")
    group.add_argument(
        "--uri", help="anytls://password@host:port/?sni=name&insecure=1 (others may see it in ps)"
    )


def read_outbound(arguments: argparse.Namespace) -> AnyTLSOutbound:
    """Return the outbound that the options name. Raises ``ConfigError``, also where they name none or two."""
    if (arguments.config is None) == (arguments.uri is None):
        raise ConfigError("give either -c FILE or --uri URI")
    if arguments.uri is not None:
        if arguments.tag is not None:
            raise ConfigError("--tag goes with -c FILE")
        return AnyTLSOutbound.from_uri(arguments.uri)
    return AnyTLSOutbound.from_file(arguments.config, arguments.tag)


def read_number(text: str, kind: Callable[[str], Number]) -> Number:
    """Return an option's number; argparse's own words for a text that is none name a function of ours."""
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a number, got {text!r}") from None
