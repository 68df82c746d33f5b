"""The check after each test finds what it is there to find."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.leftovers import Snapshot, describe, leftovers

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")


def test_nothing_left_is_told_at_once() -> None:
    assert not leftovers(Snapshot.take(), grace=30)


@pytest.mark.parametrize("daemon", [True, False])
def test_a_thread_is_found_by_its_name(daemon: bool) -> None:
    before = Snapshot.take()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="anytls-forgotten", daemon=daemon)
    thread.start()
    left = leftovers(before, grace=0)
    end.set()
    thread.join()
    assert left.threads == {thread}
    assert "anytls-forgotten" in describe(left)


@needs_proc
def test_sockets_pipes_and_epolls_are_found() -> None:
    before = Snapshot.take()
    with socket.socket() as sock, select.epoll() as epoll:
        reader, writer = os.pipe()
        left = leftovers(before, grace=0)
        os.close(reader)
        os.close(writer)
        numbers = {sock.fileno(), epoll.fileno(), reader, writer}
    assert {number for number, _ in left.descriptors} == numbers
    assert "-> socket:[" in describe(left)


@needs_proc
def test_a_child_process_is_found() -> None:
    before = Snapshot.take()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        left = leftovers(before, grace=0)
        text = describe(left)
    assert left.children == {child.pid}
    assert "input()" in text


def test_what_ends_within_the_grace_is_fine() -> None:
    before = Snapshot.take()
    timer = threading.Timer(0.02, lambda: None)
    timer.start()
    assert not leftovers(before)


@needs_proc
def test_garbage_in_a_cycle_is_collected_first() -> None:
    class Holder:
        def __init__(self) -> None:
            self.pipe = os.pipe()
            self.myself = self

        def __del__(self) -> None:
            for number in self.pipe:
                os.close(number)

    before = Snapshot.take()
    holder = Holder()
    assert len(leftovers(before, grace=0).descriptors) == 2
    del holder
    assert not leftovers(before)
