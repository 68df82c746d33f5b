"""What the pool tells of itself, to hooks and to the log.

python examples/events.py CONFIG [URL]
"""

from __future__ import annotations

import logging
import sys

import httpx

from anytls_http import AnyTLSClient, AnyTLSOutbound, AnyTLSTransport
from anytls_http.pool.events import EVENT_NAMES, Event

config = sys.argv[1]
url = sys.argv[2] if len(sys.argv) > 2 else "https://example.org/"

logging.basicConfig(format="%(name)s: %(message)s")
logging.getLogger("anytls_http").setLevel(logging.DEBUG)


def tell(event: Event) -> None:
    """Called from any thread; must be quick."""
    print("event:", event.name, f"session {event.session}", event.reason or event.target, event.detail)


hooks = {name: [tell] for name in EVENT_NAMES}
with AnyTLSClient(AnyTLSOutbound.from_file(config), event_hooks=hooks) as tunnel:
    with httpx.Client(transport=AnyTLSTransport(tunnel)) as http:
        print(http.get(url).status_code)
    print(tunnel.stats())
