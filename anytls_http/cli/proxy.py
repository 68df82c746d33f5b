"""``anytls-http proxy``: SOCKS5, SOCKS4a and HTTP on one local port, through the tunnel, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from anytls_http.errors import ConfigError
from anytls_http.proxy import LocalProxy

from .options import add_outbound_options, read_outbound

#: Where user name and password may stand, so that they aren't in the list of processes.
USER_VARIABLE = "ANYTLS_HTTP_PROXY_USER"
#: Seconds between two status lines.
INTERVAL = 1.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "proxy",
        help="serve SOCKS5, SOCKS4a and HTTP on a local port",
        description="Listen for local programs and carry their connections through the tunnel: SOCKS5 (with UDP), "
        "SOCKS4a and HTTP on one port. Ctrl-C ends it.",
    )
    add_outbound_options(parser)
    parser.add_argument(
        "--listen",
        default="127.0.0.1:1080",
        type=_address,
        metavar="HOST:PORT",
        help="where to listen, port 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--user",
        metavar="NAME:PASSWORD",
        help=f"what clients have to know; better given in ${USER_VARIABLE}, since others may see it in ps",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log to stderr")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, then return 0. Raises ``ConfigError``, and ``OSError`` when it can't listen."""
    outbound = read_outbound(arguments)
    username, password = _user(arguments.user or os.environ.get(USER_VARIABLE))
    if arguments.verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with _ended_by_signals() as ended, LocalProxy(outbound, arguments.listen, username, password) as proxy:
        where = f"{_shown_host(proxy)}:{proxy.port}"
        print(f"http://{where} and socks5h://{where} lead through {outbound.server}", flush=True)
        status = _StatusLine(proxy)
        while not ended.wait(INTERVAL):
            status.show()
        status.clear()
    return 0


class _StatusLine:
    """One line that is written over and over, where stdout is a terminal."""

    def __init__(self, proxy: LocalProxy) -> None:
        self._proxy = proxy
        self._live = sys.stdout.isatty()

    def show(self) -> None:
        """Write the numbers of this moment."""
        if not self._live:
            return
        stats = self._proxy.client.stats()
        text = (
            f"{self._proxy.connections} open of {self._proxy.accepted} connections, {self._proxy.failed} failed; "
            f"sessions: {stats.active} busy, {stats.idle} idle; "
            f"{_size(stats.bytes_sent)} up, {_size(stats.bytes_received)} down"
        )
        print(f"\r\x1b[K{text}", end="", flush=True)

    def clear(self) -> None:
        """Leave no half line behind."""
        if self._live:
            print(flush=True)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; the second one interrupts as usual."""
    ended = threading.Event()
    before = {}

    def end(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, end)
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown_host(proxy: LocalProxy) -> str:
    return proxy.url.rpartition("@")[2].removeprefix("http://").rpartition(":")[0]


def _address(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _user(text: str | None) -> tuple[str | None, str | None]:
    if not text:
        return None, None
    name, separator, password = text.partition(":")
    if not separator:
        raise ConfigError("--user: takes NAME:PASSWORD")
    return name, password


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
