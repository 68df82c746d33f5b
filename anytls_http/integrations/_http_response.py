"""http.client's response, whose plain heads are read in one step.

http.client gives the head of a response to the parser of e-mails, line by line: a tenth of all that a small request
by requests costs, and more with many threads (``docs/performance.md``). Nearly all heads are plain. What is not, an old
version, a folded line or a byte beyond ASCII for example, is left to http.client with its rules, limits and errors.
"""

from __future__ import annotations

import re
from http.client import HTTPMessage, HTTPResponse
from typing import Any

from anytls_http.sockets.files import FILE_BUFFER

from ._http1_heads import MAX_DIGITS, response_pattern
from ._plain_headers import PlainState

#: A head that http.client would neither refuse, nor repair, nor take for a mail of several parts; but for the limits.
PLAIN_HEAD = response_pattern(rb"(?!(?i:content-type):[\t ]*(?i:multipart|message))")
_HEADER = re.compile(r"([^:]+):[\t ]*([^\r]*)\r\n")
#: Bytes from which on a piece is read past the buffer of the file: smaller ones cost less as copies out of it. Once a
#: piece has come short, a buffered file goes on to fill its buffer first.
LARGE_PIECE = FILE_BUFFER
#: Bytes from which on a piece never comes in one read, and would be joined: a buffered file fills most of it directly.
HUGE_PIECE = 16 * FILE_BUFFER
#: Fewer headers than http.client ever refuses.
MANY_HEADERS = 64


class PlainMessage(PlainState, HTTPMessage):
    """Headers that are plain text: until somebody wants more of them, no mail is made that has a policy."""

    def __init__(self, headers: list[tuple[str, str]]) -> None:
        self.plain_items = headers
        self.plain = {name.lower(): value for name, value in reversed(headers)}

    def _made(self, items: list[tuple[str, str]]) -> HTTPMessage:
        mail = HTTPMessage()
        for name, value in items:
            mail.set_raw(name, value)
        mail.set_payload("")
        return mail

    def get(self, name: str, failobj: Any = None) -> Any:
        if self.plain_items is None:
            return super().get(name, failobj)
        return self.plain.get(name.lower(), failobj)

    def get_all(self, name: str, failobj: Any = None) -> Any:
        if self.plain_items is not None and name.lower() not in self.plain:
            return failobj
        return super().get_all(name, failobj)

    def items(self) -> Any:
        headers = self.plain_items
        return super().items() if headers is None else list(headers)


def _with_the_rest(data: bytes, fp: Any, size: int) -> bytes:
    """Return ``data`` with what follows it, up to ``size`` bytes or the end."""
    pieces = [data]
    left = size - len(data)
    while left:
        piece = fp.read1(left)
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


class TunnelResponse(HTTPResponse):
    """A response of which ``fp`` is a buffered file, as ``makefile`` of the tunnel's sockets returns it."""

    def read(self, amt: int | None = None) -> bytes:
        """Read ``amt`` bytes, all for None, as ``HTTPResponse.read``; large pieces past the buffer of ``fp``."""
        left = self.length
        fp: Any = self.fp
        if amt is None or left is None or not LARGE_PIECE <= amt < min(left, HUGE_PIECE) or fp is None:
            return super().read(amt)
        data: bytes = fp.read1(amt)
        if not data:
            return super().read(amt)
        if len(data) < amt:
            fp.raw.room = 0  # only whole pieces are wanted
            data = _with_the_rest(data, fp, amt)
        self.length = left - len(data)
        return data

    def begin(self, **limits: Any) -> None:
        """Read the head, as ``HTTPResponse.begin``, and raise as it does. ``limits``: those of later Pythons."""
        if self.headers is not None or limits or self.debuglevel > 0 or not self._begin_plain():
            super().begin(**limits)

    def _begin_plain(self) -> bool:
        """Read the head where it has come whole and is plain; else return False, with nothing read."""
        fp: Any = self.fp
        head = PLAIN_HEAD.match(fp.peek())
        if head is None:
            return False
        headers = _HEADER.findall(head[3].decode("ascii"))
        if len(headers) > MANY_HEADERS:
            return False
        message = PlainMessage(headers)
        length = message.get("content-length")
        if length and not (length.isdecimal() and len(length) <= MAX_DIGITS):
            return False
        fp.read(head.end())

        self.code = self.status = status = int(head[1])
        self.reason = (head[2] or b"").decode("ascii").strip()
        self.version = 11
        self.headers = self.msg = message
        # How the body ends, by the rules of HTTPResponse.begin.
        self.chunked = message.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()  # type: ignore[attr-defined]
        self.length = int(length) if length and not self.chunked else None
        if status in (204, 304) or self._method == "HEAD":  # type: ignore[attr-defined]
            self.length = 0
        if not self.chunked and self.length is None:
            self.will_close = True
        return True
