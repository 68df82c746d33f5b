"""A mail server that takes one message after STARTTLS."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Self


class MailServer:
    """What it was sent is in :attr:`mails`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.mails: list[bytes] = []
        self._thread = threading.Thread(target=self._run, name="test-mail", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(5)
            with sock:
                sock.sendall(b"220 mail.example.org\r\n")
                if self._commands(sock, secure=False):
                    with self._context.wrap_socket(sock, server_side=True) as tls:
                        self._commands(tls, secure=True)

    def _commands(self, sock: socket.socket, secure: bool) -> bool:
        """Serve commands; True when TLS is to begin."""
        with sock.makefile("rb") as lines:
            for line in lines:
                command = line.strip().upper()
                if command.startswith(b"EHLO"):
                    sock.sendall(b"250 hello\r\n" if secure else b"250-hello\r\n250 STARTTLS\r\n")
                elif command == b"STARTTLS":
                    sock.sendall(b"220 go ahead\r\n")
                    return True
                elif command == b"DATA":
                    sock.sendall(b"354 go ahead\r\n")
                    mail = b""
                    while (text := lines.readline()) != b".\r\n":
                        mail += text
                    self.mails.append(mail)
                    sock.sendall(b"250 taken\r\n")
                elif command == b"QUIT":
                    sock.sendall(b"221 bye\r\n")
                    return False
                else:
                    sock.sendall(b"250 ok\r\n" if secure else b"530 TLS first\r\n")
        return False
