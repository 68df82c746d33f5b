"""Buffers that sessions have not of their own, so that a thousand idle ones stay small.

Two of each thread, and large ones for reading ciphertext, which a thread needs for a moment only: those are
lent, so that there are as many as are in use at once.
"""

from __future__ import annotations

import functools
import threading

#: What a buffer of the thread is for; each is in use by one step of a call only.
DECRYPTED, PLAINTEXT = range(2)
#: Bytes of each. The first takes all that is decrypted of one step's ciphertext (``net.tls.FEED_SIZE``) with the rest
#: of a record before it: with less, each step of an https download leaves a few bytes for a step of their own.
SIZES = (144 * 1024, 128 * 1024)
#: Bytes of a buffer for reading ciphertext. Large reads spare the kernel many small acknowledgements: with a quarter
#: of it a download costs a tenth more CPU (docs/performance.md).
CIPHERTEXT_SIZE = 1024 * 1024
#: Most buffers for ciphertext that are kept for their next use.
MAX_SPARE = 4

#: Bytes of the block by whose end malloc learns how much to keep; see :func:`_keep_freed_memory`.
KEPT = 4 * 1024 * 1024

_per_thread = threading.local()
_spare: list[memoryview] = []


def scratch(purpose: int) -> memoryview:
    """Return this thread's buffer for ``purpose``; what it holds is lost at the next call for the same."""
    try:
        return _per_thread.views[purpose]  # type: ignore[no-any-return]
    except AttributeError:
        _per_thread.views = [memoryview(bytearray(size)) for size in SIZES]
        return _per_thread.views[purpose]  # type: ignore[no-any-return]


def borrow() -> memoryview:
    """Return a buffer for ciphertext, which is the caller's until :func:`give_back`."""
    try:
        return _spare.pop()
    except IndexError:
        _keep_freed_memory()
        return memoryview(bytearray(CIPHERTEXT_SIZE))


def give_back(buffer: memoryview) -> None:
    """Give back what :func:`borrow` returned; one that is not given back is only lost."""
    if len(_spare) < MAX_SPARE:
        _spare.append(buffer)


@functools.cache
def _keep_freed_memory() -> None:
    """Have malloc keep up to 8 MiB of what is freed, for the process, instead of giving it back at once.

    glibc gives the end of its heap back to the kernel as soon as 128 KiB of it are free, and takes it again a moment
    later, each page with a fault. Whether a download does that with each chunk is luck; then it takes twice the time.
    glibc itself has the cure: it keeps twice the size of the largest block of its own mapping that was freed.
    """
    bytes(KEPT)  # none of its pages is touched
