"""A network namespace that a test makes and takes away again; needs root and ``ip`` (iproute2)."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

import pytest

#: How the two ends of the pair are addressed: here, and inside (RFC 2544's range for tests, not routed).
HERE, INSIDE = "198.18.77.1", "198.18.77.2"


class Namespace:
    """A namespace with its loopback up, and a pair of interfaces that leads into it.

    :attr:`name` is its name, :attr:`interface` the end of the pair on this side.
    """

    def __init__(self) -> None:
        number = os.getpid()
        self.name = f"anytls-{number}"
        self.interface = f"at{number}"
        self._other = f"bt{number}"
        self.path = f"/run/netns/{self.name}"

    def __enter__(self) -> Self:
        reason = _reason_to_skip()
        if reason is None:
            result = _ip("netns", "add", self.name)
            reason = result and f"no namespace can be made here: {result}"
        if reason is not None:
            pytest.skip(reason)
        try:
            for command in (
                f"link add {self.interface} type veth peer name {self._other} netns {self.name}",
                f"addr add {HERE}/30 dev {self.interface}",
                f"link set {self.interface} up",
                f"-n {self.name} addr add {INSIDE}/30 dev {self._other}",
                f"-n {self.name} link set {self._other} up",
                f"-n {self.name} link set lo up",
            ):
                problem = _ip(*command.split())
                if problem is not None:
                    pytest.skip(f"no interfaces can be made here: ip {command}: {problem}")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._remove()

    def _remove(self) -> None:
        _ip("link", "del", self.interface)
        _ip("netns", "del", self.name)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function inside, on a thread of its own."""
        result: list[Any] = []

        def run() -> None:
            descriptor = os.open(self.path, os.O_RDONLY)
            assert ctypes.CDLL(None).setns(descriptor, 0) == 0
            os.close(descriptor)
            result.append(function())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return result[0]


def _reason_to_skip() -> str | None:
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    return None if shutil.which("ip") else "needs ip: apt-get install iproute2"


def _ip(*arguments: str) -> str | None:
    """Run ``ip``; return what it complains about, None when it worked."""
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else result.stderr.strip() or str(result.returncode)
