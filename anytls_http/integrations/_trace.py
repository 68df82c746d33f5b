"""The tunnel's part of httpx's ``trace`` extension: its steps under the names ``anytls.*``.

| event | when | facts |
| --- | --- | --- |
| ``anytls.open_stream`` | a new connection of httpcore's needs a session | ``target``; ``session``, ``reused`` |
| ``anytls.dial`` | ... and none was idle: one is dialled, within the step above | ``server``, ``port``; ``session`` |
| ``anytls.resolve`` | the server's name is looked up | ``host``; ``addresses`` |
| ``anytls.connect_tcp`` | TCP to the server | ``addresses`` |
| ``anytls.detour`` | in place of these two, where the outbound has a ``detour`` | ``detour`` |
| ``anytls.tls`` | TLS with the server | ``server_name``; ``ssl_object`` |
| ``anytls.proof_of_life`` | a session that was silent for long is asked for a sign of life | ``session``; ``alive`` |

Each is told as ``.started`` with the facts before the semicolon, then as ``.complete`` with those after it and
``seconds``, or as ``.failed`` with ``exception`` and ``seconds``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from anytls_http.net.steps import Observer

logger = logging.getLogger("anytls_http.integrations")


def tracing(trace: Callable[[str, dict[str, Any]], object]) -> Observer:
    """Return the observer that tells ``trace``; one that raises is logged, since it must not cost a session."""

    def tell(name: str, facts: dict[str, Any]) -> None:
        try:
            trace(f"anytls.{name}", facts)
        except Exception:  # it is the user's, and may raise anything
            logger.exception("the trace extension failed at anytls.%s", name)

    return tell
