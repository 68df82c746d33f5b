"""``anytls-http top``: a client's sessions, live, until Ctrl-C."""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Iterator

from anytls_http.client import AnyTLSClient
from anytls_http.config import AnyTLSOutbound
from anytls_http.pool.events import EVENT_NAMES, Event

from .options import add_outbound_options, read_number, read_outbound
from .panel import render, render_text

#: What the configuration may leave open, so that there is something to see.
WARM_SESSIONS = 2
HEARTBEAT = 5.0
#: Events shown below the sessions.
EVENTS_SHOWN = 8


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "top",
        help="watch the sessions of a client, live",
        description="Open a client of its own, keep its sessions warm as the configuration says "
        f"({WARM_SESSIONS} sessions and a heartbeat of {HEARTBEAT:g} s where it says nothing), and show them: age, "
        "state, bytes, round trip, and the pool against its targets. On a terminal the panel is refreshed until "
        "Ctrl-C; elsewhere it is printed again and again.",
    )
    add_outbound_options(parser)
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="end after N seconds")
    parser.add_argument(
        "--interval",
        type=_seconds,
        metavar="N",
        help="seconds between two looks (default: 0.5; 2 without a terminal)",
    )
    parser.add_argument(
        "--warm", type=_count, metavar="N", help="keep N sessions warm, whatever the configuration says"
    )
    parser.add_argument("--plain", action="store_true", help="plain text, even on a terminal")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show the panel until the time is over (0) or Ctrl-C (0 too); 1 where no session was ever there."""
    outbound = _watchable(read_outbound(arguments), arguments.warm)
    events: collections.deque[Event] = collections.deque(maxlen=EVENTS_SHOWN)
    with AnyTLSClient(outbound, event_hooks={name: [events.append] for name in EVENT_NAMES}) as client:
        with contextlib.suppress(KeyboardInterrupt):
            live = not arguments.plain and sys.stdout.isatty()
            if not (live and _watch(client, events, arguments)):
                _print(client, arguments)
        stats = client.stats()
        if sum(stats.created.values()):
            return 0
        error = client._pool.state.last_error
    print(f"anytls-http: no session: {error or 'there was no time for one'}", file=sys.stderr)
    return 1


def _watchable(outbound: AnyTLSOutbound, warm: int | None) -> AnyTLSOutbound:
    pool = outbound.pool
    return dataclasses.replace(
        outbound,
        pool=dataclasses.replace(
            pool,
            ensure_idle_session=warm or pool.ensure_idle_session or WARM_SESSIONS,
            heartbeat=HEARTBEAT if pool.heartbeat is None else pool.heartbeat,
        ),
    )


def _watch(client: AnyTLSClient, events: collections.deque[Event], arguments: argparse.Namespace) -> bool:
    """Refresh the panel in place; False where rich isn't installed."""
    try:
        from rich.console import Console, RenderableType
        from rich.live import Live
    except ImportError:
        return False

    def panel() -> RenderableType:
        room = max(3, console.height - 8 - len(events))
        return render(
            client.stats(),
            client.sessions(),
            title=client.outbound.describe(),
            options=client.outbound.pool,
            events=list(events),
            most=room,
        )

    console = Console()
    interval = arguments.interval or 0.5
    with Live(get_renderable=panel, console=console, auto_refresh=False) as live:
        for _ in _ticks(interval, arguments.seconds):
            live.refresh()
    return True


def _print(client: AnyTLSClient, arguments: argparse.Namespace) -> None:
    for number, _ in enumerate(_ticks(arguments.interval or 2.0, arguments.seconds)):
        text = render_text(
            client.stats(),
            client.sessions(),
            title=f"{time.strftime('%H:%M:%S')}  {client.outbound.describe()}",
            options=client.outbound.pool,
        )
        print(("\n" if number else "") + text, flush=True)


def _ticks(interval: float, seconds: float | None) -> Iterator[None]:
    """Yield at once, each ``interval`` seconds, and once at the end of ``seconds``; None: without end."""
    end = math.inf if seconds is None else time.monotonic() + seconds
    while True:
        yield
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(interval, left))


def _seconds(text: str) -> float:
    seconds = read_number(text, float)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError("takes a number of seconds above 0")
    return seconds


def _count(text: str) -> int:
    count = read_number(text, int)
    if not 1 <= count <= 10_000:
        raise argparse.ArgumentTypeError("takes 1 to 10000")
    return count
