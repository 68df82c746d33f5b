"""The command ``anytls-http``. Each command is a module with ``add_parser`` and ``run``.

Exit codes: 0 it worked, 1 it failed, 2 the configuration or the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from anytls_http._version import __version__
from anytls_http.errors import AnyTLSError, ConfigError

from . import check, check_config, demo, proxy, schema, top
from . import run as run_command

OK = 0
FAILED = 1
BAD_CONFIGURATION = 2
INTERRUPTED = 130

#: The commands, in the order in which the help lists them.
_COMMANDS = (demo, check, proxy, run_command, top, check_config, schema)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (``sys.argv[1:]`` by default) and return the exit code; never raises for bad input."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as exc:  # argparse has said why: help, version or a usage error
        return exc.code if isinstance(exc.code, int) else BAD_CONFIGURATION
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except ConfigError as exc:
        return _complain(exc, BAD_CONFIGURATION)
    except BrokenPipeError:
        # Whoever read the output (head, less) has left; nothing more can be said to it, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (AnyTLSError, OSError) as exc:
        return _complain(exc, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anytls-http",
        description="AnyTLS inside Python: httpx, requests and sockets through AnyTLS servers.",
    )
    parser.add_argument("--version", action="version", version=f"anytls-http {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def _complain(exc: BaseException, code: int) -> int:
    print(f"anytls-http: {exc}", file=sys.stderr)
    return code
