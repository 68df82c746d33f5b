"""A progress bar for commands that move many bytes: on a terminal, with rich; nothing at all elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["progress"]


@contextlib.contextmanager
def progress(total: int | None, label: str = "") -> Iterator[Callable[[int], object]]:
    """Show how far it is; yields what to call with the number of bytes that have come since the last call.

    ``total``: bytes to expect, None where that isn't known. The bar is on standard error, and gone at the end.
    """
    if not sys.stderr.isatty():
        yield _ignore
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
    except ImportError:
        yield _ignore
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)


def _ignore(count: int) -> None:
    pass
