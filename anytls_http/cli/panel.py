"""The live panel of a pool: its numbers, and one line for each session. Shown by ``top``, and by ``proxy``.

:func:`render` makes it for rich's ``Live``, :func:`render_text` as plain lines; neither prints. Call them with
what the client says of itself at this moment::

    with Live(get_renderable=lambda: render(client.stats(), client.sessions()), console=console): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from anytls_http.config import PoolOptions
from anytls_http.pool.events import Event
from anytls_http.pool.stats import PoolStats, SessionInfo

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["COLUMNS", "event_line", "render", "render_text"]

#: The columns of the sessions' table.
COLUMNS = ("#", "state", "age", "sent", "received", "streams", "rtt", "v", "target")
_LEFT = frozenset({"state", "target"})


def render(
    stats: PoolStats,
    sessions: Sequence[SessionInfo],
    *,
    title: str = "",
    options: PoolOptions | None = None,
    events: Iterable[Event] = (),
    most: int = 40,
) -> RenderableType:
    """Return the panel for rich.

    ``title``: above it. ``options``: the pool's, to show its numbers against its targets. ``events``: the last
    ones, shown below. ``most``: sessions shown, the newest; the others are counted. Raises
    ``ImportError`` where rich isn't installed.
    """
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown = [(session.state, _cells(session)) for session in sessions[-most:]]
    for column, name in enumerate(COLUMNS):
        # Where the terminal is narrow, the target is cut and nothing else.
        width = max([len(name), *(len(cells[column]) for _, cells in shown)])
        table.add_column(
            Text(name),
            justify="left" if name in _LEFT else "right",
            no_wrap=True,
            min_width=None if name == "target" else width,
        )
    for state, cells in shown:
        table.add_row(*map(Text, cells), style="bold green" if state == "busy" else "")
    parts: list[RenderableType] = [
        Text(line, style="yellow" if stats.deficit and line.startswith("wanted") else "")
        for line in _summary(stats, options)
    ]
    parts += [Text(), table]
    if len(sessions) > most:
        parts.append(Text(f"... and {len(sessions) - most} older ones", style="dim"))
    lines = [Text(event_line(event), style="dim", no_wrap=True, overflow="ellipsis") for event in events]
    if lines:
        parts += [Text(), *lines]
    return Panel(Group(*parts), title=Text(title) if title else None, title_align="left")


def render_text(
    stats: PoolStats,
    sessions: Sequence[SessionInfo],
    *,
    title: str = "",
    options: PoolOptions | None = None,
    most: int = 40,
) -> str:
    """Return the panel as plain lines, without a line end at its end. Arguments as for :func:`render`."""
    rows = [COLUMNS, *(_cells(session) for session in sessions[-most:])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [title] if title else []
    lines += _summary(stats, options)
    for row in rows:
        cells = [
            cell.ljust(width) if name in _LEFT else cell.rjust(width)
            for name, cell, width in zip(COLUMNS, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    if len(sessions) > most:
        lines.append(f"... and {len(sessions) - most} older ones")
    return "\n".join(lines)


def event_line(event: Event) -> str:
    """Return one line on an event, for people."""
    parts = [f"session #{event.session}", event.name.removeprefix("session_").replace("_", " ")]
    parts += [part for part in (event.reason and f"({event.reason})", event.target, event.detail) if part]
    if event.seconds is not None:
        parts.append(_milliseconds(event.seconds) if event.seconds < 1 else f"{event.seconds:.1f} s")
    return "  ".join(parts)


def _summary(stats: PoolStats, options: PoolOptions | None) -> list[str]:
    wanted = []
    if options is not None:
        wanted = [f"{options.ensure_idle_session} kept warm"] if options.ensure_idle_session else []
        if options.max_connection_lifetime is not None:
            wanted.append(f"renewed after {options.max_connection_lifetime:g} s")
        if options.heartbeat is not None:
            wanted.append(f"heartbeat every {options.heartbeat:g} s")
    oldest = "none" if stats.oldest_age is None else _age(stats.oldest_age)
    missing = f"; {stats.deficit} are missing" if stats.deficit else ""
    return [
        f"sessions  {stats.idle} idle, {stats.active} busy, {stats.total} in all; oldest {oldest}",
        *([f"wanted    {', '.join(wanted)}{missing}"] if wanted else []),
        f"so far    created {_counts(stats.created)}; closed {_counts(stats.closed)}",
        (
            f"traffic   {stats.streams_opened} streams, {_size(stats.bytes_sent)} sent, "
            f"{_size(stats.bytes_received)} received"
        ),
    ]


def _counts(counts: Mapping[str, int]) -> str:
    said = [f"{count} {name}" for name, count in counts.items() if count]
    return ", ".join(said) or "none"


def _cells(session: SessionInfo) -> tuple[str, ...]:
    return (
        str(session.sequence),
        session.state if session.idle_for is None else f"{session.state} {_age(session.idle_for)}",
        _age(session.age),
        _size(session.bytes_sent),
        _size(session.bytes_received),
        str(session.streams_opened),
        _milliseconds(session.round_trip),
        str(session.server_version) if session.server_version else "?",
        session.target or "-",
    )


def _age(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole // 60 % 60:02}m"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
