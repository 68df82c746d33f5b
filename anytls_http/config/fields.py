"""Reading one object of the configuration, field by field, with errors that name the field.

Every reader takes the field's name and returns its value in the type that the options hold, or a default
where the field is missing, ``None`` or empty. Every ``ConfigError`` begins with the path of the field and
says what it got and what it takes; a reader called with ``secret=True`` never shows the value.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import ConfigError
from .durations import parse_duration

__all__ = ["Fields", "describe_value", "one_of", "show_text"]

_TAKES_DURATION = 'takes a duration such as "30s", "1h30m" or "100ms"'
_LONGEST_SHOWN = 60


def describe_value(value: object, *, secret: bool = False) -> str:
    """Return how an error names a value: scalars with their value unless secret, the rest by kind.

    The content of objects and lists is never shown: a whole outbound, with its password, may have been
    put in the wrong place.
    """
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return "a boolean" if secret else f"{str(value).lower()} (a boolean)"
    if isinstance(value, int | float):
        return "a number" if secret else f"{_show_number(value)} (a number)"
    if isinstance(value, str):
        return "a string" if secret else f"{show_text(value)} (a string)"
    return f"a value of type {type(value).__name__}"


def _show_number(value: float) -> str:
    # Python refuses to print integers of more than 4,300 digits, and nobody wants to read them.
    return str(value) if not isinstance(value, int) or abs(value) < 10**20 else "a very large number"


def show_text(value: str, longest: int = _LONGEST_SHOWN) -> str:
    """Return a string as errors show it: quoted and cut short; PEM and URIs not at all.

    Both turn up where something else was wanted (the PEM itself in ``certificate_path``), and they hold
    keys and passwords.
    """
    if "-----BEGIN" in value:
        return "PEM"
    if "anytls://" in value.lower():
        return "a URI"
    shown = value if len(value) <= longest else value[:longest] + "..."
    return json.dumps(shown, ensure_ascii=not shown.isprintable())


class Fields:
    """One object of the configuration (the outbound, its ``tls``, ...) while it is being read.

    ``known`` are all the names that the object may have; any other one is a ``ConfigError`` at once,
    before a value is looked at, because a misspelt field explains most of what would be found next.
    """

    def __init__(self, raw: Mapping[Any, Any], known: Collection[str], path: str = "") -> None:
        self.raw = raw
        self.path = path
        self._known = known
        for name in raw:
            if not isinstance(name, str) or name not in known:
                self._refuse_unknown(name)

    def where(self, name: str) -> str:
        """Return the full path of a field, such as ``tls.alpn``."""
        return f"{self.path}.{name}" if self.path else name

    def fail(self, name: str, problem: str) -> NoReturn:
        """Raise the ``ConfigError`` for a field of this object."""
        raise ConfigError(f"{self.where(name)}: {problem}")

    def fail_type(self, name: str, value: object, takes: str, *, secret: bool = False) -> NoReturn:
        """Raise the ``ConfigError`` for a value of the wrong type: what it got, what it takes."""
        self.fail(name, f"got {describe_value(value, secret=secret)}, takes {takes}")

    def get(self, name: str) -> object:
        """Return the raw value; ``None`` where it is missing."""
        assert name in self._known, name
        return self.raw.get(name)

    def text(self, name: str, *, secret: bool = False) -> str | None:
        """Return a string, ``None`` where it is missing. An empty string stays an empty string."""
        return self._checked_text(name, self.get(name), "a string", secret=secret)

    def filled_text(self, name: str, *, secret: bool = False) -> str | None:
        """Return a string that isn't empty; ``None`` where it is missing or empty."""
        return self.text(name, secret=secret) or None

    def texts(self, name: str, *, secret: bool = False) -> tuple[str, ...]:
        """Return the strings of a "listable" field: one string or a list; empty where there is none."""
        value = self.get(name)
        if value is None or value == "":
            return ()
        if not isinstance(value, list | tuple):
            only = self._checked_text(name, value, "a string or a list of strings", secret=secret)
            return () if only is None else (only,)
        return tuple(
            self._checked_item(f"{name}[{position}]", item, secret) for position, item in enumerate(value)
        )

    def flag(self, name: str) -> bool:
        """Return a boolean, false where it is missing. Neither 1 nor "true" is one, as in sing-box."""
        value = self.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            self.fail_type(name, value, "true or false")
        return value

    def integer(self, name: str, lowest: int, highest: int) -> int | None:
        """Return an integer within the bounds; ``None`` where it is missing."""
        value = self.get(name)
        if value is None:
            return None
        # 443.0 is one too: tools that know only floating-point numbers write it, and sing-box takes it.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail_type(name, value, f"an integer from {lowest} to {highest}")
        if not lowest <= value <= highest:
            self.fail(name, f"got {_show_number(value)}, takes an integer from {lowest} to {highest}")
        return int(value)

    def duration(self, name: str, *, at_least: str = "") -> float | None:
        """Return seconds; ``None`` where the field is missing, empty or zero, for the caller's default.

        ``at_least`` is the shortest one allowed, as a duration string.
        """
        value = self.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = _show_number(value)
            self.fail(name, f'got {number}, a number without a unit: write "{number}s" for seconds')
        if not isinstance(value, str):
            self.fail(name, f"got {describe_value(value)}, {_TAKES_DURATION}")
        try:
            seconds = parse_duration(value)
        except ValueError:
            self._fail_duration(name, value)
        if seconds < 0:
            self.fail(name, f"got {show_text(value)}, takes a duration that isn't negative")
        if seconds and at_least and seconds < parse_duration(at_least):
            self.fail(name, f'got {show_text(value)}, takes at least "{at_least}"')
        return seconds or None

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return one of the options; an empty string where the field is missing or empty."""
        value = self.text(name)
        if not value:
            return ""
        if value not in options:
            self.fail(name, f"got {show_text(value)}, takes {one_of(options)}")
        return value

    def choices(self, name: str, options: Sequence[str]) -> tuple[str, ...]:
        """Return the values of a listable field, each one of the options."""
        values = self.texts(name)
        for value in values:
            if value not in options:
                self.fail(name, f"got {show_text(value)}, takes {one_of(options)}")
        return values

    def group(self, name: str, known: Collection[str]) -> Fields | None:
        """Return an object inside this one for reading; ``None`` where it is missing."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.fail_type(name, value, "an object")
        return Fields(value, known, self.where(name))

    def parsed(self, name: str, value: str, parse: Callable[[str], str]) -> str:
        """Return ``parse(value)``; its ``ValueError`` becomes the error of the field."""
        try:
            return parse(value)
        except ValueError as problem:
            self.fail(name, f"got {show_text(value)}, takes {problem}")

    def _checked_text(self, name: str, value: object, takes: str, *, secret: bool) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            self.fail_type(name, value, takes, secret=secret)
        if any("\ud800" <= character <= "\udfff" for character in value):
            # JSON's "\ud800" alone: no UTF-8 exists for it, so it can go nowhere from here.
            self.fail(name, "holds half of a surrogate pair, which is no character")
        return str(value)

    def _checked_item(self, name: str, value: object, secret: bool) -> str:
        text = self._checked_text(name, value, "a string", secret=secret)
        if text is None:
            self.fail_type(name, value, "a string", secret=secret)
        return text

    def _fail_duration(self, name: str, value: str) -> NoReturn:
        if value.isascii() and value.isdigit():
            shown = show_text(value + "s")
            self.fail(name, f"got {show_text(value)}, a number without a unit: write {shown} for seconds")
        self.fail(name, f"got {show_text(value)}, {_TAKES_DURATION}")

    def _refuse_unknown(self, name: object) -> NoReturn:
        if not isinstance(name, str):
            where = f"{self.path}: " if self.path else ""
            raise ConfigError(f"{where}field names are strings, got {describe_value(name)}")
        shown = name if name.isprintable() and len(name) <= _LONGEST_SHOWN else show_text(name)
        # Lower-cased, since sing-box takes "Server" too, and that should lead to "server".
        close = difflib.get_close_matches(name[:_LONGEST_SHOWN].lower(), sorted(self._known), n=1)
        self.fail(shown, "unknown field" + (f', did you mean "{close[0]}"?' if close else ""))


def one_of(options: Sequence[str]) -> str:
    """Return the words for "one of these"."""
    return "one of " + ", ".join(f'"{option}"' for option in options)


def position_of_tag(where: str, tag: str, tags: Mapping[int, str]) -> int | None:
    """Return the position of the entry with this tag, None where there is none; ``tags``: position -> tag.

    Raises ``ConfigError`` where several have it: what was meant isn't known.
    """
    found = [position for position, own_tag in tags.items() if own_tag == tag]
    if len(found) > 1:
        listed = ", ".join(f"[{position}]" for position in found)
        raise ConfigError(f"{where}{listed}: several have the tag {show_text(tag)}")
    return found[0] if found else None
