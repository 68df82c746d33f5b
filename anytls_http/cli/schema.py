"""``anytls-http schema``: the JSON Schema of the outbound, for editors."""

from __future__ import annotations

import argparse
import sys

from anytls_http.config.schema import schema_text


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "schema",
        help="print the JSON Schema of the outbound",
        description="Print the JSON Schema of the outbound. Editors that know it complete and check the fields.",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    sys.stdout.write(schema_text())
    return 0
