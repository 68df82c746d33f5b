"""What a test may leave behind: nothing. Threads, descriptors and child processes are counted.

Descriptors and children are looked up in ``/proc``; where there is none, only threads are checked.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

#: Seconds that threads, sockets and processes get to end after the test.
GRACE = 2.0
#: Seconds between two looks.
INTERVAL = 0.005
#: Seconds after which garbage in reference cycles is collected, once.
COLLECT_AFTER = 0.05

#: Threads of the tools that run the tests.
_TOOL_THREADS = ("pytest_timeout", "execnet")
#: Descriptors that count; files are left out, since caches and captures of the tools open some.
_COUNTED = ("socket:", "pipe:", "anon_inode:")

_PROC_FD = Path("/proc/self/fd")
_PROC_TASK = Path("/proc/self/task")


@dataclass(frozen=True)
class Snapshot:
    """What there is at one moment."""

    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, str]]
    children: frozenset[int]

    @classmethod
    def take(cls) -> Snapshot:
        return cls(_threads(), _descriptors(), _children())

    def new_since(self, before: Snapshot) -> Snapshot:
        """What is in this snapshot and wasn't in ``before``."""
        return Snapshot(
            self.threads - before.threads,
            self.descriptors - before.descriptors,
            self.children - before.children,
        )

    def __bool__(self) -> bool:
        return bool(self.threads or self.descriptors or self.children)


def leftovers(before: Snapshot, grace: float = GRACE) -> Snapshot:
    """Return what came since ``before`` and is still there after ``grace`` seconds."""
    begin = time.monotonic()
    collected = False
    while True:
        left = Snapshot.take().new_since(before)
        waited = time.monotonic() - begin
        if not left or (collected and waited > grace):
            return left
        if not collected and waited >= min(COLLECT_AFTER, grace):
            gc.collect()
            collected = True
        else:
            time.sleep(INTERVAL)


def describe(left: Snapshot) -> str:
    """Return a text that tells a person what was left, and where the threads are."""
    lines = []
    frames = sys._current_frames()
    for thread in left.threads:
        lines.append(f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}")
        frame = frames.get(thread.ident or 0)
        if frame is not None:
            lines += [
                "  " + line for text in traceback.format_stack(frame)[-4:] for line in text.splitlines()
            ]
    lines += [f"descriptor {number} -> {link}" for number, link in sorted(left.descriptors)]
    lines += [f"child process {child}: {_command(child)}" for child in sorted(left.children)]
    return "\n".join(lines)


def _threads() -> frozenset[threading.Thread]:
    return frozenset(thread for thread in threading.enumerate() if not thread.name.startswith(_TOOL_THREADS))


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    try:
        numbers = os.listdir(_PROC_FD)
    except FileNotFoundError:
        return frozenset()
    for number in numbers:
        try:
            link = os.readlink(_PROC_FD / number)
        except FileNotFoundError:
            continue  # closed meanwhile, such as the one that listed the folder
        if link.startswith(_COUNTED):
            found.add((int(number), link))
    return frozenset(found)


def _children() -> frozenset[int]:
    found: set[int] = set()
    try:
        tasks = os.listdir(_PROC_TASK)
    except FileNotFoundError:
        return frozenset()
    for task in tasks:
        try:
            found.update(map(int, (_PROC_TASK / task / "children").read_text().split()))
        except (FileNotFoundError, ProcessLookupError):
            continue  # that thread has ended, or the kernel doesn't tell
    return frozenset(found)


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return "ended"
