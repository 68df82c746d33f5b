"""urllib3's dictionary of headers, filled only for who changes it or wants more than its values.

urllib3 takes 30 steps to put one header in, and 20 to get it out; requests gets all of them, and some by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from urllib3 import HTTPHeaderDict


class PlainHeaders(HTTPHeaderDict):
    """An ``HTTPHeaderDict``; one that :meth:`of_plain` made answers by itself until it has to be filled."""

    _plain_items: list[tuple[str, str]] | None = None
    _plain: dict[str, str]

    @classmethod
    def of_plain(cls, items: list[tuple[str, str]], values: dict[str, str]) -> Self:
        """Return the headers ``items``, each of another name; ``values``: the same by their names in lower case."""
        headers = cls.__new__(cls)
        headers._plain_items = items
        headers._plain = values
        return headers

    def __getattr__(self, name: str) -> Any:
        """Become what urllib3 would have made: it is asked for its own state, which isn't there yet."""
        items = self._plain_items
        if items is not None:
            for attribute, value in HTTPHeaderDict(items).__dict__.items():
                self.__dict__.setdefault(attribute, value)  # another thread may be at it too
            self._plain_items = None
        if name not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.__dict__[name]

    def __getitem__(self, key: str) -> str:
        if self._plain_items is None or not isinstance(key, str):
            return super().__getitem__(key)
        return self._plain[key.lower()]

    def get(self, key: str, default: Any = None) -> Any:
        if self._plain_items is None or not isinstance(key, str):
            return super().get(key, default)
        return self._plain.get(key.lower(), default)

    def __iter__(self) -> Iterator[str]:
        items = self._plain_items
        return super().__iter__() if items is None else iter([name for name, _ in items])

    def __repr__(self) -> str:
        return f"HTTPHeaderDict({dict(self.itermerged())})"
