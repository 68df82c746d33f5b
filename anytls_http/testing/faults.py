"""What the test server does wrong on purpose: values to set, at any time, on ``server.faults``.

Faults that are actions (close, freeze, send a frame, ...) are methods of ``AnyTLSServer`` and of its sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Faults:
    """All of these can be changed while the server runs; they are read at the moment they matter."""

    #: Seconds that every dial to a target takes longer: nothing is dialled and no SYNACK sent before.
    synack_delay: float = 0.0
    #: Never dial, never send a SYNACK, as if the target swallowed the attempt. Streams that wait
    #: go on when this is set back to False.
    withhold_synack: bool = False
    #: Given (host, port) of a target, return the text to refuse it with, or None to dial it.
    refuse: Callable[[str, int], str | None] | None = None
    #: Say nothing to HeartRequests (they are counted nevertheless).
    answer_heartbeats: bool = True
    #: Close each new TCP connection at once, before TLS.
    close_on_accept: bool = False
    #: Close each session right after its authentication, without a frame (it looks like a wrong password).
    close_after_authentication: bool = False
    #: Ignore Settings: no ServerSettings, no padding scheme. What follows works as before.
    ignore_settings: bool = False
    #: Take user data while the target is still being dialled. A real sing-box doesn't: it reads nothing
    #: more from a session, heartbeats included, until its dial has ended.
    reads_while_dialling: bool = False
    #: Most seconds that a dial to a target may take.
    dial_timeout: float = 5.0
