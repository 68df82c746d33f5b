"""JSON as sing-box takes it, and the choice of the outbound in a file.

Two libraries were measured and left: ``json5`` (0.17) needs 1.4 s for 170 kB, doesn't know ``#`` comments
and takes what sing-box refuses (single quotes, names without quotes); ``json-with-comments`` (1.3) doesn't
know ``#`` either, takes ``[,]``, and its lines in errors are off by the comments. Here comments and trailing
commas become spaces, and the standard library's parser does the rest: 200 kB in 20 ms, true positions.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from ..errors import ConfigError
from .fields import describe_value, position_of_tag

__all__ = ["choose_outbound", "merge", "parse_json", "read_text", "siblings"]

logger = logging.getLogger("anytls_http.config")

# Strings come first, so that nothing inside one is taken for a comment. A string or a comment without an
# end is matched to the end of the text: otherwise each later quote would be tried again from there.
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
_COMMENT = re.compile(rf"{_STRING}|(?P<comment>//[^\n]*|#[^\n]*|/\*.*?(?:\*/|\Z))", re.DOTALL)
# A comma after an opening bracket or another comma is no trailing comma; it stays, as an error.
_COMMA = re.compile(rf"{_STRING}|[\[{{,:]\s*,|(?P<comma>,)(?=\s*[\]}}])", re.DOTALL)
_NOT_NEWLINE = re.compile(r"[^\n]")


def read_text(path: str) -> str:
    """Return a UTF-8 file's text, with or without a byte order mark; ``ConfigError`` names the file."""
    if "://" in path or ("{" in path and not os.path.exists(path)):
        # Not shown: it is a URI or the JSON text itself, and the password is in it.
        raise ConfigError("file: takes a path; for a URI there is from_uri, for a JSON text from_json")
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = getattr(error, "strerror", None) or str(error)
    raise ConfigError(f"{path}: cannot read: {problem}")


def parse_json(text: str | bytes) -> object:
    """Return the value of a JSON text with comments (``//``, ``/* */``, ``#``) and trailing commas.

    Raises ``ConfigError`` with line and column where it is no such text.
    """
    if isinstance(text, bytes | bytearray):
        text = _decode(bytes(text))
    if not isinstance(text, str):
        raise ConfigError(f"JSON: got {describe_value(text, secret=True)}, takes text")
    plain = _COMMA.sub(_blank_comma, _COMMENT.sub(_blank_comment, text.removeprefix("\ufeff")))
    try:
        return json.loads(plain, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        problem = "nested too deeply"
    except ConfigError:
        raise
    except ValueError:
        problem = "a number has too many digits"
    # Outside of the except block: a JSONDecodeError carries the whole text, with the password in it.
    raise ConfigError(f"JSON: {problem}")


def choose_outbound(document: object, tag: str | None = None) -> tuple[object, str]:
    """Return the ``anytls`` outbound of a document, and the prefix of its fields' paths in errors.

    A document without ``outbounds`` is the outbound itself. Raises ``ConfigError`` where there is none or
    no single one, listing the tags to choose from.
    """
    if not isinstance(document, Mapping):
        got = describe_value(document, secret=True)
        raise ConfigError(f"got {got}, takes an object: an outbound or a whole sing-box configuration")
    if "outbounds" not in document:
        own = document.get("tag")
        if tag is not None and own != tag:
            raise ConfigError(f"tag: there is one outbound, tagged {describe_value(own)}, and not {tag!r}")
        return document, ""
    outbounds = document["outbounds"]
    if not isinstance(outbounds, list | tuple):
        raise ConfigError(f"outbounds: got {describe_value(outbounds)}, takes a list")
    # sing-box's tag for an outbound that has none is its position.
    tagged = [
        (position, str(entry.get("tag") or position), entry)
        for position, entry in enumerate(outbounds)
        if isinstance(entry, Mapping) and entry.get("type") == "anytls"
    ]
    if not tagged:
        raise ConfigError('outbounds: there is none of type "anytls"')
    chosen = [found for found in tagged if tag is None or found[1] == tag]
    if tag is not None:
        position_of_tag("outbounds", tag, {position: own_tag for position, own_tag, _ in tagged})
    if tag is None:
        # Those that others go through aren't meant where a single one is left.
        detours = [entry.get("detour") for entry in outbounds if isinstance(entry, Mapping)]
        chosen = [found for found in tagged if found[1] not in detours] if len(tagged) > 1 else tagged
    if len(chosen) != 1:
        _refuse_choice(tag, [found[1] for found in tagged])
    position, _, outbound = chosen[0]
    return outbound, f"outbounds[{position}]."


def siblings(document: object) -> tuple[list[object] | None, list[object] | None]:
    """Return the ``outbounds`` and the ``dns.servers`` of a document, for what its outbounds name by tag.

    None where it has none, or is a bare outbound. Raises ``ConfigError`` where they are no lists.
    """
    if not isinstance(document, Mapping) or "outbounds" not in document:
        return None, None
    dns = document.get("dns") or {}
    if not isinstance(dns, Mapping):
        raise ConfigError(f"dns: got {describe_value(dns)}, takes an object")
    servers = dns.get("servers") or []
    if not isinstance(servers, list | tuple):
        raise ConfigError(f"dns.servers: got {describe_value(servers)}, takes a list")
    return list(document["outbounds"]), list(servers)


def merge(config: object, overrides: Mapping[str, Any]) -> object:
    """Return the configuration with the overrides put over it, objects merged; neither is changed."""
    if not overrides or not isinstance(config, Mapping):
        return config
    merged = dict(config)
    for name, value in overrides.items():
        below = merged.get(name)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[name] = merge(below, value) if both else value
    return merged


def _refuse_choice(tag: str | None, tags: list[str]) -> NoReturn:
    listed = ", ".join(repr(each) for each in tags)
    if tag is None:
        raise ConfigError(f"outbounds: several are of type anytls, choose one by its tag: {listed}")
    raise ConfigError(f"outbounds: none of type anytls has the tag {tag!r}; the tags are: {listed}")


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    raise ConfigError("JSON: not UTF-8 text")


def _blank_comment(match: re.Match[str]) -> str:
    comment = match["comment"]
    if comment is None:
        return match[0]
    if comment.startswith("/*") and (len(comment) < 4 or not comment.endswith("*/")):
        line = match.string.count("\n", 0, match.start()) + 1
        column = match.start() - match.string.rfind("\n", 0, match.start())
        raise ConfigError(f"JSON: line {line}, column {column}: the comment has no end")
    return _NOT_NEWLINE.sub(" ", comment)


def _blank_comma(match: re.Match[str]) -> str:
    return " " if match["comma"] else match[0]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = ", ".join(sorted(name for name, count in counts.items() if count > 1))
        # Not an error: sing-box takes the last one too, without a word.
        logger.warning("the JSON text has a field twice in one object, the last one counts: %s", twice)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ConfigError(f"JSON: {name} is no JSON value")
