"""The three ways to the origin: ``direct``, through a ``sing-box`` client process, and with ``anytls_http``."""

from __future__ import annotations

import contextlib
import os
import resource
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import requests
from origin import Origin
from singbox import SingBox

import anytls_http

NAMES = ("direct", "sing-box", "anytls_http")


class Variants:
    """Makes clients of each variant, and counts the CPU time of the client's side."""

    def __init__(self, origin: Origin, singbox: SingBox) -> None:
        self.origin = origin
        self.singbox = singbox
        self.tunnel = anytls_http.AnyTLSClient(singbox.outbound)
        self.context = ssl.create_default_context(cafile=origin.ca_path)

    def close(self) -> None:
        """End the tunnel."""
        self.tunnel.close()

    @contextlib.contextmanager
    def httpx_client(self, name: str, keep_alive: bool, http2: bool = False) -> Iterator[httpx.Client]:
        """Yield an httpx client of the variant; without ``keep_alive`` each request has a new connection."""
        limits = httpx.Limits()
        # Not max_keepalive_connections=0: with threads, httpcore then closes connections that are in use.
        headers = {} if keep_alive else {"Connection": "close"}
        common: dict[str, Any] = {"timeout": 60, "trust_env": False, "headers": headers}
        if name == "direct":
            client = httpx.Client(verify=self.context, limits=limits, **common)
        elif name == "sing-box":
            proxy = f"socks5://127.0.0.1:{self.singbox.socks_port}"
            client = httpx.Client(verify=self.context, limits=limits, proxy=proxy, **common)
        else:
            transport = anytls_http.AnyTLSTransport(self.tunnel, verify=self.context, limits=limits)
            client = httpx.Client(transport=transport, **common)
        with client:
            yield client

    @contextlib.contextmanager
    def requests_session(self, name: str, keep_alive: bool) -> Iterator[requests.Session]:
        """Yield a requests session of the variant."""
        with requests.Session() as session:
            session.trust_env = False
            session.verify = self.origin.ca_path
            if not keep_alive:
                session.headers["Connection"] = "close"
            size = {"pool_connections": 4, "pool_maxsize": 64}
            if name == "anytls_http":
                for scheme in ("http://", "https://"):
                    session.mount(scheme, anytls_http.AnyTLSAdapter(self.tunnel, **size))
            else:
                for scheme in ("http://", "https://"):
                    session.mount(scheme, requests.adapters.HTTPAdapter(**size))
                if name == "sing-box":
                    proxy = f"socks5h://127.0.0.1:{self.singbox.socks_port}"
                    session.proxies = {"http": proxy, "https": proxy}
            yield session

    def cpu(self, name: str) -> float:
        """Return the CPU seconds that the client's side has used so far, in every process of it."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        seconds = usage.ru_utime + usage.ru_stime
        if name == "sing-box":
            fields = Path(f"/proc/{self.singbox.client_pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return seconds


def timed(variants: Variants, name: str, work: Any) -> tuple[float, float]:
    """Run ``work()``; return its wall clock and its CPU seconds."""
    cpu = variants.cpu(name)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start, variants.cpu(name) - cpu
