"""What libraries make of the headers of a response, made only for who wants it."""

from __future__ import annotations

from typing import Any


class PlainState:
    """Headers that answer by themselves, until somebody changes them or asks for the state of what they stand for."""

    #: The headers in their order; None once they are in that state.
    plain_items: list[tuple[str, str]] | None = None
    #: The first value of each name, in lower case.
    plain: dict[str, str]

    def _made(self, items: list[tuple[str, str]]) -> object:
        """Return what these headers stand for, as its own class makes it."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        """Take on that state: it is asked for, and isn't there yet."""
        items = self.plain_items
        if items is not None:
            for attribute, value in vars(self._made(items)).items():
                self.__dict__.setdefault(attribute, value)  # another thread may be at it too
            self.plain_items = None
        if name not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.__dict__[name]
