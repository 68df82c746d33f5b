"""What commands show: steps with times, and tables; with rich where it is installed, as plain text elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

#: Width of the column with the name of a step.
_NAME_WIDTH = 16
#: Width of the bars of a chart, in characters.
_CHART_WIDTH = 50
#: Name, start and length in seconds, outcome.
Bar = tuple[str, float, float, str]
_STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}


@dataclass
class Step:
    """One step while it runs: say in ``detail`` how it went, in ``notes`` what is worth a line of its own."""

    name: str
    detail: str = ""
    notes: list[str] = field(default_factory=list)
    #: Seconds that it took.
    seconds: float = 0.0
    #: ``ok``, ``failed`` or ``skipped``.
    outcome: str = "ok"

    def fail(self, why: str) -> None:
        """Mark the step as failed."""
        self.outcome = "failed"
        self.detail = why

    def skip(self, why: str) -> None:
        """Mark the step as not done."""
        self.outcome = "skipped"
        self.detail = why


class Screen(Protocol):
    """Where the output goes."""

    def title(self, text: str) -> None: ...

    def step(self, step: Step) -> None: ...

    def table(self, title: str, rows: Iterable[tuple[str, str]]) -> None: ...

    def chart(self, title: str, bars: Sequence[Bar]) -> None: ...

    def lines(self, title: str, lines: Iterable[str]) -> None: ...

    def verdict(self, ok: bool, text: str) -> None: ...


class PlainScreen:
    """Plain text, for logs and for machines without rich."""

    def title(self, text: str) -> None:
        """Print a heading."""
        print(text, flush=True)

    def step(self, step: Step) -> None:
        """Print a step that has ended."""
        mark = "" if step.outcome == "ok" else f"{step.outcome.upper()}: "
        print(f"{step.seconds * 1000:8.1f} ms  {step.name:<{_NAME_WIDTH}}{mark}{step.detail}", flush=True)
        for note in step.notes:
            print(f"{'':13}{'':{_NAME_WIDTH}}- {note}", flush=True)

    def table(self, title: str, rows: Iterable[tuple[str, str]]) -> None:
        """Print names and values."""
        print(f"\n{title}")
        for name, value in rows:
            print(f"  {name:<18}{value}")

    def chart(self, title: str, bars: Sequence[Bar]) -> None:
        """Print nothing: the steps have said their times."""

    def lines(self, title: str, lines: Iterable[str]) -> None:
        """Print a heading and indented lines."""
        print(f"\n{title}:")
        for line in lines:
            print(f"  {line}")

    def verdict(self, ok: bool, text: str) -> None:
        """Print the last line."""
        print(f"\n{'OK' if ok else 'FAILED'}: {text}", flush=True)


class RichScreen:
    """The same with colours; raises :class:`ImportError` where rich isn't installed."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)

    def title(self, text: str) -> None:
        """Print a heading."""
        self._console.print(text, style="bold", markup=False, soft_wrap=True)

    def step(self, step: Step) -> None:
        """Print a step that has ended."""
        from rich.text import Text

        style = _STYLES[step.outcome]
        sign = {"ok": "ok", "failed": "FAILED", "skipped": "skipped"}[step.outcome]
        line = Text.assemble(
            (f"{step.seconds * 1000:8.1f} ms  ", "cyan"),
            (f"{step.name:<{_NAME_WIDTH}}", "bold"),
            (f"{sign:<8}", style),
            step.detail,
        )
        self._console.print(line, soft_wrap=True)
        for note in step.notes:
            self._console.print(
                f"{'':13}{'':{_NAME_WIDTH}}- {note}", style="dim", markup=False, soft_wrap=True
            )

    def table(self, title: str, rows: Iterable[tuple[str, str]]) -> None:
        """Print names and values."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=False)
        table.add_column(style="cyan")
        table.add_column()
        for name, value in rows:
            table.add_row(Text(name), Text(value))
        self._console.print(f"\n{title}", style="bold", markup=False, soft_wrap=True)
        self._console.print(table)

    def chart(self, title: str, bars: Sequence[Bar]) -> None:
        """Print when each step began and how long it took, as bars on one scale."""
        from rich.text import Text

        total = max((start + length for _, start, length, _ in bars), default=0.0)
        if not total:
            return
        self._console.print(f"\n{title}", style="bold", markup=False, soft_wrap=True)
        for name, start, length, outcome in bars:
            offset = round(start / total * _CHART_WIDTH)
            size = max(1, round((start + length) / total * _CHART_WIDTH) - offset)
            bar = ("\u2588" if self._console.encoding.startswith("utf") else "#") * size
            line = Text.assemble(
                (f"  {name:<{_NAME_WIDTH}}", "bold"),
                " " * offset,
                (bar, _STYLES[outcome]),
                " " * max(1, _CHART_WIDTH + 1 - offset - size),
                (f"{length * 1000:8.1f} ms", "cyan"),
            )
            self._console.print(line, soft_wrap=True)

    def lines(self, title: str, lines: Iterable[str]) -> None:
        """Print a heading and indented lines."""
        from rich.padding import Padding
        from rich.text import Text

        self._console.print(f"\n{title}:", style="bold", markup=False, soft_wrap=True)
        for line in lines:
            # Wrapped by words on a terminal only: elsewhere somebody may search for them.
            if self._console.is_terminal:
                self._console.print(Padding(Text(line), (0, 0, 0, 2)))
            else:
                self._console.print(Text(f"  {line}"), soft_wrap=True)

    def verdict(self, ok: bool, text: str) -> None:
        """Print the last line."""
        self._console.print()
        style = "bold green" if ok else "bold red"
        self._console.print(f"{'OK' if ok else 'FAILED'}: {text}", style=style, markup=False, soft_wrap=True)


def make_screen(plain: bool = False) -> Screen:
    """Return a screen: plain where asked for or where rich isn't installed."""
    if not plain:
        with contextlib.suppress(ImportError):
            return RichScreen()
    return PlainScreen()


@contextlib.contextmanager
def timed_step(screen: Screen, name: str, failures: tuple[type[BaseException], ...]) -> Iterator[Step]:
    """Time the block as one step and show it at its end; an exception of ``failures`` makes it a failed one."""
    step = Step(name)
    start = time.perf_counter()
    try:
        yield step
    except failures as exc:
        step.fail(f"{type(exc).__name__}: {exc}")
    finally:
        step.seconds = time.perf_counter() - start
    screen.step(step)
