"""``anytls-http check-config``: what a configuration comes to, and what each field of it was set by."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator

from anytls_http.config.effective import chain, effective_settings, raw_outbound
from anytls_http.config.uri import parse_uri
from anytls_http.errors import ConfigError

from .options import add_outbound_options, read_outbound


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "check-config",
        help="check a configuration and show what it comes to",
        description="Show the effective configuration, without the password, and what each field was set by. "
        "Nothing is dialled. Exit code 2 and the reason where the configuration is refused.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="the same as -c FILE")
    add_outbound_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the settings; warnings go to stderr. Raises ``ConfigError``."""
    if arguments.file is not None:
        if arguments.config is not None:
            raise ConfigError("FILE is there twice")
        arguments.config = arguments.file
    with _warnings_to_stderr():
        outbound = read_outbound(arguments)
        # The same again, as it was written; its warnings have been shown by now.
        raw = parse_uri(arguments.uri) if arguments.uri else raw_outbound(arguments.config, arguments.tag)
    print(f"{arguments.config or 'URI'}: {outbound.describe()}")
    for name in chain(outbound):
        print(f"  through {name}")
    settings = effective_settings(outbound, raw, "URI" if arguments.uri else "file")
    paths = max(len(setting.path) for setting in settings)
    values = min(40, max(len(setting.value) for setting in settings))
    for path, value, set_by in settings:
        print(f"  {path:{paths}}  {value:{values}}  {set_by}")
    return 0


@contextlib.contextmanager
def _warnings_to_stderr() -> Iterator[None]:
    """Print what is logged about the configuration, each message once."""
    seen = set()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if message not in seen:
                seen.add(message)
                print(f"anytls-http: {record.levelname.lower()}: {message}", file=sys.stderr)

    logger = logging.getLogger("anytls_http.config")
    handler, level = Handler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
