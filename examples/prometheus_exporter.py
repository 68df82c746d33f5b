"""The pool's numbers for Prometheus.

    python examples/prometheus_exporter.py CONFIG [PORT [SECONDS]]

Needs `pip install 'anytls_http[prometheus]'`. grafana-dashboard.json, beside this file, shows the numbers.
"""

from __future__ import annotations

import sys
import time

from prometheus_client import REGISTRY, start_http_server

from anytls_http import AnyTLSClient, AnyTLSOutbound
from anytls_http.contrib.prometheus import PoolCollector

config = sys.argv[1]
port = int(sys.argv[2]) if len(sys.argv) > 2 else 9100
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else float("inf")

outbound = AnyTLSOutbound.from_file(config, ensure_idle_session=2, heartbeat="11s")
with AnyTLSClient(outbound) as tunnel:
    REGISTRY.register(PoolCollector({"main": tunnel}))
    server, thread = start_http_server(port, addr="127.0.0.1")
    print(f"http://127.0.0.1:{server.server_port}/metrics", flush=True)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:  # the program's own work
            time.sleep(min(1.0, seconds))
    except KeyboardInterrupt:
        pass
    server.shutdown()
    server.server_close()
    thread.join()
