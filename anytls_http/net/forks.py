"""A forked child has to forget: locks may be held by threads that it has not, and connections are the parent's."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """What is of no use in a forked child as it is."""

    def forget_in_child(self) -> None:
        """Begin anew, without a word to the parent's peers."""


_known: weakref.WeakSet[Inherited] = weakref.WeakSet()


def forget_in_children(inherited: Inherited) -> None:
    """Have ``inherited.forget_in_child()`` called in each process forked from now on, as long as it is there."""
    _known.add(inherited)


def _after_fork_in_child() -> None:
    for inherited in list(_known):
        inherited.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
