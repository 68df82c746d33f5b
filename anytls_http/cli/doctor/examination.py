"""The examination itself: the whole way to a target, one phase after the other, up to the first failure."""

from __future__ import annotations

import contextlib
import http.client
import logging
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from anytls_http.client import AnyTLSClient
from anytls_http.config import AnyTLSOutbound, PoolOptions
from anytls_http.config.endpoint import host_port
from anytls_http.errors import AnyTLSError, AnyTLSTimeout, CertificateError
from anytls_http.net.contexts import load_default_roots
from anytls_http.net.steps import observed_by
from anytls_http.net.waiting import deadline_after
from anytls_http.pool.lease import Lease
from anytls_http.pool.session import Session
from anytls_http.protocol.padding import DEFAULT_SCHEME
from anytls_http.sockets import AnyTLSSocket, AnyTLSTLSSocket

from . import probe
from .advice import Failure, advise, configuration_advice
from .certificate import read_certificate
from .report import BAD_CONFIGURATION, FAILED, Phase, Report, Show
from .target import Target

#: Told of a number of bytes that have come; the context is entered with the number to expect, or None.
Progress = Callable[[int | None], AbstractContextManager[Callable[[int], object]]]

#: What can go wrong on the way; anything else is a mistake of this program.
EXPECTED = (AnyTLSError, OSError, http.client.HTTPException, ValueError)
#: Seconds that an AnyTLS server may take to answer the first heartbeat; one of version 1 never does.
FIRST_ANSWER = 3.0
#: Heartbeats that the round trip is measured with.
BEATS = 3
#: Seconds of a second look at a server that has failed.
PROBE_TIMEOUT = 3.0
#: The clocks may differ by so much before it is worth a word (seconds).
CLOCK_TOLERANCE = 60.0
#: A download shorter than this says little of the throughput (bytes).
SMALL = 1_000_000

#: Steps of a dial (``net/steps.py``), as they are called here.
_DIAL_PHASES = {"resolve": "name lookup", "connect_tcp": "TCP", "detour": "detour", "tls": "TLS"}


class _Stop(Exception):
    """A phase has failed; nothing comes after it."""


@contextlib.contextmanager
def _no_progress(total: int | None) -> Iterator[Callable[[int], object]]:
    yield lambda count: None


def examine(
    load: Callable[[], AnyTLSOutbound],
    target: Target | None,
    *,
    timeout: float = 10.0,
    throughput: float | None = None,
    show: Show = lambda phase: None,
    progress: Progress = _no_progress,
) -> Report:
    """Go the whole way and return what came of it; the configuration's mistakes too.

    ``load`` reads the configuration, and raises :class:`ConfigError`. ``target``: what is asked for, None
    stops at the server. ``timeout``: seconds for each phase. ``throughput``: most seconds to read the
    target's answer for, None reads its head only. ``show`` is called with each phase at its end,
    ``progress`` with the bytes of a throughput measurement. The password comes into nothing of it.
    """
    examination = _Examination(target, timeout, throughput, show, progress)
    with contextlib.suppress(_Stop):
        examination.run(load)
    examination.report.seconds = time.perf_counter() - examination.started
    return examination.report


class _Examination:
    def __init__(
        self,
        target: Target | None,
        timeout: float,
        throughput: float | None,
        show: Show,
        progress: Progress,
    ) -> None:
        self.started = time.perf_counter()
        self.report = Report(target=str(target) if target else "")
        self._target = target
        self._timeout = timeout
        self._throughput = throughput
        self._show = show
        self._progress = progress
        self._failed_in_dial: Phase | None = None

    def run(self, load: Callable[[], AnyTLSOutbound]) -> None:
        with self._configured(load) as client:
            lease = self._dial(client)
            session = lease.session
            proven = self._authentication(client, session)
            if proven:
                self._heartbeat(session)
                self._server(client, session)
            client._pool.release(session)
            if self._target is None:
                return
            sock = self._stream(client, self._target)
            try:
                self._ask(client, self._target, sock, proven)
            finally:
                sock.close()

    # -- phases ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _phase(self, name: str, client: AnyTLSClient | None = None) -> Iterator[Phase]:
        now = time.perf_counter()
        phase = Phase(name, start=now - self.started)
        try:
            yield phase
        except EXPECTED as exc:
            phase.seconds = time.perf_counter() - now
            self._fail(phase, exc, client)
        phase.seconds = time.perf_counter() - now
        self._done(phase)

    def _done(self, phase: Phase) -> None:
        self.report.phases.append(phase)
        self._show(phase)

    def _fail(
        self, phase: Phase, exc: BaseException, client: AnyTLSClient | None, web: str | None = None
    ) -> None:
        phase.fail(str(exc) or type(exc).__name__)
        phase.facts["error"] = type(exc).__name__
        if client is None:
            self.report.exit_code = BAD_CONFIGURATION
            self.report.advice = configuration_advice()
        else:
            self.report.exit_code = FAILED
            failure = Failure(phase.name, exc, client.outbound, self._target, web=web)
            state, patience = client._pool.state, min(self._timeout, PROBE_TIMEOUT)
            if isinstance(exc, CertificateError):
                failure.certificate = probe.shown_certificate(state, patience)
                if failure.certificate is not None:
                    phase.notes += failure.certificate.lines()
                    phase.facts["certificate"] = failure.certificate.as_dict()
            elif phase.name == "authentication":
                failure.web = web or probe.web_answer(state, patience)
                if failure.web is not None:
                    phase.detail = f'no AnyTLS server: it answers HTTP, "{failure.web}"'
                    phase.facts["http"] = failure.web
            self.report.advice = advise(failure)
        self._done(phase)
        raise _Stop from exc

    @contextlib.contextmanager
    def _configured(self, load: Callable[[], AnyTLSOutbound]) -> Iterator[AnyTLSClient]:
        with self._phase("configuration") as phase, _warnings(phase.notes):
            outbound = load()
            self.report.outbound = outbound.describe()
            # Of the pool's options none matters here, and warm sessions would only be in the way.
            dial, tls = outbound.dial, outbound.tls
            client = AnyTLSClient(
                replace(
                    outbound,
                    pool=PoolOptions(),
                    dial=replace(dial, connect_timeout=min(dial.connect_timeout, self._timeout)),
                    tls=replace(tls, handshake_timeout=min(tls.handshake_timeout, self._timeout)),
                )
            )
            name = client._pool.state.contexts.server_name
            phase.detail = f"{host_port(outbound.server, outbound.server_port)}, certificate for {name}"
            if outbound.via is not None:
                phase.detail += f", through {outbound.via.describe()}"
        with client:
            yield client

    def _dial(self, client: AnyTLSClient) -> Lease:
        try:
            with observed_by(self._observer(client)):
                return client._pool.acquire(deadline_after(self._timeout * 2))
        except EXPECTED as exc:
            # The dial tells it better than the step did.
            phase = self._failed_in_dial or Phase("authentication", start=time.perf_counter() - self.started)
            self._fail(phase, exc, client)
            raise

    def _observer(self, client: AnyTLSClient) -> Callable[[str, dict[str, Any]], None]:
        phases: dict[str, Phase] = {}

        def tell(event: str, facts: dict[str, Any]) -> None:
            step, _, what = event.rpartition(".")
            if step not in _DIAL_PHASES:
                return
            if what == "started":
                phases[step] = Phase(_DIAL_PHASES[step], start=time.perf_counter() - self.started)
                return
            phase = phases[step]
            phase.seconds = facts["seconds"]
            if what == "failed":
                self._failed_in_dial = phase
                return
            self._describe_dial(client, step, phase, facts)
            self._done(phase)

        return tell

    def _describe_dial(self, client: AnyTLSClient, step: str, phase: Phase, facts: dict[str, Any]) -> None:
        outbound = client.outbound
        if step == "resolve":
            addresses = [address[0] for _, address in facts["addresses"]]
            phase.facts["addresses"] = addresses
            phase.detail = f"{outbound.server} is {', '.join(addresses)}"
            if addresses == [outbound.server]:
                phase.skip(f"{outbound.server} is an address already")
        elif step == "connect_tcp":
            phase.detail = f"port {outbound.server_port} takes connections"
        elif step == "detour":
            phase.detail = "reached the server"
        else:
            self._describe_tls(client, phase, facts["ssl_object"])

    def _describe_tls(self, client: AnyTLSClient, phase: Phase, tls: ssl.SSLObject) -> None:
        cipher = tls.cipher()
        alpn = tls.selected_alpn_protocol()
        version = (tls.version() or "").replace("TLSv", "TLS ")
        options = client.outbound.tls
        phase.detail = f"{version}, {cipher[0] if cipher else 'no cipher'}, " + (
            f"ALPN {alpn}" if alpn else "no ALPN"
        )
        phase.facts |= {
            "version": version,
            "cipher": cipher[0] if cipher else None,
            "alpn": alpn,
            "verified": "pin" if options.certificate_public_key_sha256 else not options.insecure,
        }
        certificate = read_certificate(tls.getpeercert(binary_form=True))
        if certificate is not None:
            phase.detail += f"; certificate: {certificate.remaining()}"
            phase.notes += certificate.lines()
            phase.facts["certificate"] = certificate.as_dict()
        if options.insecure and not options.certificate_public_key_sha256:
            phase.notes.append("NOT VERIFIED, by `tls.insecure`: with the pin above it would be")

    def _authentication(self, client: AnyTLSClient, session: Session) -> bool:
        """Whether the server has shown that it takes the password; False where it is mute, as version 1 is."""
        now = time.perf_counter()
        phase = Phase("authentication", start=now - self.started)
        web = None
        error: BaseException | None = None
        try:
            session.ping(deadline_after(min(self._timeout, FIRST_ANSWER)))
            phase.detail = "the server takes the password"
        except EXPECTED as exc:
            error = exc
        phase.seconds = time.perf_counter() - now
        if isinstance(error, AnyTLSTimeout):
            web = probe.web_answer(client._pool.state, min(self._timeout, PROBE_TIMEOUT))
            if web is None:
                phase.skip("no word yet: a server of version 1 says nothing before a stream has data")
                error = None
        if error is not None:
            self._fail(phase, error, client, web)
        self._done(phase)
        return phase.outcome == "ok"

    def _heartbeat(self, session: Session) -> None:
        now = time.perf_counter()
        phase = Phase("heartbeat", start=now - self.started)
        trips: list[float] = []
        # Not a failure where it ends here: the next phase dials again if it must, and says more.
        with contextlib.suppress(AnyTLSError):
            for _ in range(BEATS):
                trips.append(session.ping(deadline_after(self._timeout)))  # noqa: PERF401 - those before a failure count
        phase.seconds = time.perf_counter() - now
        if not trips:
            phase.skip("no answer to a second one")
        else:
            phase.detail = f"round trip {min(trips) * 1000:.1f} ms, the best of {len(trips)}"
            phase.facts["round_trips"] = [round(trip, 6) for trip in trips]
        self._done(phase)

    def _server(self, client: AnyTLSClient, session: Session) -> None:
        with self._phase("server", client) as phase:
            version, scheme = session.server_version, client._pool.state.scheme
            default = scheme.md5 == DEFAULT_SCHEME.md5
            which = "the default one" if default else "of its own"
            said = f"AnyTLS version {version}" if version else "said no version"
            phase.detail = f"{said}; padding scheme {scheme.md5}, {which}"
            phase.facts |= {
                "anytls_version": version or None,
                "padding_scheme": scheme.md5,
                "padding_default": default,
            }

    def _stream(self, client: AnyTLSClient, target: Target) -> AnyTLSSocket:
        with self._phase("stream", client) as phase:
            sock = client.create_connection((target.host, target.port), self._timeout, wait_open=True)
            phase.detail = f"the server has reached {target.address}"
            if not sock._opened:
                phase.skip(f"no word of {target.address}: a server of version 1 has none for that")
        return sock

    def _ask(self, client: AnyTLSClient, target: Target, stream: AnyTLSSocket, proven: bool) -> None:
        sock: AnyTLSSocket | AnyTLSTLSSocket = stream
        if target.is_tls:
            with self._phase("target TLS", client) as phase:
                context = _target_context()
                sock = stream.start_tls(context, target.host)
                phase.detail = f"{(sock.version() or '').replace('TLSv', 'TLS ')}, verified for {target.host}"
        with self._phase("answer", client) as phase:
            response = target.ask(sock, self._timeout)
            phase.detail = f"{response.status} {response.reason}"
            phase.facts["status"] = response.status
            self._compare_clocks(response.getheader("Date"), phase)
            if not proven:
                phase.notes.append("the server never said its version: it is 1, so there are no heartbeats")
        try:
            if self._throughput is not None:
                self._measure(client, response, self._throughput)
        finally:
            response.close()
            sock.close()

    def _compare_clocks(self, date: str | None, phase: Phase) -> None:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            ahead = (datetime.now(UTC) - parsedate_to_datetime(date or "")).total_seconds()
            if abs(ahead) > CLOCK_TOLERANCE:
                word = "ahead of" if ahead > 0 else "behind"
                phase.notes.append(f"the clock here is {abs(ahead):.0f} s {word} the target's")
                phase.facts["clock_ahead"] = round(ahead, 1)

    def _measure(self, client: AnyTLSClient, response: http.client.HTTPResponse, longest: float) -> None:
        with self._phase("throughput", client) as phase, self._progress(response.length) as advance:
            started = time.perf_counter()
            size = 0
            while time.perf_counter() - started < longest:
                data = response.read1(1 << 18)
                if not data:
                    break
                size += len(data)
                advance(len(data))
            seconds = time.perf_counter() - started
            rate = size / seconds if seconds else 0.0
            phase.detail = f"{rate * 8 / 1e6:,.1f} Mbit/s: {size:,} bytes in {seconds:.3g} s"
            phase.facts |= {"bytes": size, "bytes_per_second": round(rate)}
            if size < SMALL:
                phase.notes.append("so little data says little; give the URL of a larger file")


def _target_context() -> ssl.SSLContext:
    """Return the context for the target: its certificate is verified with the roots that httpx trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    load_default_roots(context)
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextlib.contextmanager
def _warnings(notes: list[str]) -> Iterator[None]:
    """Collect what is logged as a warning about the configuration, each message once."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note = record.getMessage()
            if record.levelno >= logging.WARNING and note not in notes:
                notes.append(note)

    handler = Handler()
    loggers = [logging.getLogger(f"anytls_http.{name}") for name in ("config", "net")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
