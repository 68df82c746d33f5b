"""What many warm sessions cost, counted in a process of its own; benchmarks/idle.py does it with 1,000."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from anytls_http.testing import AnyTLSServer
from tests.support.singbox import SingBoxServer, skip_without_singbox

_COUNT = """
import json, sys, threading
from pathlib import Path
from anytls_http import AnyTLSClient

def resident():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1])

outbound, sessions = json.loads(sys.argv[1]), 200
with AnyTLSClient({**outbound, "ensure_idle_session": 1}) as first:
    first.wait_ready(1, timeout=20)
before = resident()
with AnyTLSClient({**outbound, "ensure_idle_session": sessions}) as client:
    client.wait_ready(sessions, timeout=30)
    while any(thread.name.startswith("anytls-dial") for thread in threading.enumerate()):
        pass
    print(json.dumps([(resident() - before) / sessions, [t.name for t in threading.enumerate()][1:]]))
"""


@skip_without_singbox
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_warm_session_takes_at_most_64_kib_and_no_thread() -> None:
    with SingBoxServer() as server:
        argument = json.dumps(server.outbound(heartbeat="11s"))
        done = subprocess.run(
            [sys.executable, "-c", _COUNT, argument], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    kib, threads = json.loads(done.stdout)
    assert kib <= 64
    assert len(threads) == 1 and threads[0].startswith("anytls-maintenance")


def test_importing_the_package_loads_no_http_library() -> None:
    code = (
        "import sys, anytls_http; "
        "print(*sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'httpx', 'httpcore', 'httpx2', 'requests', 'urllib3', 'h11', 'h2', 'cryptography', 'rich', 'dns'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == []


def test_the_constructor_dials_nothing_and_starts_no_thread() -> None:
    code = (
        "import json, sys, threading, anytls_http; client = anytls_http.AnyTLSClient(json.loads(sys.argv[1])); "
        "print(threading.active_count(), client.stats().total)"
    )
    with AnyTLSServer() as server:
        argument = json.dumps(server.outbound(ensure_idle_session=3))
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, timeout=30, check=True
        )
        assert done.stdout.split() == ["1", "0"]
        assert server.connections == []
