"""Buffers of the calling thread: sessions have none of their own, so that a thousand idle ones stay small."""

from __future__ import annotations

import threading

#: What a buffer is for; each is in use by one step of a call only.
CIPHERTEXT, RECORD, INNER_CIPHERTEXT, PLAINTEXT = range(4)
#: Bytes of each; measured (docs/performance.md): half of the first and third costs a few percent of a download.
SIZES = (256 * 1024, 16 * 1024, 128 * 1024, 64 * 1024)

_per_thread = threading.local()


def scratch(purpose: int) -> memoryview:
    """Return this thread's buffer for ``purpose``; what it holds is lost at the next call for the same."""
    try:
        return _per_thread.views[purpose]  # type: ignore[no-any-return]
    except AttributeError:
        _per_thread.views = [memoryview(bytearray(size)) for size in SIZES]
        return _per_thread.views[purpose]  # type: ignore[no-any-return]
