"""What a server may do to TLS in the middle of a frame: change its keys, ask for new ones, negotiate anew.

The ``ssl`` module's servers can do none of it, so ``openssl s_server`` is the server here: what is written to
its standard input goes to the client, but for some letters, which are commands.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Self

import pytest

from anytls_http import AnyTLSClient, SessionClosed
from anytls_http.protocol.frames import Command, encode_frame
from anytls_http.protocol.padding import PaddingScheme
from anytls_http.testing import make_certificate
from tests.sockets.targets import read_exactly
from tests.support.reliability import Ended
from tests.support.singbox import free_port
from tests.support.timing import STARVED, wait_until

pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here"),
    pytest.mark.skipif(os.name == "nt", reason="s_server there reads no pipe"),
]

#: A part of a TLS record's content, far from frames' ends.
BODY = bytes(range(256)) * 4


class OpenSSLServer:
    """``openssl s_server``: bytes in, bytes out, and commands between them."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._directory = tempfile.TemporaryDirectory()
        certificate = make_certificate()
        self._ca = certificate.ca_pem
        self._name = certificate.name
        paths = [Path(self._directory.name) / name for name in ("chain.pem", "key.pem")]
        for path, text in zip(paths, (certificate.pem, certificate.key_pem), strict=True):
            path.write_text(text)
        files = ["-cert", str(paths[0]), "-cert_chain", str(paths[0]), "-key", str(paths[1])]
        self._process = subprocess.Popen(
            ["openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", *files, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True, name="test-s_server")
        self._reader.start()

    def __enter__(self) -> Self:
        wait_until(lambda: b"ACCEPT" in self.output, 5, "s_server to listen")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait(5)
        self._reader.join(5)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass
        self._directory.cleanup()

    def _read(self) -> None:
        stream: IO[bytes] | None = self._process.stdout
        assert stream is not None
        while data := os.read(stream.fileno(), 65536):
            self.output += data

    def send(self, data: bytes) -> None:
        """Send ``data`` to the client, or do a command; one read of the server's takes it, hence the pause."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()
        time.sleep(0.05)

    def outbound(self, **extra: Any) -> dict[str, Any]:
        return {
            "type": "anytls",
            "server": "127.0.0.1",
            "server_port": self.port,
            "password": "test-password",
            "tls": {"enabled": True, "server_name": self._name, "certificate": self._ca},
            **extra,
        }


def unpadded(server: OpenSSLServer) -> AnyTLSClient:
    """Return a client whose words reach the server in one piece."""
    client = AnyTLSClient(server.outbound())
    client._pool.state.scheme = PaddingScheme.parse(b"stop=0")
    return client


@pytest.mark.parametrize("how", ["with one asked for in return", "one way"])
@pytest.mark.fault("TLS key updates in mid-frame, {how}", server="openssl s_server")
def test_key_updates(how: str, ended: Ended) -> None:
    command = "k" if how == "one way" else "K"
    with (
        OpenSSLServer("-tls1_3") as server,
        unpadded(server) as client,
        client.create_connection(("example.org", 80), timeout=5) as sock,
    ):
        sock.sendall(b"<hello>")
        wait_until(lambda: b"<hello>" in server.output, 5)
        server.send(encode_frame(Command.SYNACK, 1))
        frame = encode_frame(Command.PSH, 1, BODY)
        for number in range(3):
            for place in (3, 400):  # in the header, and in the data
                server.send(frame[:place])
                server.send(command.encode() + b"\n")
                server.send(frame[place:])
                assert read_exactly(sock, len(BODY)) == BODY
                word = f"<after {number} at {place}>".encode()
                sock.sendall(word)
                wait_until(lambda word=word: word in server.output, 5)  # type: ignore[misc]
        # A server that only asks, with a client that only sends: the answer leaves all the same.
        server.send(command.encode() + b"\n")
        sock.sendall(b"<the end>")
        wait_until(lambda: b"<the end>" in server.output, 5)
        assert client.stats().total == 1
        ended("six of them; all bytes arrive, both ways")


@pytest.mark.parametrize("how", ["plain", "with a certificate asked for"])
@pytest.mark.fault("TLS 1.2 renegotiation in mid-frame, {how}", server="openssl s_server")
def test_renegotiation(how: str, ended: Ended) -> None:
    """It is refused (``OP_NO_RENEGOTIATION``); whether the server goes on without is its own business."""
    command = "r" if how == "plain" else "R"
    with (
        OpenSSLServer("-tls1_2") as server,
        unpadded(server) as client,
        client.create_connection(("example.org", 80), timeout=3) as sock,
    ):
        sock.sendall(b"<hello>")
        wait_until(lambda: b"<hello>" in server.output, 5)
        frame = encode_frame(Command.PSH, 1, BODY)
        server.send(encode_frame(Command.SYNACK, 1) + frame[:400])
        assert read_exactly(sock, 393) == BODY[:393]
        server.send(command.encode() + b"\n")
        begin = time.monotonic()
        try:
            sock.sendall(b"<after>")
            server.send(frame[400:])
            assert read_exactly(sock, len(BODY) - 393) == BODY[393:]
            outcome = "refused; all bytes arrive"
        except SessionClosed as exc:
            outcome = f"refused; SessionClosed: {exc}"
        assert time.monotonic() - begin < 2.5 + STARVED
        assert server.output.count(b"-----BEGIN SSL SESSION PARAMETERS-----") <= 1  # one handshake
        ended(outcome)
