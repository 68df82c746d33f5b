"""Sockets inside another network namespace (Linux).

The namespace is a thread's own. A short-lived thread enters it, makes the socket and ends; the socket stays
in the namespace that it was made in, and nothing else of the process notices.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable

from ..errors import DialError

__all__ = ["socket_inside"]

_CLONE_NEWNET = 0x40000000
#: Where ``ip netns add`` keeps the names.
_NAMES = "/run/netns"


def socket_inside(netns: str, make: Callable[[], socket.socket]) -> socket.socket:
    """Return ``make()``, called in the network namespace of this name or path; its errors pass through.

    The caller waits for it, so ``make`` may not wait for anything itself. Raises DialError where the
    namespace can't be entered.
    """
    if sys.platform != "linux":
        raise DialError(f"netns is not possible on {sys.platform}")
    made: list[socket.socket] = []
    failed: list[BaseException] = []

    def enter_and_make() -> None:
        try:
            _enter(netns)
            made.append(make())
        except BaseException as exc:  # noqa: BLE001 - it is raised by the caller
            failed.append(exc)

    thread = threading.Thread(target=enter_and_make, name="anytls-netns", daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        raise DialError(f'no thread to enter the network namespace "{netns}": {exc}') from exc
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _enter(netns: str) -> None:
    """Move this thread to the namespace; it can't be used for anything else afterwards."""
    path = netns if "/" in netns else os.path.join(_NAMES, netns)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise DialError(f'there is no network namespace "{netns}": {path}: {exc.strerror}') from exc
    try:
        _setns(descriptor)
    except PermissionError as exc:
        raise DialError(
            f'not permitted to enter the network namespace "{netns}" (EPERM): it needs root or CAP_SYS_ADMIN'
        ) from exc
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            raise DialError(f"{path} is not a network namespace") from exc
        raise DialError(f'cannot enter the network namespace "{netns}": {exc.strerror}') from exc
    finally:
        os.close(descriptor)


def _setns(descriptor: int) -> None:
    if sys.version_info >= (3, 12):
        os.setns(descriptor, _CLONE_NEWNET)
        return
    import ctypes  # rarely needed, and slow to load

    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
