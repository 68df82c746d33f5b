"""The Markdown pages with examples, and the fenced blocks in them.

A comment before a block says how it is tested::

    <!-- no test: it needs a Redis server -->      not run, for this reason
    <!-- raises: ConnectError -->                  run, and must raise this

A comment of its own holds code that no reader sees, and that runs where it stands::

    <!-- test
    assert response.status_code == 200
    -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(
    r"^(?P<indent> *)```+(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```+ *$",
    re.DOTALL | re.MULTILINE,
)
_COMMENT = re.compile(
    r"^<!-- (?P<kind>no test: |raises: |test\n)(?P<text>.*?)\s*-->", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a page."""

    page: str  #: the path from the root of the repository
    line: int  #: of its first line of code, from 1
    language: str
    code: str
    not_tested: str = ""  #: why not
    raises: str = ""  #: the name of the exception that it ends with

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return every page that a user reads."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if "_build" not in page.parts]


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the page's blocks in one of ``languages``, and the hidden tests among them where Python is asked for."""
    return [block for block in _all_blocks(page) if block.language in languages]


def _all_blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    fences = list(_FENCE.finditer(text))
    said: re.Match[str] | None = None
    comments = [
        comment
        for comment in _COMMENT.finditer(text)
        if not any(fence.start() < comment.start() < fence.end() for fence in fences)
    ]
    for found in sorted([*fences, *comments], key=lambda match: match.start()):
        if found.re is _COMMENT:
            if found["kind"] == "test\n":
                yield Block(name, _line(text, found.start("text")), "python", found["text"] + "\n")
            else:
                said = found
            continue
        # A comment counts for what it stands directly before.
        about = said if said is not None and not text[said.end() : found.start()].strip() else None
        kind = about["kind"].strip(": ") if about else ""
        words = " ".join(about["text"].split()) if about else ""
        indent = len(found["indent"])
        yield Block(
            name,
            _line(text, found.start("code")),
            found["language"],
            "".join(
                line[indent:] if line.strip() else line for line in found["code"].splitlines(keepends=True)
            ),
            not_tested=words if kind == "no test" else "",
            raises=words if kind == "raises" else "",
        )


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
