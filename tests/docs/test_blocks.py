"""Every example of the documentation is run: Python blocks as they stand, shell lines as far as they can be parsed."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anytls_http import cli
from anytls_http.config.sources import parse_json
from tests.docs.pages import ROOT, Block, blocks, pages
from tests.docs.world import world

#: The blocks that nothing runs, each with its reason in the page. A new one is a decision, so they are counted.
NOT_TESTED = {"docs/proxy.md": 1, "docs/recipes.md": 3}
#: The reason of a block that another test runs: "tests/recipes runs it".
_ELSEWHERE = re.compile(r"(tests/\S+) runs ")

_BY_PAGE = {page.relative_to(ROOT).as_posix(): page for page in pages()}
_WITH_PYTHON = [name for name, page in _BY_PAGE.items() if blocks(page, "python")]
_SHELLS = ("sh", "bash", "shell", "console")


@pytest.mark.parametrize("name", _WITH_PYTHON)
# Examples fork, and the test process has threads, as programs with a client have.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_the_python_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with world(tmp_path, monkeypatch) as surroundings:
        namespace: dict[str, Any] = {"__name__": "example", "world": surroundings}
        with _closed_at_the_end(namespace):
            for block in blocks(_BY_PAGE[name], "python"):
                if not block.not_tested:
                    _run(block, namespace)


def test_the_blocks_that_are_not_run_are_few() -> None:
    left_out = [block for page in pages() for block in blocks(page, "python") if block.not_tested]
    nowhere = []
    for block in left_out:
        if elsewhere := _ELSEWHERE.match(block.not_tested):
            assert (ROOT / elsewhere[1]).exists(), block
        else:
            nowhere.append(block)
    counted = Counter(block.page for block in nowhere)
    assert counted == NOT_TESTED, [f"{block}: {block.not_tested}" for block in nowhere]


def _run(block: Block, namespace: dict[str, Any]) -> None:
    # The blank lines make tracebacks name the line of the page.
    code = compile("\n" * (block.line - 1) + block.code, str(ROOT / block.page), "exec", dont_inherit=True)
    if not block.raises:
        exec(code, namespace)
        return
    try:
        exec(code, namespace)
    except Exception as exc:
        assert block.raises in [kind.__name__ for kind in type(exc).__mro__], f"{block} raised {exc!r}"
        namespace["error"] = exc.with_traceback(None)
    else:
        pytest.fail(f"{block} raised no {block.raises}")


@contextlib.contextmanager
def _closed_at_the_end(namespace: dict[str, Any]) -> Iterator[None]:
    """Close what a program would keep until its end: examples make clients, and most of them close none."""
    try:
        yield
    finally:
        namespace.pop("world", None)
        for value in list(namespace.values()):
            module = type(value).__module__.partition(".")[0]
            if module in ("anytls_http", "httpx", "httpx2", "requests", "socket", "ssl"):
                with contextlib.suppress(AttributeError):
                    value.close()
        namespace.clear()


def _command_lines(code: str) -> Iterator[str]:
    """Yield the commands of a shell block, without prompts, comments and what a console has printed."""
    lines = code.replace("\\\n", " ").splitlines()
    prompts = any(line.startswith("$ ") for line in lines)
    for line in lines:
        if prompts and not line.startswith("$ "):
            continue
        yield from re.split(r"&&|\|\||[;|]", line.removeprefix("$ "))


_COMMANDS = [
    pytest.param(words, id=f"{block.page}:{block.line}-{' '.join(words[:2])}")
    for page in pages()
    for block in blocks(page, *_SHELLS)
    for line in _command_lines(block.code)
    if "anytls-http" in (words := shlex.split(line, comments=True)) or "anytls_http" in words
]


@pytest.mark.parametrize("words", _COMMANDS)
def test_the_command_lines_parse(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """``anytls-http`` or ``python -m anytls_http``, with variables before and a redirection after."""
    start = words.index("anytls-http" if "anytls-http" in words else "anytls_http")
    arguments = words[start + 1 :]
    for sign in (">", "&"):
        if sign in arguments:
            arguments = arguments[: arguments.index(sign)]
    try:
        parsed = cli._parser().parse_args(arguments)
    except SystemExit as exc:
        assert exc.code in (0, None), capsys.readouterr().err  # --help, --version
    else:
        assert callable(parsed.run)


@pytest.mark.parametrize("name", _BY_PAGE)
def test_the_json_blocks_parse(name: str) -> None:
    for block in blocks(_BY_PAGE[name], "json"):
        assert isinstance(parse_json(block.code), dict), block
