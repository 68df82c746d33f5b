"""What the kernel knows of a connection, against what was done to it."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from anytls_http.net.tcp_info import Arrivals, unacknowledged, unread
from anytls_http.net.waiting import ReadWaiter

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts what a connection receives")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    with near, far:
        yield near, far


def arrives(sock: socket.socket) -> None:
    """Wait until something has, or the end."""
    ReadWaiter(sock.fileno()).wait(None)


class TestArrivals:
    @on_linux
    def test_data_shows_until_it_is_counted(self, pair: tuple[socket.socket, socket.socket]) -> None:
        near, far = pair
        arrivals = Arrivals(near)
        assert arrivals.none_beyond(0)
        so_far = 0
        for size in (1, 1, 100_000):
            far.sendall(bytes(size))
            arrives(near)
            assert not arrivals.none_beyond(so_far)
            for_now = so_far + size
            while so_far < for_now:
                so_far += len(near.recv(for_now - so_far))
            assert arrivals.none_beyond(so_far)

    @on_linux
    def test_what_lay_there_before_is_new_to_who_has_yet_to_read(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        near, far = pair
        far.sendall(b"read before")
        arrives(near)
        near.recv(4)
        arrivals = Arrivals(near)
        assert not arrivals.none_beyond(0)
        assert arrivals.none_beyond(len(near.recv(100)))

    def test_the_end_shows(self, pair: tuple[socket.socket, socket.socket]) -> None:
        near, far = pair
        arrivals = Arrivals(near)
        far.shutdown(socket.SHUT_WR)
        arrives(near)
        assert not arrivals.none_beyond(0)

    def test_a_reset_shows(self, pair: tuple[socket.socket, socket.socket]) -> None:
        near, far = pair
        arrivals = Arrivals(near)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        arrives(near)
        assert not arrivals.none_beyond(0)

    def test_our_own_end_is_left_to_poll(self, pair: tuple[socket.socket, socket.socket]) -> None:
        near, _ = pair
        arrivals = Arrivals(near)
        arrivals.stop()
        assert not arrivals.none_beyond(0)
        arrivals = Arrivals(near)
        near.close()
        assert not arrivals.none_beyond(0)

    def test_a_socket_of_another_kind_is_left_to_poll(self) -> None:
        near, far = socket.socketpair()
        with near, far:
            assert not Arrivals(near).none_beyond(0)

    def test_a_socket_of_several_ways_is_left_to_poll(self) -> None:
        class Several(socket.socket):
            proto = 262  # IPPROTO_MPTCP, which not every kernel has

        with socket.create_server(("127.0.0.1", 0)) as server, Several() as near:
            near.connect(server.getsockname())  # by one way, all of whose bytes are counted
            assert not Arrivals(near).none_beyond(0)

    def test_a_kernel_that_counts_nothing_is_left_to_poll(self) -> None:
        class Other(socket.socket):
            def getsockopt(self, *args: int) -> bytes:  # type: ignore[override]
                return b"\x01" + bytes(100)

        with Other() as sock:
            assert not Arrivals(sock).none_beyond(0)


@on_linux
def test_what_is_unread_and_what_is_unacknowledged(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    assert unread(near.fileno()) == 0
    far.sendall(b"four")
    arrives(near)
    assert unread(near.fileno()) == 4
    assert unacknowledged(far.fileno()) == 0
    assert unread(-1) is None
