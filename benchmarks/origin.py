"""The origin of the benchmark: nginx where there is one, and a small sink for uploads, in processes of their own.

Run as a program it is the sink (and, without nginx, everything): a threaded HTTP server that answers
``/bytes/N`` and reads bodies as fast as it can.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from anytls_http.testing import make_certificate

SMALL = 1024
PAGE = 100 * 1024

_NGINX = """
worker_processes 1;
daemon off;
error_log {folder}/error.log crit;
pid {folder}/pid;
events {{ worker_connections 2048; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 10000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  ssl_certificate {folder}/cert.pem;
  ssl_certificate_key {folder}/key.pem;
  ssl_protocols TLSv1.3;
  server {{ listen 127.0.0.1:{http}; root {folder}/www; }}
  server {{ listen 127.0.0.1:{https} ssl; root {folder}/www; }}
}}
"""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


class Origin:
    """``http``, ``https`` and ``sink`` base URLs; ``ca_path`` of the certificate; ``bytes_path(n)``."""

    def __init__(self, large: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="anytls-bench-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        certificate = make_certificate("127.0.0.1", "localhost")
        self.ca_path = str(self._folder / "ca.pem")
        Path(self.ca_path).write_text(certificate.ca_pem)
        (self._folder / "cert.pem").write_text(certificate.pem)
        (self._folder / "key.pem").write_text(certificate.key_pem)
        self.http_port, self.https_port, self.sink_port = free_port(), free_port(), free_port()
        self._start_sink()
        if self.nginx:
            self._start_nginx(large)
        else:
            self.http_port = self.sink_port
        for port in {self.http_port, self.https_port, self.sink_port}:
            wait_for(port)

    def __getstate__(self) -> dict[str, object]:
        """Return what another process may know: the addresses, not the processes."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def url(self, scheme: str, path: str) -> str:
        """Return the URL of ``path`` (``small``, ``page``, ``large``, ``sink``) on the fit server."""
        port = self.sink_port if path == "sink" else self.https_port if scheme == "https" else self.http_port
        return f"{scheme}://127.0.0.1:{port}/{path}"

    def _start_sink(self) -> None:
        command = [sys.executable, __file__, str(self.sink_port), str(self.https_port), str(self._folder)]
        if self.nginx:
            command[3] = "0"
        self._processes.append(subprocess.Popen(command))

    def _start_nginx(self, large: int) -> None:
        www = self._folder / "www"
        www.mkdir()
        for name, size in (("small", SMALL), ("page", PAGE)):
            (www / name).write_bytes(b"x" * size)
        with (www / "large").open("wb") as file:
            file.truncate(large)  # sparse: reading it costs no disk
        self._folder.chmod(0o755)
        config = self._folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=self._folder, http=self.http_port, https=self.https_port))
        assert self.nginx
        self._processes.append(subprocess.Popen([self.nginx, "-c", str(config)]))

    def close(self) -> None:
        """End the processes and remove their files."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()
        shutil.rmtree(self._folder)


def wait_for(port: int) -> None:
    """Return when something listens on ``port``; raises :class:`TimeoutError` after 10 s."""
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on port {port}")
        time.sleep(0.02)


# -- the sink ----------------------------------------------------------------------------------------------


def _serve(sock: socket.socket, sizes: dict[bytes, int]) -> None:
    block = memoryview(bytes(1 << 20))
    scratch = bytearray(1 << 20)
    with contextlib.suppress(OSError, ssl.SSLError), sock:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = sock.recv(65536)
                if not more:
                    return
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            data = b""
            method, path, _ = head.split(b"\r\n", 1)[0].split(b" ")
            if method == b"POST":
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                left = length - len(rest)
                while left:
                    count = sock.recv_into(scratch)
                    if not count:
                        return
                    left -= count
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                continue
            size = sizes.get(path, 0)
            close = b"connection: close" in head.lower()
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (size, b"Connection: close\r\n" * close)
            )
            while size:
                piece = block[: min(size, len(block))]
                sock.sendall(piece)
                size -= len(piece)
            if close:
                return


def main() -> None:
    """Serve until terminated: ``origin.py HTTP_PORT HTTPS_PORT FOLDER`` (port 0: none)."""
    http, https, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    sizes = {b"/small": SMALL, b"/page": PAGE, b"/large": 1 << 30}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    def listen(port: int, tls: bool) -> None:
        with socket.create_server(("127.0.0.1", port), backlog=512) as listener:
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=handle, args=(sock, tls), daemon=True).start()

    def handle(sock: socket.socket, tls: bool) -> None:
        if tls:
            try:
                sock = context.wrap_socket(sock, server_side=True)
            except OSError:
                return
        _serve(sock, sizes)

    if https:
        threading.Thread(target=listen, args=(https, True), daemon=True).start()
    listen(http, False)


if __name__ == "__main__":
    main()
