"""The generated parts of ``docs/configuration.md``: ``python -m tests.config.document`` writes them anew."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from anytls_http.config.definitions import FIELDS, FieldDefinition, Kind, default_text
from tests.config.differences import ONLY_WE_ACCEPT, ONLY_WE_REFUSE, WE_MAY_REFUSE, as_json

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

#: More choices than fit into the column of types.
_MANY = 6
_HEADINGS = {"": "Outbound", "domain_resolver": "`domain_resolver` as an object", "tls": "`tls`"}


def page(text: str) -> str:
    """Return the page's text with its generated parts as they should be."""
    for name, part in (("fields", fields()), ("differences", differences())):
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"{PAGE.name} has no place for {name}"
        text = f"{before}{begin}\n\n{part}\n{end}{after}"
    return text


def fields() -> str:
    """Return the tables of all fields."""
    parts = []
    rows = sorted(
        (field for field in FIELDS if field.parent in _HEADINGS),
        key=lambda field: list(_HEADINGS).index(field.parent),
    )
    for parent, members in groupby(rows, key=lambda field: field.parent):
        parts.append(f"### {_HEADINGS[parent]}\n")
        parts.append(_table(("field", "type", "default", "here"), map(_row, members)))
    return "\n".join(parts)


def differences() -> str:
    """Return the table of what is refused or accepted otherwise than by ``sing-box check``."""
    tables = (
        ("refused here", ONLY_WE_REFUSE),
        ("refused here where it can't be had", WE_MAY_REFUSE),
        ("accepted here only", ONLY_WE_ACCEPT),
    )
    examples: dict[tuple[str, str], list[str]] = {}
    for verdict, table in tables:
        for row, why in table:
            examples.setdefault((verdict, why), []).append(f"`{_cell(as_json(row))}`")
    rows = [(verdict, why, "<br>".join(shown)) for (verdict, why), shown in examples.items()]
    return _table(("verdict", "why", "for example"), rows)


def _row(field: FieldDefinition) -> tuple[str, ...]:
    kind, meaning = field.kind.value, field.meaning
    if len(field.choices) > _MANY:
        meaning += ": " + " ".join(f"`{each}`" for each in field.choices)
    elif field.choices and field.name not in ("type", "engine"):
        kind = f"{'list of ' if field.kind is Kind.TEXTS else ''}" + " ".join(
            f"`{each}`" for each in field.choices
        )
    default = "required" if field.required else default_text(field)
    return f"`{field.name}`", kind, default, meaning


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
