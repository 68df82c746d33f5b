"""Requests on one HTTP/2 connection begin one after the other.

httpcore takes a stream's number and sends its headers in steps, between which another thread may do the same: then
numbers don't rise, for which the peer ends the connection, headers are compressed in another order than they are sent,
and who reads gets a ``KeyError``. What httpcore tells a request's ``trace`` says when its headers are out.

On a busy machine a frame may still get lost between who reads and who sends a body: they share h2's buffer.
"""

from __future__ import annotations

from typing import Any

#: The step after which another request may begin; any of HTTP/1.1's, where no connection is shared.
HEADERS_SENT = "http2.send_request_headers.complete"
NO_HTTP2 = "http11."


def begin_in_turn(turns: Any, connection: Any, request: Any) -> Any:
    """Have ``connection`` send httpcore's ``request``, and return the response, as ``handle_request`` does.

    ``turns``: the connection's ``RLock``, which this thread has until the request's headers are sent. The trace of
    the request's owner may send others.
    """
    extensions = request.extensions
    trace = extensions.get("trace")

    has_turn = True

    def told(step: str, info: dict[str, Any]) -> None:
        nonlocal has_turn
        if has_turn and (step == HEADERS_SENT or step.startswith(NO_HTTP2)):
            turns.release()
            has_turn = False
        if trace is not None:
            trace(step, info)

    request.extensions = {**extensions, "trace": told}
    try:
        turns.acquire()
        return connection.handle_request(request)
    finally:
        if has_turn:
            try:  # no call before the release, where an interrupt could come
                turns.release()
            except RuntimeError:
                pass  # it was interrupted before it had its turn, or after it had given it back
        request.extensions = extensions
