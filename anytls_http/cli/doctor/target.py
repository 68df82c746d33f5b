"""What the check asks for through the tunnel."""

from __future__ import annotations

import http.client
import urllib.parse
from dataclasses import dataclass
from typing import Any

from anytls_http._version import __version__
from anytls_http.config.endpoint import host_port
from anytls_http.errors import ConfigError

#: Asked for where the user names nothing: what sing-box asks for in its own URL test. Its answer has no body.
DEFAULT_URL = "https://www.gstatic.com/generate_204"
#: ... and for the throughput: 25 MB that nobody keeps.
THROUGHPUT_URL = "https://speed.cloudflare.com/__down?bytes=25000000"


@dataclass(frozen=True)
class Target:
    """A URL, taken apart."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_tls(self) -> bool:
        """Whether TLS is spoken with the target, inside the tunnel."""
        return self.scheme == "https"

    @property
    def address(self) -> str:
        """``host:port``."""
        return host_port(self.host, self.port)

    @property
    def authority(self) -> str:
        """What the Host header says."""
        default = 443 if self.is_tls else 80
        return self.address if self.port != default else self.address.rpartition(":")[0]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    def ask(self, sock: Any, timeout: float) -> http.client.HTTPResponse:
        """Send a GET on a connected socket and return the response, its body still to be read.

        ``timeout``: seconds. Raises ``OSError`` and ``http.client.HTTPException``.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        connection.auto_open = 0
        connection.sock = sock
        headers = {
            "Host": self.authority,
            "User-Agent": f"anytls_http/{__version__}",
            "Accept": "*/*",
            "Connection": "close",
        }
        connection.request("GET", self.path, headers=headers)
        return connection.getresponse()


def parse_target(url: str) -> Target:
    """Return the target of an http or https URL. Raises :class:`ConfigError`, which shows no user information."""
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"https://{url}")
        port = parts.port
    except ValueError as exc:
        raise ConfigError(f"URL: {exc}") from None
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f'URL: got the scheme "{parts.scheme}", takes http or https')
    if not parts.hostname:
        raise ConfigError("URL: has no host")
    if "@" in parts.netloc:
        raise ConfigError("URL: takes no user name or password")
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        path += "?" + urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return Target(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), path)
