"""A DNS server on loopback, by UDP, TCP, TLS or HTTPS, with the records that the test gives it."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from anytls_http.testing import Certificate, make_certificate


class DNSTestServer:
    """Answers A and AAAA from :attr:`records`; other names don't exist.

    Args:
        kind: ``udp``, ``tcp``, ``tls`` or ``https``; as udp it answers by TCP too, where the answer is cut.
    """

    def __init__(self, kind: str = "udp", host: str = "127.0.0.1") -> None:
        self.kind = kind
        self.host = host
        self.certificate: Certificate = make_certificate()
        #: Name -> addresses of both families.
        self.records: dict[str, list[str]] = {}
        #: Name -> another name (CNAME).
        self.aliases: dict[str, str] = {}
        #: (name, type) of every question.
        self.questions: list[tuple[str, str]] = []
        #: Types that get no answer at all.
        self.mute: set[str] = set()
        #: Answer everything with this error.
        self.rcode: dns.rcode.Rcode | None = None
        #: Cut answers by UDP.
        self.truncate = False
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()
        self._datagrams: socket.socket | None = None
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        if kind == "udp":
            self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._datagrams.bind((host, self.port))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certificate.load_into(self._context)

    def server(self, **extra: object) -> dict[str, object]:
        """Return the entry for ``dns.servers``."""
        entry: dict[str, object] = {
            "type": self.kind,
            "tag": "dns",
            "server": self.host,
            "server_port": self.port,
        }
        if self.kind in ("tls", "https"):
            entry["tls"] = {
                "server_name": self.certificate.name,
                "certificate": self.certificate.ca_pem,
            }
        return {**entry, **extra}

    def __enter__(self) -> Self:
        if self._datagrams is not None:
            self._start(self._serve_datagrams)
        self._start(self._accept)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closed.set()
        for sock in (self._datagrams, self._listener):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in (self._datagrams, self._listener):
            if sock is not None:
                sock.close()

    def _start(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, name="dns-test", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _answer(self, wire: bytes, *, datagram: bool = False) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        kind = question.rdtype.name
        name = question.name.to_text(omit_final_dot=True)
        self.questions.append((name, kind))
        if kind in self.mute:
            return None
        response = dns.message.make_response(query)
        if self.rcode is not None:
            response.set_rcode(self.rcode)
        elif datagram and self.truncate:
            response.flags |= dns.flags.TC
        else:
            owner = name
            if name in self.aliases:
                owner = self.aliases[name]
                response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "CNAME", f"{owner}."))
            if owner not in self.records:
                response.set_rcode(dns.rcode.NXDOMAIN)
            wanted = [each for each in self.records.get(owner, ()) if (":" in each) == (kind == "AAAA")]
            if wanted:
                response.answer.append(dns.rrset.from_text(f"{owner}.", 60, "IN", kind, *wanted))
        return response.to_wire()

    def _serve_datagrams(self) -> None:
        assert self._datagrams is not None
        while not self._closed.is_set():
            try:
                wire, peer = self._datagrams.recvfrom(65535)
            except OSError:
                return
            if not wire:
                continue
            answer = self._answer(wire, datagram=True)
            if answer is not None:
                with contextlib.suppress(OSError):
                    self._datagrams.sendto(answer, peer)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            self._start(self._serve_connection, connection)

    def _serve_connection(self, connection: socket.socket) -> None:
        served = connection
        try:
            if self.kind in ("tls", "https"):
                served = self._context.wrap_socket(connection, server_side=True)
                self._open.add(served)
            if self.kind == "https":
                self._serve_http(served)
                return
            with served.makefile("rb") as file:
                while head := file.read(2):
                    answer = self._answer(file.read(int.from_bytes(head)))
                    if answer is None:
                        self._closed.wait(10)
                        return
                    served.sendall(len(answer).to_bytes(2) + answer)
        except (OSError, ValueError):
            pass
        finally:
            self._open -= {connection, served}
            served.close()

    def _serve_http(self, connection: socket.socket) -> None:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                wire = self.rfile.read(int(self.headers["content-length"]))
                if self.path != "/dns-query":
                    self.send_error(404)
                    return
                answer = outer._answer(wire)
                if answer is None:
                    outer._closed.wait(10)
                    return
                self.send_response(200)
                self.send_header("content-type", "application/dns-message")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        Handler(connection, ("127.0.0.1", 0), None)  # type: ignore[arg-type]
