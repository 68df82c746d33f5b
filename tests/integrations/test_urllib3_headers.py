"""Headers that answer by themselves: whatever is done with them, urllib3's own say the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPHeaderDict

from anytls_http.integrations._urllib3_headers import PlainHeaders

ITEMS = [("Server", "x"), ("Content-Length", "4"), ("set-cookie", "a=b")]


def plain(items: list[tuple[str, str]]) -> PlainHeaders:
    return PlainHeaders.of_plain(list(items), {name.lower(): value for name, value in items})


def told(act: Callable[[Any], Any], headers: HTTPHeaderDict) -> Any:
    try:
        result = act(headers)
    except Exception as exc:
        return type(exc), str(exc).replace("PlainHeaders", "HTTPHeaderDict")
    return list(result.items()) if isinstance(result, HTTPHeaderDict) else result


ACTS: dict[str, Callable[[Any], Any]] = {
    "get": lambda headers: (headers["SERVER"], headers.get("server"), headers.get("x"), headers.get("x", 1)),
    "get what isn't there": lambda headers: headers["x"],
    "get by bytes": lambda headers: headers[b"Server"],
    "get another type": lambda headers: headers.get(4),
    "contains": lambda headers: ("SERVER" in headers, "x" in headers, b"server" in headers),
    "iterate": list,
    "items": lambda headers: (list(headers.items()), ("Server", "x") in headers.items()),
    "keys and values": lambda headers: (list(headers.keys()), list(headers.values())),
    "merged": lambda headers: list(headers.itermerged()),
    "getlist": lambda headers: (headers.getlist("Server"), headers.get_all("x")),
    "set": lambda headers: headers.__setitem__("SERVER", "y"),
    "add": lambda headers: headers.add("server", "y"),
    "delete": lambda headers: headers.__delitem__("server"),
    "pop": lambda headers: headers.pop("server"),
    "setdefault": lambda headers: headers.setdefault("y", "z"),
    "update": lambda headers: headers.update({"a": "b"}),
    "or": lambda headers: headers | {"Server": "y"},
    "copy": lambda headers: headers.copy(),
    "equal": lambda headers: (
        headers == dict(ITEMS),
        headers == {"a": "b"},
        headers != HTTPHeaderDict(ITEMS),
    ),
    "copied": copy.copy,
    "deeply copied": copy.deepcopy,
    "pickled": lambda headers: pickle.loads(pickle.dumps(headers)),
    "no such attribute": lambda headers: hasattr(headers, "nothing"),
    "clear": lambda headers: headers.clear(),
}


@pytest.mark.parametrize("first", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize("second", ACTS.values(), ids=ACTS)
def test_any_two_steps(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> None:
    ours, theirs = plain(ITEMS), HTTPHeaderDict(ITEMS)
    for act in (first, second, dict, ACTS["items"]):
        assert told(act, ours) == told(act, theirs)


@given(st.dictionaries(st.sampled_from(["A", "b", "Content-Length", "x-y"]), st.text(max_size=4)))
def test_any_headers(values: dict[str, str]) -> None:
    items = list(values.items())
    for act in (list, dict, lambda headers: [headers.get(name) for name in ("a", "B", "CONTENT-length")]):
        assert told(act, plain(items)) == told(act, HTTPHeaderDict(items))


def test_made_as_urllib3s_they_are_urllib3s() -> None:
    headers = PlainHeaders(ITEMS, y="z")
    assert headers == HTTPHeaderDict(ITEMS, y="z")
    assert list(PlainHeaders()) == []


def test_what_is_only_read_is_not_filled() -> None:
    headers = plain(ITEMS)
    assert headers["server"] == "x" and headers.get("Content-length") == "4" and len(dict(headers)) == 3
    assert "_container" not in headers.__dict__


def test_two_threads_may_want_them_filled() -> None:
    headers = plain(ITEMS)
    headers.add("a", "b")  # filled while the other one is on its way
    assert headers.__getattr__("_container") is headers._container
    assert headers["a"] == "b" and headers["server"] == "x"
    assert repr(headers) == repr(HTTPHeaderDict([*ITEMS, ("a", "b")]))
