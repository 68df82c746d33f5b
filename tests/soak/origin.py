"""The origin of the soak run: answers every GET with 1,024 bytes; prints its port. Run as a program."""

from __future__ import annotations

import asyncio

BODY = b"x" * 1024
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n"


class Answers(asyncio.Protocol):
    """One connection; requests have no body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, self._data = self._data.partition(b"\r\n\r\n")
            close = b"connection: close" in head.lower()
            self._transport.write(HEAD + b"Connection: close\r\n" * close + b"\r\n" + BODY)
            if close:
                self._transport.close()
                return


async def main() -> None:
    """Serve until terminated."""
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
