"""``anytls-http run -- COMMAND``: a command whose HTTP goes through the tunnel, by the usual environment variables."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Self

from anytls_http.errors import ConfigError
from anytls_http.proxy import LocalProxy

from .options import add_outbound_options, read_outbound

#: Exit codes of shells for commands that can't be run.
CANNOT_EXECUTE, NOT_FOUND = 126, 127

#: Set to the proxy's URL, in upper and lower case. An http URL for all: not every program that honours
#: ALL_PROXY can speak SOCKS (httpx and requests can't, as installed).
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

_PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGBREAK")
#: A terminal sends these to every process in its foreground, the command included.
_FROM_TERMINALS = ("SIGINT", "SIGQUIT")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "run",
        help="run a command whose HTTP goes through the tunnel",
        description="Start the proxy on a free local port and run COMMAND with HTTP_PROXY, HTTPS_PROXY and "
        "ALL_PROXY set to it (upper and lower case) and NO_PROXY cleared. Signals are passed on; the exit code is "
        "the command's (128 + number where a signal ended it, 127 where there is no such command).",
        usage="anytls-http run [-h] (-c FILE [--tag TAG] | --uri URI) -- COMMAND ...",
    )
    add_outbound_options(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="the command, after --")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code. Raises ``ConfigError``."""
    command: list[str] = arguments.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise ConfigError("give a command to run, after --")
    with LocalProxy(read_outbound(arguments)) as proxy, _Signals() as signals:
        try:
            child = subprocess.Popen(command, env=environment(proxy.url))
        except FileNotFoundError:
            return _complain(command[0], "no such command", NOT_FOUND)
        except OSError as exc:
            return _complain(command[0], exc.strerror or str(exc), CANNOT_EXECUTE)
        with signals.to(child):
            code = child.wait()
        return 128 - code if code < 0 else code


def environment(proxy_url: str) -> dict[str, str]:
    """Return this process's environment with ``proxy_url`` in it."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in (*PROXY_VARIABLES, "NO_PROXY")
    }
    for name in PROXY_VARIABLES:
        variables[name] = variables[name.lower()] = proxy_url
    return variables


class _Signals:
    """Passes signals on to the command instead of ending this process; those that come too soon are kept."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._kept: list[int] = []

    def __enter__(self) -> Self:
        names = [name for name in _PASSED_ON if hasattr(signal, name)]
        self._before = {
            number: signal.signal(number, self._take) for number in map(signal.Signals.__getitem__, names)
        }
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def to(self, child: subprocess.Popen[bytes]) -> Iterator[None]:
        """Pass them on to ``child`` in this block."""
        self._child = child
        for number in self._kept:
            child.send_signal(number)
        try:
            yield
        finally:
            self._child = None

    def _take(self, number: int, frame: FrameType | None) -> None:
        if signal.Signals(number).name in _FROM_TERMINALS and _in_foreground():
            return
        if self._child is None:
            self._kept.append(number)
        else:
            self._child.send_signal(number)


def _in_foreground() -> bool:
    """Whether a terminal's Ctrl-C reaches this process, and then the command too."""
    try:
        with open(os.ctermid(), "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except (OSError, AttributeError):
        return os.name == "nt"


def _complain(command: str, words: str, code: int) -> int:
    print(f"anytls-http: {command!a}: {words}", file=sys.stderr)
    return code
