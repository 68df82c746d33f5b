"""Atheris (libFuzzer) over what reads a server's bytes: the session, padding schemes, addresses, datagrams.

Run from the root of the repository, or by ``tox -e fuzz``::

    python fuzz/fuzz_session.py -max_total_time=360
    python fuzz/fuzz_session.py --blind 10000000

The second changes the inputs to begin with at random, without Atheris: it doesn't see where an input leads,
but is some thirty times as fast. Other arguments are libFuzzer's; without a corpus folder among them a temporary
one is used. The first byte of an input chooses what the rest is for. An input that breaks a promise ends the
run and is written to a file ``crash-...``, or printed: put it into ``tests/protocol/test_fuzz_finds.py``, which
runs :func:`one_input` without Atheris.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType

from anytls_http.protocol import address, padding, session, settings, uot
from anytls_http.protocol.address import decode_address, encode_address
from anytls_http.protocol.frames import HEADER, HEADER_SIZE, MAX_DATA, Command, encode_frame
from anytls_http.protocol.padding import DEFAULT_SCHEME, MAX_LINE_BYTES, MAX_PADDING0, PaddingScheme
from anytls_http.protocol.session import MAX_HEART_RESPONSES, ClientSession
from anytls_http.protocol.uot import DatagramDecoder, encode_datagram, encode_request
from tests.protocol.driver import ADDRESS, BARE, FIXED, Driver

SCHEMES = (BARE, FIXED, DEFAULT_SCHEME)


# -- the session -------------------------------------------------------------------------------------------


class World:
    """A session, its user and its server; what has left is kept and judged at the end."""

    def __init__(self, scheme: PaddingScheme, cut: int) -> None:
        self.session = ClientSession("password", scheme, "fuzz", random.Random(1))
        self.driver = Driver(self.session)
        self.sent: list[bytes] = []
        self.expected: list[tuple[int, int]] = []
        self.fed = 0
        self._cut = cut

    def feed(self, data: bytes) -> None:
        """Let the session read ``data``, ``cut`` bytes at a time (0, or where it is much: all that it wants)."""
        self.fed += len(data)
        if not self._cut or len(data) > 300:
            self.driver.feed(data)
            return
        for start in range(0, len(data), self._cut):
            self.driver.feed(data[start : start + self._cut])

    def act(self, what: int, size: int) -> None:
        """Do one thing that a user does."""
        session, sent = self.session, self.sent
        stream_id = session.stream_id
        if what == 0 and not stream_id:
            session.open_stream(ADDRESS)
        elif what == 1:
            self._announced()
            sent += map(bytes, session.opening_records())
        elif what == 2 and stream_id:
            self._announced()
            self.expected += [(Command.PSH, stream_id)] * max(-(-size // MAX_DATA), 1)
            sent += map(bytes, session.data_records(memoryview(bytes(size))))
        elif what in (3, 4) and stream_id:
            if session.syn_sent and not session.peer_closed and session.refusal is None:
                self.expected.append((Command.FIN, stream_id))
            sent += map(bytes, session.end_stream(hold_fin=what == 4))
            assert not session.stream_id
        elif what == 5:
            self.expected.append((Command.HEART_REQUEST, 0))
            sent += map(bytes, session.heart_request())
        elif what == 6:
            due = session.heart_responses_due
            assert 0 <= due <= MAX_HEART_RESPONSES
            self.expected += [(Command.HEART_RESPONSE, 0)] * due
            sent += map(bytes, session.heart_responses())
            assert not session.heart_responses_due
        elif what == 7:
            sent += map(bytes, session.held_fin())
            assert not session.has_held_fin

    def _announced(self) -> None:
        session = self.session
        if session.stream_id and not session.syn_sent:
            self.expected += [(Command.SYN, session.stream_id), (Command.PSH, session.stream_id)]

    def judge(self) -> tuple[object, ...]:
        """Check what left and what was kept; return all that a user can see."""
        session, driver = self.session, self.driver
        self.sent += map(bytes, session.held_fin())
        left = commands(b"".join(self.sent))
        # A FIN that is held may leave after what was asked for later; nothing else changes its place.
        assert not left or left.pop(0) == (Command.SETTINGS, 0)
        assert _without_fins(left) == _without_fins(self.expected), (left, self.expected)
        assert sorted(left) == sorted(self.expected), (left, self.expected)
        for command, stream_id in left:
            assert (command in _STREAM_COMMANDS) == bool(stream_id)
        assert driver.most_wanted <= MAX_DATA
        assert len(driver.events) <= self.fed // HEADER_SIZE
        assert len(driver.payload) <= self.fed
        for event in driver.events:
            assert event.text.isprintable()
            assert len(event.data) <= MAX_DATA
        return (
            driver.log,
            session.stream_id,
            session.syn_sent,
            session.acknowledged,
            session.peer_closed,
            session.refusal,
            session.peer_version,
            session.frames_received,
            session.heart_responses_due,
            session.payload_left,
            session.skip_left,
            len(session.wanted),
            session.in_mid_frame,
            self.sent,
        )


def commands(written: bytes) -> list[tuple[int, int]]:
    """Return command and stream id of each frame in ``written``, Waste left out."""
    found = []
    at = 0
    while at < len(written):
        command, stream_id, size = HEADER.unpack_from(written, at)
        at += HEADER_SIZE + size
        if command != Command.WASTE:
            found.append((command, stream_id))
    assert at == len(written), "the last frame is cut"
    return found


_STREAM_COMMANDS = frozenset({Command.SYN, Command.PSH, Command.FIN})


def _without_fins(written: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [frame for frame in written if frame[0] != Command.FIN]


def run_session(data: bytes, cut: int) -> tuple[object, ...]:
    """Carry out ``data`` as a programme: what the user does, raw bytes and whole frames of the server."""
    world = World(SCHEMES[data[0] % len(SCHEMES)] if data else BARE, cut)
    at = 1
    while at + 2 < len(data):
        what, number = data[at], data[at + 1]
        at += 2
        kind = what & 0x1F
        if kind < 8:
            # Seldom more than a frame can carry: it takes long.
            world.act(kind, 2 * MAX_DATA + 1 if what >= 0xE0 and number == 255 else number << (what >> 5))
        elif kind < 16:  # bytes as they come, a frame cut anywhere among them
            world.feed(data[at : at + number])
            at += number
        else:  # a frame: its data from the input, or as many zeros as the high bits ask for
            stream_id = data[at] % 4
            at += 1
            if what < 0x20:
                body = data[at : at + number]
                at += number
            else:
                body = bytes(MAX_DATA if what >= 0xE0 and number == 255 else number << (what >> 5))
            world.feed(encode_frame(kind - 16, stream_id, body))
    return world.judge()


def fuzz_session(data: bytes) -> None:
    """Nothing raises, nothing grows, and where the bytes are cut makes no difference."""
    whole = run_session(data, 0)
    if len(data) < 200:
        assert run_session(data, 1 + len(data) % 7) == whole


# -- the rest ----------------------------------------------------------------------------------------------


def fuzz_padding(data: bytes) -> None:
    """A scheme is refused or usable: what it makes of a packet is the packet, then Waste frames."""
    size = int.from_bytes(data[:2], "big") % 2000
    try:
        scheme = PaddingScheme.parse(data[2:])
    except ValueError:
        return
    rng = random.Random(size)
    assert 0 <= scheme.padding0(rng) <= MAX_PADDING0
    payload = encode_frame(Command.PSH, 1, bytes(size))
    for packet in (0, 1, 2, 3, max(scheme.stop - 1, 0), scheme.stop):
        records = scheme.split(packet, payload, rng)
        written = b"".join(records)
        assert all(records), "an empty record"
        assert len(written) <= len(payload) + MAX_LINE_BYTES
        assert written.startswith(payload)
        assert not commands(written[len(payload) :]), "more than padding after the packet"
        if packet >= scheme.stop:
            assert written == payload


def fuzz_address(data: bytes) -> None:
    """What is an address can be written again, and reads the same."""
    try:
        host, port, size = decode_address(data)
    except ValueError:
        pass
    else:
        assert size <= len(data)
        assert 0 <= port <= 0xFFFF
        _round_trip(host, port)
    _round_trip(data[2:].decode("utf-8", "replace"), int.from_bytes(data[:2], "big"))


def _round_trip(host: str, port: int) -> None:
    try:
        encoded = encode_address(host, port)
    except ValueError:
        return
    found, found_port, size = decode_address(encoded)
    assert (found_port, size) == (port, len(encoded))
    assert encode_address(found, port) == encoded
    assert encode_request((host, port))[1:] == encoded


def fuzz_datagrams(data: bytes) -> None:
    """Datagrams come out alike wherever the stream is cut, and read the same when written again."""
    with_addresses = bool(data[:1] and data[0] & 1)
    whole = _datagrams([data[1:]], with_addresses)
    step = 1 + (data[0] >> 1) % 9 if data else 1
    assert _datagrams([data[at : at + step] for at in range(1, len(data), step)], with_addresses) == whole
    for source, body in whole[0]:
        try:
            written = encode_datagram(body, source)
        except ValueError:
            continue  # names that nobody may ask for, but a server may tell of
        assert [found[1] for found in _datagrams([written], with_addresses)[0]] == [body]


Datagram = tuple[tuple[str, int] | None, bytes]


def _datagrams(pieces: list[bytes], with_addresses: bool) -> tuple[list[Datagram], bool]:
    """Return the datagrams in ``pieces``, and whether they ended in what can't be one."""
    decoder = DatagramDecoder(with_addresses)
    found: list[Datagram] = []
    broken = False
    for piece in pieces:
        decoder.feed(piece)
        try:
            while (datagram := decoder.next()) is not None:
                assert not broken, "a datagram after what can't be one"
                found.append(datagram)
        except ValueError:
            broken = True
    return found, broken


TARGETS = (fuzz_session, fuzz_session, fuzz_session, fuzz_session, fuzz_padding, fuzz_address, fuzz_datagrams)


def one_input(data: bytes) -> None:
    """Run one input; raises where a promise is broken."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


# -- inputs to begin with ----------------------------------------------------------------------------------


def seeds() -> list[bytes]:
    """Return inputs that reach each target and each command."""
    opened = bytes((0, 0, 0, 1, 0))
    answers = b"".join(
        bytes((16 + command, len(body), 1)) + body
        for command, body in (
            (Command.SERVER_SETTINGS, b"v=2"),
            (Command.SYNACK, b""),
            (Command.PSH, b"data"),
            (Command.HEART_REQUEST, b""),
            (Command.HEART_RESPONSE, b""),
            (Command.UPDATE_PADDING_SCHEME, b"stop=2\n1=9-9"),
            (Command.FIN, b""),
        )
    )
    raw = encode_frame(Command.SYNACK, 1, b"refused")
    user = bytes((2, 40, 0x62, 255, 5, 0, 6, 0, 4, 0, 0, 0, 2, 5, 7, 0, 3, 0))
    scheme = DEFAULT_SCHEME.raw
    return [
        b"\x00" + opened + answers + user,
        b"\x01" + opened + user + answers,
        b"\x02" + opened + bytes((8, len(raw))) + raw + bytes((3, 0, 0, 0, 1, 0)),
        b"\x03" + opened + bytes((0xE2, 255, 0xF2, 255, 1, 3, 0, 0, 0, 1, 0)),
        b"\x04\x01\x00" + scheme,
        b"\x04\x00\x00stop=3\n1=9-9,c,65535-65535",
        b"\x05" + encode_address("example.org", 443),
        b"\x05" + encode_address("::1", 443),
        b"\x05" + encode_address("127.0.0.1", 443),
        b"\x05\x00\x50b\xc3\xbccher.example",
        b"\x06\x00" + encode_datagram(b"data", None) * 2,
        b"\x06\x05" + encode_datagram(b"data", ("127.0.0.1", 53)) + encode_datagram(b"", ("a.example", 1)),
    ]


def instrument(module: ModuleType, function: Callable[[FunctionType], object]) -> None:
    """Apply ``function`` to the functions and methods of ``module``; it changes them in place."""
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for member in vars(value).values() if isinstance(value, type) else [value]:
            inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if isinstance(inner, FunctionType):
                function(inner)


def changed(data: bytes, rng: random.Random) -> bytes:
    """Return ``data`` with a few bytes changed, taken out, doubled or put in."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        start = rng.randrange(1, len(found) + 1)  # not the first: it chooses the target
        size = rng.randrange(1, 9)
        way = rng.randrange(4)
        if way == 0:
            found[start : start + size] = rng.randbytes(size)
        elif way == 1:
            del found[start : start + size]
        elif way == 2:
            found[start:start] = found[start : start + 4 * size]
        else:
            found[start:start] = bytes(rng.choices((0, 1, 2, 3, 5, 16, 18, 255), k=size))
    return bytes(found[:200])


def blind(count: int) -> None:
    """Run ``count`` random inputs; each tenth is noise. Says which one broke a promise, and raises."""
    seed = random.SystemRandom().randrange(1 << 32)
    rng, begin = random.Random(seed), seeds()
    pool = list(begin)
    for number in range(count):
        data = rng.randbytes(rng.randrange(1, 80)) if number % 10 == 0 else changed(rng.choice(pool), rng)
        try:
            one_input(data)
        except BaseException:
            print(f"seed {seed}, input {number}: {data!r}", file=sys.stderr)
            raise
        # Changes add up: the pool keeps some of what was tried, the inputs to begin with always.
        if len(pool) < 500:
            pool.append(data)
        elif number % 50 == 0:
            pool[rng.randrange(len(begin), len(pool))] = data
    print(f"{count} inputs, seed {seed}: no promise was broken")


def main() -> None:
    """Fuzz until libFuzzer ends the process, or the random inputs are used up."""
    if sys.argv[1:2] == ["--blind"]:
        logging.disable()
        blind(int(sys.argv[2]))
        return
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # has wheels for Linux only

    logging.disable()  # a scheme that is cut says so in the log
    # By hand: atheris.instrument_imports would have to come before the imports above, which tests need too.
    for module in (address, padding, session, settings, uot):
        instrument(module, atheris.instrument_func)
    arguments = sys.argv
    if all(argument.startswith("-") for argument in arguments[1:]):
        arguments = [*arguments, tempfile.mkdtemp(prefix="anytls-fuzz-")]
    corpus = Path(next(argument for argument in arguments[1:] if not argument.startswith("-")))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
