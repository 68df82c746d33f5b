"""What an engine hands out of the ciphertext that it was given, against OpenSSL's other end in memory."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytls_http.net.tls_engine import END, NEED_INPUT, RECORD_SIZE, WHOLE_RECORD, TLSEngine
from anytls_http.testing import make_certificate
from tests.support.memory_tls import MemoryTLS


class Peer(MemoryTLS):
    """The other end of ``engine``."""

    def __init__(self, client: ssl.SSLContext) -> None:
        super().__init__(CERTIFICATE)
        self.engine = TLSEngine(client, "engine.test")
        while not self.engine.handshake():
            self.take(self.engine.take_output())
            self.engine.feed(self.output())
        self.take(self.engine.take_output())
        self.engine.feed(self.output())  # session tickets, which no reader is told of
        assert self.engine.decrypt_into(memoryview(bytearray(1))) == NEED_INPUT


CERTIFICATE = make_certificate("engine.test")


@pytest.fixture(scope="module", params=["TLSv1_2", "TLSv1_3"])
def context(request: pytest.FixtureRequest) -> ssl.SSLContext:
    client = ssl.create_default_context(cadata=CERTIFICATE.ca_pem)
    client.maximum_version = ssl.TLSVersion[request.param]
    return client


@pytest.fixture
def peer(context: ssl.SSLContext) -> Peer:
    return Peer(context)


def body_of(sizes: list[int]) -> Iterator[bytes]:
    for number, size in enumerate(sizes):
        yield bytes((number + index) % 251 for index in range(min(size, 251))) * (size // 251 + 1)


#: Sizes of records, also of those that are empty and those that are full.
RECORDS = st.lists(st.one_of(st.integers(1, 40), st.sampled_from([7, 1000, RECORD_SIZE])), max_size=12)


@given(
    sizes=RECORDS,
    cuts=st.lists(st.integers(1, 40_000), min_size=1, max_size=6),
    views=st.lists(st.sampled_from([1, 7, 1000, RECORD_SIZE, 65536, 200_000]), min_size=1, max_size=4),
    leasts=st.lists(st.sampled_from([1, WHOLE_RECORD]), min_size=1, max_size=3),
)
def test_any_records_in_any_pieces(
    context: ssl.SSLContext,
    sizes: list[int],
    cuts: list[int],
    views: list[int],
    leasts: list[int],
) -> None:
    peer = Peer(context)
    engine = peer.engine
    pieces = [piece[:size] for piece, size in zip(body_of(sizes), sizes, strict=True)]
    ciphertext = b"".join(map(peer.record, pieces)) + peer.goodbye()
    got = bytearray()
    calls = 0
    while True:
        # A caller feeds a hungry engine where it can, and one that is drained always.
        if ciphertext and (engine.drained or engine.hungry):
            size = cuts[calls % len(cuts)]
            engine.feed(ciphertext[:size])
            ciphertext = ciphertext[size:]
        buffer = bytearray(views[calls % len(views)])
        count = engine.decrypt_into(memoryview(buffer), leasts[calls % len(leasts)] if ciphertext else 1)
        calls += 1
        if count == END:
            break
        if count == NEED_INPUT:
            assert engine.drained and engine.hungry
            assert ciphertext, "the end was there"
        else:
            got += buffer[:count]
            if engine.drained:
                assert engine.decrypt_into(memoryview(bytearray(1))) in (NEED_INPUT, END)
    assert got == b"".join(pieces)
    assert engine.decrypt_into(memoryview(bytearray(1))) == END


def test_what_has_no_room_is_left_in_an_engine_that_is_neither_drained_nor_hungry(peer: Peer) -> None:
    engine = peer.engine
    engine.feed(peer.record(b"0123456789"))
    assert engine.decrypt_into(memoryview(bytearray(7))) == 7
    assert not engine.drained and not engine.hungry
    buffer = bytearray(7)
    assert engine.decrypt_into(memoryview(buffer)) == 3
    assert buffer[:3] == b"789"
    assert engine.drained and engine.hungry


def test_less_than_a_record_is_left_for_what_is_at_hand(peer: Peer) -> None:
    engine = peer.engine
    ciphertext = peer.record(bytes(3 * RECORD_SIZE))
    engine.feed(ciphertext[:-1])
    buffer = memoryview(bytearray(4 * RECORD_SIZE))
    assert engine.decrypt_into(buffer, WHOLE_RECORD) == 2 * RECORD_SIZE
    assert engine.hungry and not engine.drained and engine.partial
    engine.feed(ciphertext[-1:])
    assert not engine.hungry
    assert engine.decrypt_into(buffer, WHOLE_RECORD) == RECORD_SIZE
    assert engine.hungry and engine.drained and not engine.partial


def test_small_records_are_handed_out_in_one_piece(peer: Peer) -> None:
    peer.engine.feed(b"".join(peer.record(b"%d" % number) for number in range(10)))
    buffer = bytearray(100)
    assert peer.engine.decrypt_into(memoryview(buffer)) == 10
    assert buffer[:10] == b"0123456789"
    assert peer.engine.drained


def test_garbage_after_the_end_is_not_read_for_ever(peer: Peer) -> None:
    engine = peer.engine
    engine.feed(peer.record(b"last") + peer.goodbye() + bytes(50_000))
    buffer = bytearray(100)
    assert engine.decrypt_into(memoryview(buffer)) == 4
    assert engine.decrypt_into(memoryview(buffer)) == END
