"""What a failure means, and what to try: one function for each phase that can fail."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from anytls_http.config import AnyTLSOutbound
from anytls_http.errors import (
    AnyTLSTimeout,
    AuthenticationError,
    CertificateError,
    SessionClosed,
    StreamRefused,
)

from .certificate import CertificateFacts
from .target import Target

# X509_V_ERR_* of OpenSSL.
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNTRUSTED = {2, 18, 19, 20, 21}
_WRONG_NAME = {62, 64}


@dataclass
class Advice:
    """What a failure means, in a sentence or two, and what to try, the likeliest first."""

    meaning: str
    tries: list[str] = field(default_factory=list)


@dataclass
class Failure:
    """What is known of a failure."""

    phase: str
    error: BaseException
    outbound: AnyTLSOutbound
    target: Target | None = None
    #: What the server's certificate says, where it wasn't accepted.
    certificate: CertificateFacts | None = None
    #: The status line, where the server answers HTTP.
    web: str | None = None


def advise(failure: Failure) -> Advice:
    """Return the advice for a failure."""
    return _BY_PHASE.get(failure.phase, _other)(failure)


def configuration_advice() -> Advice:
    """Return the advice for a configuration that can't be read."""
    return Advice(
        "The configuration can't be used as it is; nothing was sent to anybody.",
        [
            "mend what the message names: it says what it got and what it takes",
            "`anytls-http check-config FILE` shows what a configuration comes to, field by field",
            "`anytls-http schema` prints a JSON Schema, with which editors complete and check the fields",
        ],
    )


def _name_lookup(failure: Failure) -> Advice:
    server = failure.outbound.server
    if isinstance(failure.error, AnyTLSTimeout):
        meaning = "No name server has answered: this machine has no working DNS, or no network."
    else:
        meaning = (
            f'There is no address for "{server}": the name is mistyped, new, or hidden by the DNS in use.'
        )
    return Advice(
        meaning,
        [
            f"compare `server` with what the server's owner gave you, and look it up by hand: getent hosts {server}",
            "put the server's IP address into `server`, and its name into `tls.server_name`",
            "ask another DNS server: `domain_resolver` of the outbound",
        ],
    )


def _tcp(failure: Failure) -> Advice:
    server, port = failure.outbound.server, failure.outbound.server_port
    if isinstance(failure.error, AnyTLSTimeout):
        return Advice(
            "Nothing came back at all: the address is wrong, the server is off, or a firewall drops the packets.",
            [
                "compare `server` and `server_port` with the server's own configuration",
                f"open port {port} (TCP) in the server's firewall, and in its provider's",
                "try from another network: this one may block the address or the port",
            ],
        )
    if os.strerror(errno.ECONNREFUSED) in str(failure.error):
        return Advice(
            f"The machine answers, and says that nothing listens on port {port}.",
            [
                "compare `server_port` with the server's `listen_port`",
                "see whether the server runs, and listens on this address and not on 127.0.0.1 only: ss -ltnp",
                f"look `server` up: does {server} lead to the machine that you mean?",
            ],
        )
    return Advice(
        "This machine found no way to the server's address.",
        [
            "is the network up? For an IPv6 address, does this machine have IPv6 (`domain_strategy`: ipv4_only)?",
            "see the dial fields that bind the connection: `bind_interface`, `inet4_bind_address`, `routing_mark`",
        ],
    )


def _detour(failure: Failure) -> Advice:
    return Advice(
        "The way to the server leads through another outbound (`detour`), and that one failed.",
        [
            "check the outbound that the message names alone",
            "leave out `detour` for a moment, to tell them apart",
        ],
    )


def _tls(failure: Failure) -> Advice:
    error = failure.error
    if isinstance(error, CertificateError):
        return _certificate(failure)
    port = failure.outbound.server_port
    if isinstance(error, AnyTLSTimeout):
        return Advice(
            "TCP works, but nobody answers the TLS handshake: the server hangs, something else listens "
            "there, or somebody on the way swallows the handshake because of the name in it.",
            [
                f"is it really the AnyTLS server that listens on port {port}?",
                "try another `tls.server_name` that the server accepts, or `tls.fragment`",
                "restart the server",
            ],
        )
    if "does not speak TLS" in str(error):
        return Advice(
            f"What listens on port {port} is no TLS server, so it is no AnyTLS server either.",
            [
                "compare `server_port` with the server's `listen_port`",
                "is `tls.enabled` true on the server, too?",
            ],
        )
    return Advice(
        "The two sides could not agree on TLS.",
        [
            "the message says what is missing: a version, a cipher suite, a client certificate",
            "compare with the `tls` of the server's configuration; leave out `alpn`, `min_version`, `cipher_suites`",
            "where the connection was closed without a word, the server may want another `tls.server_name`",
        ],
    )


def _certificate(failure: Failure) -> Advice:
    cause = failure.error.__cause__
    code = cause.verify_code if isinstance(cause, ssl.SSLCertVerificationError) else 0
    clock = f"the clock here says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: is that right?"
    shown = failure.certificate
    if code == _EXPIRED:
        return Advice(
            "The server's certificate has ended, or the clock of this machine is ahead.",
            [clock, "renew the certificate on the server, and make it reload it"],
        )
    if code == _NOT_YET_VALID:
        return Advice(
            "The server's certificate isn't valid yet: most likely the clock of one of the machines is off.",
            [clock, "set the clock (NTP), or wait"],
        )
    if code in _WRONG_NAME or (not code and "not valid for" in str(failure.error)):
        names = shown.names if shown else []
        example = f'"{names[0]}"' if names else "one of the names in the certificate"
        return Advice(
            "The certificate is for another name than the one asked for. It is trusted otherwise.",
            [
                f"set `tls.server_name` to {example}, if that is the server that you mean",
                "compare `server`: a wrong address may lead to another site on the same machine",
            ],
        )
    if code in _UNTRUSTED:
        pin = (
            f'set `tls.certificate_public_key_sha256` to ["{shown.pin}"]' if shown else "pin the server's key"
        )
        return Advice(
            "Nobody that this machine trusts has signed the certificate. That is so with self-signed ones; "
            "it would also be so if somebody sat between you and the server.",
            [
                (
                    "get the certificate (or the CA's) from the server's owner, and name the file in "
                    "`tls.certificate_path`"
                ),
                (
                    f"or {pin}, after comparing it with the server's own: openssl x509 -in CERT -pubkey -noout "
                    "| openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | base64"
                ),
                "`tls.insecure` would end the message too, and the protection with it: for a test only",
            ],
        )
    if "certificate_public_key_sha256" in str(failure.error):
        return Advice(
            "The server's key is not the one that is pinned: it has a new key, or it is another server.",
            [
                "ask the server's owner whether the key has changed",
                "only then replace the pin by the one in the message",
            ],
        )
    return Advice(
        "The server's certificate was not accepted.", [clock, "look at the certificate on the server"]
    )


def _authentication(failure: Failure) -> Advice:
    port = failure.outbound.server_port
    if failure.web is not None:
        return Advice(
            f'A web site answers there ("{failure.web}"): this is not the AnyTLS server, or it is one that '
            "shows a web site to whoever has the wrong password.",
            [
                f"compare `server_port` ({port}) with the server's `listen_port`: 443 is often a web server",
                "compare the password, as below the server's `users`",
                "where several sites share the port, `tls.server_name` must be the AnyTLS server's",
            ],
        )
    if isinstance(failure.error, AuthenticationError):
        return Advice(
            "The server closed the connection as soon as it had read the password, without a word: that is how "
            "AnyTLS servers meet a wrong one.",
            [
                (
                    "compare the password, as below the server's `users`: spaces and line ends count; in a URI, "
                    "special characters must be written as %XX"
                ),
                "see the server's log: it says `unknown user password` or the like",
                f"is it an AnyTLS server at all that listens on port {port}?",
            ],
        )
    return Advice(
        "TLS works, but what came after it is not what an AnyTLS server says.",
        [f"is it an AnyTLS server that listens on port {port}?", "see the server's log"],
    )


def _stream(failure: Failure) -> Advice:
    target = failure.target.address if failure.target else "the target"
    error = failure.error
    if isinstance(error, StreamRefused):
        words = str(error).lower()
        if any(
            text in words for text in ("no such host", "lookup", "not known", "name or service", "resolve")
        ):
            return Advice(
                "The tunnel works. The server found no address for the target's name.",
                [
                    f"is {target} spelled right? Names of your own network are unknown to the server",
                    "see the DNS of the server's configuration",
                ],
            )
        return Advice(
            "The tunnel works. The server could not reach the target, and says why.",
            [
                f"try another URL, to see whether it is {target} or the server's own network",
                "does the server's configuration allow this target (its `route.rules`)?",
            ],
        )
    if isinstance(error, AnyTLSTimeout):
        return Advice(
            "The tunnel works so far. The server is still trying to reach the target, or its packets are dropped.",
            [
                f"try another URL: {target} may be down, or closed to the server's address",
                "see the server's firewall and its log",
            ],
        )
    if isinstance(error, AuthenticationError):
        return _authentication(failure)
    return _broken("while the server was to reach the target")


def _target_tls(failure: Failure) -> Advice:
    error = failure.error
    if isinstance(error, ssl.SSLCertVerificationError):
        return Advice(
            "The tunnel works. The certificate of the target was not accepted, as it would not be without a tunnel "
            "(unless the server, or somebody behind it, leads to another machine).",
            [
                "for a site with a CA of your own, name its file in the environment variable SSL_CERT_FILE",
                "does the server see the right address for this name? See its DNS",
            ],
        )
    if isinstance(error, AnyTLSTimeout):
        return _answer(failure)
    return Advice(
        "The tunnel works. The target did not do the TLS handshake.",
        ["is it an https site? Try http://, or another port", "try another URL"],
    )


def _answer(failure: Failure) -> Advice:
    target = failure.target.address if failure.target else "the target"
    if isinstance(failure.error, AnyTLSTimeout):
        return Advice(
            f"The tunnel works, and the server has reached {target}; but the target says nothing.",
            [
                "try another URL, and a longer --timeout",
                "is it a web server that listens on that port of the target?",
            ],
        )
    if isinstance(failure.error, StreamRefused):
        return _stream(failure)
    if isinstance(failure.error, SessionClosed):
        return _broken("while the target was to answer")
    return Advice(
        f"The tunnel works, and the server has reached {target}; but the answer is no HTTP.",
        ["is it a web server that listens on that port of the target?", "try https:// in place of http://"],
    )


def _broken(when: str) -> Advice:
    return Advice(
        f"The session with the AnyTLS server ended {when}.",
        [
            "see the server's log: it may have been restarted, or have met an error",
            "a middlebox may cut long connections: try again, and see `heartbeat`",
        ],
    )


def _other(failure: Failure) -> Advice:
    return _broken("unexpectedly")


_BY_PHASE: dict[str, Callable[[Failure], Advice]] = {
    "name lookup": _name_lookup,
    "TCP": _tcp,
    "detour": _detour,
    "TLS": _tls,
    "authentication": _authentication,
    "heartbeat": _other,
    "stream": _stream,
    "target TLS": _target_tls,
    "answer": _answer,
    "throughput": _other,
}
