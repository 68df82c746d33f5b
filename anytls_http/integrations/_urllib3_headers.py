"""urllib3's dictionary of headers, filled only for who changes it or wants more than its values.

urllib3 takes 30 steps to put one header in, and 20 to get it out; requests gets all of them, and some by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from urllib3 import HTTPHeaderDict

from ._plain_headers import PlainState


class PlainHeaders(PlainState, HTTPHeaderDict):
    """An ``HTTPHeaderDict``; one that :meth:`of_plain` made answers by itself until it has to be filled."""

    @classmethod
    def of_plain(cls, items: list[tuple[str, str]], values: dict[str, str]) -> Self:
        """Return the headers ``items``, each of another name; ``values``: the same by their names in lower case."""
        headers = cls.__new__(cls)
        headers.plain_items = items
        headers.plain = values
        return headers

    def _made(self, items: list[tuple[str, str]]) -> HTTPHeaderDict:
        return HTTPHeaderDict(items)

    def __getitem__(self, key: str) -> str:
        if self.plain_items is None or not isinstance(key, str):
            return super().__getitem__(key)
        return self.plain[key.lower()]

    def get(self, key: str, default: Any = None) -> Any:
        if self.plain_items is None or not isinstance(key, str):
            return super().get(key, default)
        return self.plain.get(key.lower(), default)

    def __iter__(self) -> Iterator[str]:
        items = self.plain_items
        return super().__iter__() if items is None else iter([name for name, _ in items])

    def __repr__(self) -> str:
        return f"HTTPHeaderDict({dict(self.itermerged())})"
