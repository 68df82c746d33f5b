"""How long each step of a request takes, by httpx's trace.

python examples/request_trace.py CONFIG [URL]
"""

from __future__ import annotations

import sys
import time

import httpx

from anytls_http import AnyTLSOutbound, AnyTLSTransport

config = sys.argv[1]
url = sys.argv[2] if len(sys.argv) > 2 else "https://example.org/"


class Trace:
    """Prints each step at its end; those of the tunnel are called ``anytls.*``."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}

    def __call__(self, name: str, facts: dict[str, object]) -> None:
        step, _, what = name.rpartition(".")
        if what == "started":
            self._started[step] = time.perf_counter()
        else:
            print(f"{(time.perf_counter() - self._started[step]) * 1000:8.2f} ms  {step} {what}")


with httpx.Client(transport=AnyTLSTransport(AnyTLSOutbound.from_file(config))) as http:
    for title in ("The first request", "The second, on the same connection"):
        print(title)
        http.get(url, extensions={"trace": Trace()})
