"""Whatever the records and frames, and wherever TCP cuts them: all that has come is handed out, in order, and the end.

The server here goes on only once the client has handed out all that can be decrypted so far: a reader that waits
although something is there fails. ``ANYTLS_PIECES=5000`` tries as many plans.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anytls_http import AnyTLSClient, AnyTLSSocket, AnyTLSTLSSocket
from anytls_http.protocol.frames import HEADER_SIZE, Command, encode_frame
from anytls_http.testing import make_certificate
from tests.sockets.targets import Background
from tests.support.memory_tls import MemoryTLS

CERTIFICATE = make_certificate("server.test", "target.test")
PLANS = int(os.environ.get("ANYTLS_PIECES", "80"))

Sizes = list[int]


class Plan:
    """One exchange, by chance."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        self.outer, self.inner = (
            rng.choice([ssl.TLSVersion.TLSv1_2, *[ssl.TLSVersion.TLSv1_3] * 2]) for _ in "oi"
        )
        self.to_target = rng.random() < 0.5  # TLS in the tunnel
        self.body = rng.randbytes(rng.choice([0, 1, 100, 5000, 70_000, 400_000, 1_500_000]))
        small = len(self.body) <= 5000
        self.outer_records = rng.choice([[16384], [16384, 16383, 16377, 6], [1, 7, 4096, 16384, 16384]])
        self.inner_records = rng.choice([[16384], [16384, 16384, 1], [1400], [100, 3000, 16384]])
        self.frames = rng.choice([[65535], [16384], [8192, 65535], [7, 100, 65535]])
        if small:
            self.outer_records = rng.choice([self.outer_records, [1, 2, 7, 50]])
            self.inner_records = rng.choice([self.inner_records, [1, 5]])
            self.frames = rng.choice([self.frames, [1, 7, 300]])
        self.cuts = rng.choice(
            [[200_000, 500_000], [3000, 16_000, 17_000, 130_000], [16_384, 16_406, 16_413]]
        )
        inside = ["close_notify inside"] if self.to_target else []
        self.end = rng.choice(["FIN", "FIN and close_notify", "close_notify", "end of TCP", *inside])
        self.reads = rng.choice([[1 << 20], [65536], [8192], [10, 16_384, 65_536, 200_000], [8193, 40_000]])
        if small:
            self.reads = rng.choice([self.reads, [7], [1, 7, 3000]])
        self.way = rng.choice(list(WAYS))

    def __repr__(self) -> str:
        return str({name: value for name, value in vars(self).items() if name not in ("rng", "body")})

    def cut(self, data: bytes, sizes: Sizes) -> Iterator[bytes]:
        """Return ``data`` in pieces of these sizes."""
        while data:
            size = self.rng.choice(sizes)
            yield data[:size]
            data = data[size:]


class Progress:
    """What the client has handed out so far."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._over = False

    def add(self, count: int) -> None:
        """The client has handed out ``count`` bytes more; 0 for the end."""
        with self._changed:
            self._count += count
            self._over = self._over or not count
            self._changed.notify_all()

    def await_count(self, count: int) -> None:
        """Wait until it has handed out so many."""
        with self._changed:
            there = self._changed.wait_for(lambda: self._count >= count or self._over, 10)
            assert there, f"{count} bytes could be handed out, {self._count} were"

    def await_end(self) -> None:
        """Wait until it has seen the end."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._over, 10), "the end was there"


class Server:
    """One session's end, and the target behind it."""

    def __init__(self, sock: socket.socket, plan: Plan) -> None:
        self._sock = sock
        self._plan = plan
        self._tls = MemoryTLS(CERTIFICATE, plan.outer)
        self._plain = b""

    def serve(self, progress: Progress) -> None:
        """Await the stream, and send the body as it is planned."""
        plan = self._plan
        self._await(32 + 2)
        self._await(34 + int.from_bytes(self._plain[32:34], "big"))
        self._plain = self._plain[34 + int.from_bytes(self._plain[32:34], "big") :]
        self._payload()  # the target's address
        self._sock.sendall(self._tls.record(encode_frame(Command.SYNACK, 1)))
        body, whole = self._body() if plan.to_target else (plan.body, None)

        # Where each frame, and each record of it, ends; and how much of the stream can be handed out then.
        frames, after_frames = b"", [(0, 0)]
        sent = 0
        for piece in plan.cut(body, plan.frames):
            frames += encode_frame(Command.PSH, 1, piece)
            sent += len(piece)
            after_frames.append((len(frames), sent))
        if plan.end.startswith("FIN"):
            frames += encode_frame(Command.FIN, 1)
        ciphertext, after_records = b"", [(0, 0)]
        taken = 0
        for piece in plan.cut(frames, plan.outer_records):
            ciphertext += self._tls.record(piece)
            taken += len(piece)
            after_records.append((len(ciphertext), taken))

        def at_hand(offset: int) -> int:
            plain = _reached(after_records, offset)
            end, count = after_frames[bisect.bisect(after_frames, (plain, 1 << 60)) - 1]
            if plain > end + HEADER_SIZE:  # a part of the next frame
                count += plain - end - HEADER_SIZE
            return count if whole is None else _reached(whole, count)

        offset = 0
        for piece in plan.cut(ciphertext, plan.cuts):
            self._sock.sendall(piece)
            offset += len(piece)
            progress.await_count(at_hand(offset))
        if "close_notify" in plan.end and not plan.end.endswith("inside"):
            self._sock.sendall(self._tls.goodbye())
        if not plan.end.endswith("inside") and plan.end != "FIN":
            with contextlib.suppress(OSError):  # who has seen an end may have left
                self._sock.shutdown(socket.SHUT_WR)
        progress.await_end()

    def _body(self) -> tuple[bytes, list[tuple[int, int]]]:
        """Return what a target with TLS sends, and how much of the body can be handed out after how much of it."""
        plan = self._plan
        target = MemoryTLS(CERTIFICATE, plan.inner)
        while not target.ready:
            target.take(self._payload())
            self._sock.sendall(self._tls.record(encode_frame(Command.PSH, 1, target.output())))
        sent, whole, count = b"", [(0, 0)], 0
        for piece in plan.cut(plan.body, plan.inner_records):
            sent += target.record(piece)
            count += len(piece)
            whole.append((len(sent), count))
        return sent + target.goodbye() if plan.end.endswith("inside") else sent, whole

    def _await(self, size: int) -> None:
        while len(self._plain) < size:
            data = self._sock.recv(65536)
            assert data, "the client has left"
            self._plain += self._tls.take(data)
            self._sock.sendall(self._tls.output())

    def _payload(self) -> bytes:
        """Return what the next PSH brings."""
        while True:
            self._await(HEADER_SIZE)
            command, size = self._plain[0], int.from_bytes(self._plain[5:7], "big")
            self._await(HEADER_SIZE + size)
            body = self._plain[HEADER_SIZE : HEADER_SIZE + size]
            self._plain = self._plain[HEADER_SIZE + size :]
            if command == Command.PSH:
                return body


def _reached(steps: list[tuple[int, int]], offset: int) -> int:
    return steps[bisect.bisect(steps, (offset, 1 << 60)) - 1][1]


# -- ways to read ------------------------------------------------------------------------------------------


def by_recv(sock: Any, plan: Plan) -> Iterator[bytes]:
    """By pieces that the socket returns."""
    while True:
        yield sock.recv(plan.rng.choice(plan.reads))


def into_buffers(sock: Any, plan: Plan) -> Iterator[bytes]:
    """Into buffers of the caller."""
    while True:
        buffer = bytearray(plan.rng.choice(plan.reads))
        yield bytes(buffer[: sock.recv_into(buffer)])


def by_a_file(sock: Any, plan: Plan) -> Iterator[bytes]:
    """As http.client reads."""
    with sock.makefile("rb", plan.rng.choice([-1, 100, 8192])) as file:
        file.raw.room = plan.rng.choice([0, file.raw.room])
        while True:
            yield file.read1(plan.rng.choice(plan.reads))


def without_waiting(sock: Any, plan: Plan) -> Iterator[bytes]:
    """By somebody who has other things to do."""
    sock.settimeout(0)
    while True:
        try:
            yield sock.recv(plan.rng.choice(plan.reads))
        except BlockingIOError:
            time.sleep(0.001)


def when_readable(sock: Any, plan: Plan) -> Iterator[bytes]:
    """By somebody who asks before."""
    while True:
        while not sock.is_readable():
            time.sleep(0.001)
        yield sock.recv(plan.rng.choice(plan.reads))


def through_the_relay(sock: Any, plan: Plan) -> Iterator[bytes]:
    """By way of a pair of real sockets."""
    with sock.as_socket() as real:
        real.settimeout(10)
        yield from by_recv(real, plan)


WAYS: dict[str, Callable[[Any, Plan], Iterator[bytes]]] = {
    way.__name__: way
    for way in (by_recv, into_buffers, by_a_file, without_waiting, when_readable, through_the_relay)
}


@pytest.mark.parametrize("seed", range(PLANS))
def test_any_pieces(seed: int) -> None:
    plan = Plan(seed)
    progress = Progress()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as accepted:
                accepted.settimeout(10)
                Server(accepted, plan).serve(progress)

        serving = Background(serve)
        outbound = {
            "type": "anytls",
            "server": "127.0.0.1",
            "server_port": listener.getsockname()[1],
            "password": "x",
            "tls": {"enabled": True, "server_name": "server.test", "certificate": CERTIFICATE.ca_pem},
        }
        got = bytearray()
        with AnyTLSClient(outbound) as client:
            sock: AnyTLSSocket | AnyTLSTLSSocket = client.create_connection(("target.test", 443), 10)
            if plan.to_target:
                sock = sock.start_tls(CERTIFICATE.client_context(), "target.test")
            else:
                sock.sendall(b"hello")
            with sock:
                try:
                    for piece in WAYS[plan.way](sock, plan):
                        got += piece
                        progress.add(len(piece))
                        if not piece:
                            break
                except ConnectionError:
                    assert not plan.end.startswith("FIN"), plan
                finally:
                    progress.add(0)
        serving.result(15)
    assert got == plan.body, plan
