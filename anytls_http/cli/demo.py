"""``anytls-http demo``: the main job on loopback, with no server of one's own.

It starts the embedded test server and a small site, http and https, fetches from both through the tunnel
with httpx and with requests, and compares what arrived with what was sent. The sites have names that only
the AnyTLS server can resolve: a body that arrives can only have come through the tunnel.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from anytls_http.client import AnyTLSClient
from anytls_http.errors import AnyTLSError
from anytls_http.pool.events import EVENT_NAMES, Event
from anytls_http.pool.stats import PoolStats
from anytls_http.testing import AnyTLSServer, Site
from anytls_http.testing.site import body_sha256

from .options import read_number
from .screen import Screen, Step, make_screen, timed_step

PLAIN_HOST = "plain.demo.test"
SECURE_HOST = "secure.demo.test"
#: Sessions that the demo's pool keeps warm.
WARM_SESSIONS = 2
#: Seconds after which a request of the demo has failed.
TIMEOUT = 10.0


class Answer(NamedTuple):
    """What a request brought."""

    status: int
    body: bytes
    protocol: str


#: Fetches a URL.
Fetch = Callable[[str], Answer]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "demo",
        help="try everything on loopback, without a server of your own",
        description="Start an AnyTLS server and a web site on loopback, and fetch through the tunnel with httpx "
        "and requests. Exit code 0 only if every body arrived intact.",
    )
    parser.add_argument(
        "--size", type=_size, default=1_000_000, metavar="BYTES", help="size of a body (default: %(default)s)"
    )
    parser.add_argument("--plain", action="store_true", help="plain text, even where rich is installed")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 if every body arrived intact, else 1."""
    screen = make_screen(arguments.plain)
    screen.title(
        "anytls-http demo: an AnyTLS server and a web site on loopback, and requests through the tunnel\n"
    )
    with contextlib.ExitStack() as stack:
        demo = _Demo(screen, arguments.size)
        demo.run(stack)
    if demo.failed:
        screen.verdict(
            False, f"{len(demo.failed)} of {demo.steps} steps failed: {', '.join(dict.fromkeys(demo.failed))}"
        )
        return 1
    skipped = "; requests was not tried" if demo.skipped else ""
    screen.verdict(True, f"{demo.bodies} bodies arrived intact through the tunnel{skipped}")
    return 0


class _Demo:
    """The steps, in order, and what came of them."""

    def __init__(self, screen: Screen, size: int) -> None:
        self._screen = screen
        self._size = size
        self._expected = body_sha256(size)
        # Hooks are called from any thread; a deque takes that.
        self._events: collections.deque[Event] = collections.deque()
        self.steps = 0
        self.bodies = 0
        self.failed: list[str] = []
        self.skipped: list[str] = []

    def run(self, stack: contextlib.ExitStack) -> None:
        """Do all steps; what is started is left to ``stack`` to end."""
        started = self._start_servers(stack)
        if started is None:
            return
        server, secure = started
        client = self._fill_pool(stack, server)
        if client is None:
            return
        with contextlib.ExitStack() as inner:
            for name, make in (("httpx", _httpx_fetch), ("requests", _requests_fetch)):
                self._fetch_both(name, make, inner, client, secure)
            self._screen.table(
                "The client's pool, while both libraries keep their connections", _stats_rows(client.stats())
            )
        # The libraries gave their connections back: the sessions are idle again, for whoever comes next.
        self._screen.table("The pool, after httpx and requests were closed", _stats_rows(client.stats()))
        self._screen.table(
            "What the AnyTLS server saw",
            [
                ("sessions", str(server.sessions_accepted)),
                ("streams", str(server.streams_opened)),
                ("wrong passwords", str(server.auth_failures)),
                ("clients' names", ", ".join(sorted(_client_names(server))) or "none"),
            ],
        )

    def _start_servers(self, stack: contextlib.ExitStack) -> tuple[AnyTLSServer, Site] | None:
        with self._step("servers") as step:
            server = stack.enter_context(AnyTLSServer())
            plain = stack.enter_context(Site())
            secure = stack.enter_context(Site(tls=True, names=[SECURE_HOST]))
            server.routes[PLAIN_HOST, 80] = (plain.host, plain.port)
            server.routes[SECURE_HOST, 443] = (secure.host, secure.port)
            step.detail = (
                f"AnyTLS on {server.host}:{server.port}, http on port {plain.port}, https on {secure.port}"
            )
            step.notes.append(f"{PLAIN_HOST} and {SECURE_HOST} are names that only the AnyTLS server knows")
            return server, secure
        return None

    def _fill_pool(self, stack: contextlib.ExitStack, server: AnyTLSServer) -> AnyTLSClient | None:
        with self._step("pool") as step:
            hooks = {name: [self._events.append] for name in EVENT_NAMES}
            outbound = server.outbound(ensure_idle_session=WARM_SESSIONS, heartbeat="11s")
            client = stack.enter_context(AnyTLSClient(outbound, event_hooks=hooks))
            client.wait_ready(WARM_SESSIONS, timeout=TIMEOUT)
            step.detail = f"{WARM_SESSIONS} warm sessions (ensure_idle_session), before any request"
            return client
        return None

    def _fetch_both(
        self,
        name: str,
        make: Callable[[contextlib.ExitStack, AnyTLSClient, Site], Fetch],
        stack: contextlib.ExitStack,
        client: AnyTLSClient,
        secure: Site,
    ) -> None:
        fetch: Fetch | None = None
        with self._step(name) as step:
            if importlib.util.find_spec(name) is None:
                step.skip(f"not installed; to try it: python -m pip install 'anytls_http[{name}]'")
                self.skipped.append(name)
            else:
                fetch = make(stack, client, secure)
                step.detail = f"{name} {importlib.metadata.version(name)}, set up to use this pool"
        if fetch is None:
            return
        for scheme, host in (("http", PLAIN_HOST), ("https", SECURE_HOST)):
            with self._step(name) as step:
                self._check(step, fetch, f"{scheme}://{host}/bytes/{self._size}")

    def _check(self, step: Step, fetch: Fetch, url: str) -> None:
        answer = fetch(url)
        if answer.status != 200:
            step.fail(f"GET {url}: status {answer.status}")
        elif len(answer.body) != self._size or hashlib.sha256(answer.body).hexdigest() != self._expected:
            step.fail(f"GET {url}: {len(answer.body):,} bytes, not what the site sent")
        else:
            self.bodies += 1
            step.detail = f"GET {url}: {len(answer.body):,} bytes, SHA-256 as sent ({answer.protocol})"

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[Step]:
        import httpx

        self.steps += 1
        with timed_step(self._screen, name, (AnyTLSError, OSError, ImportError, httpx.HTTPError)) as step:
            try:
                yield step
            finally:
                while self._events:
                    step.notes.append(_described(self._events.popleft()))
        if step.outcome == "failed":
            self.failed.append(name)


def _httpx_fetch(stack: contextlib.ExitStack, client: AnyTLSClient, secure: Site) -> Fetch:
    import httpx

    from anytls_http.integrations.httpx import AnyTLSTransport

    transport = AnyTLSTransport(client, verify=secure.ssl_context())
    http = stack.enter_context(httpx.Client(transport=transport, timeout=TIMEOUT))

    def fetch(url: str) -> Answer:
        response = http.get(url)
        return Answer(response.status_code, response.content, response.http_version)

    return fetch


def _requests_fetch(stack: contextlib.ExitStack, client: AnyTLSClient, secure: Site) -> Fetch:
    import requests

    from anytls_http.integrations.requests import AnyTLSAdapter

    # requests takes a file of certificates, nothing else.
    roots = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anytls-demo-"))) / "roots.pem"
    roots.write_text(secure.ca_pem)
    session = stack.enter_context(requests.Session())
    for scheme in ("http://", "https://"):
        session.mount(scheme, AnyTLSAdapter(client))

    def fetch(url: str) -> Answer:
        response = session.get(url, timeout=TIMEOUT, verify=str(roots))
        return Answer(response.status_code, response.content, f"HTTP/{response.raw.version / 10:.1f}")

    return fetch


def _described(event: Event) -> str:
    parts = [event.name.replace("_", " ") + f", session {event.session}"]
    parts += [part for part in (event.reason and f"for {event.reason}", event.target, event.detail) if part]
    if event.seconds is not None:
        parts.append(f"{event.seconds * 1000:.1f} ms")
    return ", ".join(parts)


def _client_names(server: AnyTLSServer) -> set[str]:
    # A warm session tells its settings with its first stream only.
    return {session.settings["client"] for session in server.sessions if "client" in session.settings}


def _stats_rows(stats: PoolStats) -> list[tuple[str, str]]:
    def counts(values: Mapping[str, int]) -> str:
        return ", ".join(f"{count} {name}" for name, count in values.items() if count) or "none"

    age = "none" if stats.oldest_age is None else f"{stats.oldest_age:.3f} s"
    return [
        ("sessions", f"{stats.idle} idle, {stats.active} active, {stats.total} in total"),
        ("oldest", age),
        ("missing", str(stats.deficit)),
        ("created for", counts(stats.created)),
        ("closed by", counts(stats.closed)),
        ("streams opened", str(stats.streams_opened)),
        ("bytes", f"{stats.bytes_sent:,} sent, {stats.bytes_received:,} received"),
    ]


def _size(text: str) -> int:
    size = read_number(text, int)
    if not 0 <= size <= 1_000_000_000:
        raise argparse.ArgumentTypeError("takes 0 to 1000000000")
    return size
