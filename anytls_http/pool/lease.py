"""Who has a session: a token that its user holds, and that dies with him wherever an interrupt strikes.

``KeyboardInterrupt`` may come between any two instructions: after a session was taken and before anybody
could write down whose it is, or after its stream has ended and before it was put back. What is left then is
a session that is counted but unused. So a session is taken together with a lease; one whose lease has died
without its being given back is lost, and the maintenance thread closes it.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session import Session
    from .state import PoolState


class Lease:
    """The right to :attr:`session`, until ``PoolState.put_idle`` or ``PoolState.drain`` takes it back."""

    __slots__ = ("__weakref__", "session")

    def __init__(self, state: PoolState, session: Session) -> None:
        self.session = session
        session.lease = weakref.ref(self, functools.partial(_died, state, session))


def _died(state: PoolState, session: Session, lease: weakref.ref[Lease]) -> None:
    # Runs like a finalizer, inside any lock: the maintenance thread does the rest.
    if session.lease is lease:
        state.abandoned.append(functools.partial(state.reclaim, session, lease))
        state.wake_maintenance()
