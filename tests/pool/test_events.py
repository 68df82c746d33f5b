"""Events and the hooks that get them."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import traceback

import pytest

from anytls_http.errors import ConfigError
from anytls_http.pool.events import EVENT_NAMES, Event, EventDispatcher


def ignore(event: Event) -> None:
    """A hook."""


def test_the_names_are_those_of_the_design() -> None:
    """Design: "``session_created session_closed stream_opened ...``"."""
    names = "session_created session_closed stream_opened stream_closed stream_failed padding_updated alert heartbeat"
    assert set(EVENT_NAMES) == set(names.split())


@pytest.mark.parametrize("name", EVENT_NAMES)
def test_an_event_goes_to_the_hooks_of_its_name_in_their_order(name: str) -> None:
    calls: list[tuple[int, Event]] = []
    other: list[Event] = []
    others = {different: [other.append] for different in EVENT_NAMES if different != name}
    hooks = {name: [lambda event: calls.append((1, event)), lambda event: calls.append((2, event))], **others}
    event = Event(name, 7)
    EventDispatcher(hooks).emit(event)
    assert calls == [(1, event), (2, event)]
    assert other == []


def test_an_event_that_nobody_wants_goes_nowhere() -> None:
    dispatcher = EventDispatcher({"alert": [ignore]})
    dispatcher.emit(Event("heartbeat", 1))
    assert dispatcher.wants("alert") and not dispatcher.wants("heartbeat")


@pytest.mark.parametrize("hooks", [None, {}])
def test_without_hooks_nothing_is_wanted(hooks: dict[str, list[object]] | None) -> None:
    dispatcher = EventDispatcher(hooks)  # type: ignore[arg-type]
    assert not any(dispatcher.wants(name) for name in EVENT_NAMES)
    dispatcher.emit(Event("alert", 1))


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_hook_that_fails_is_logged_and_the_next_ones_are_called(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Design: "they can't break the pool"."""
    got: list[Event] = []

    def broken(event: Event) -> None:
        raise error("the user's bug")

    event = Event("alert", 1)
    EventDispatcher({"alert": [broken, got.append]}).emit(event)
    assert got == [event]
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "anytls_http.pool")
    assert "alert" in record.getMessage()
    assert record.exc_info is not None
    assert "the user's bug" in "".join(traceback.format_exception(*record.exc_info))


def test_an_interrupt_in_a_hook_is_not_swallowed() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EventDispatcher({"alert": [interrupted]}).emit(Event("alert", 1))


def test_an_unknown_name_is_a_configuration_error_that_tells_the_names() -> None:
    with pytest.raises(ConfigError, match="event_hooks: got 'session_closd'.*session_closed"):
        EventDispatcher({"session_closd": [ignore]})


@pytest.mark.parametrize("hooks", [ignore, "print", [ignore, "print"], [None], None, 5])
def test_what_is_no_list_of_callables_is_a_configuration_error(hooks: object) -> None:
    with pytest.raises(ConfigError, match=r"event_hooks\['alert'\]"):
        EventDispatcher({"alert": hooks})  # type: ignore[dict-item]


@pytest.mark.parametrize("hooks", [[ignore], 5, "alert"])
def test_what_is_no_mapping_is_a_configuration_error(hooks: object) -> None:
    with pytest.raises(ConfigError, match="event_hooks"):
        EventDispatcher(hooks)  # type: ignore[arg-type]


def test_any_iterable_of_callables_will_do_and_is_read_once() -> None:
    got: list[Event] = []
    hooks = {"alert": iter([got.append])}
    dispatcher = EventDispatcher(hooks)
    hooks.clear()
    dispatcher.emit(Event("alert", 1))
    dispatcher.emit(Event("alert", 2))
    assert [event.session for event in got] == [1, 2]


def test_events_are_frozen() -> None:
    """Design: "callables that get one frozen event"."""
    event = Event("session_closed", 3, reason="peer", seconds=1.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.reason = "error"  # type: ignore[misc]
    assert event == Event("session_closed", 3, reason="peer", seconds=1.5)
    assert pickle.loads(pickle.dumps(event)) == event
