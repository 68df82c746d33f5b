"""The heads of HTTP/1.1 messages, where they are plain: what h11 would send and take as they are.

Pure functions. Whatever is not plain, or can't be told, is for h11 with its rules, limits and errors.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = rb"(?:[!-~]+(?:[\t ]+[!-~]+)*)?"
#: A head that h11 would send as it is.
PLAIN_REQUEST = re.compile(
    _TOKEN
    + rb" [!-~]+ HTTP/1\.1\r\n(?i:host): "
    + _VALUE
    + rb"\r\n(?:"
    + _TOKEN
    + rb": "
    + _VALUE
    + rb"\r\n)*\r\n"
)


def response_pattern(condition: bytes = b"") -> re.Pattern[bytes]:
    """Return the pattern of a plain head; its groups: status, reason, headers.

    ``condition``: a pattern of no width that each header's line must begin with.
    """
    line = condition + _TOKEN + rb":[\t -~]*\r\n"
    return re.compile(rb"HTTP/1\.1 ([2-9][0-9][0-9])(?: ([ -~]*))?\r\n((?:" + line + rb")*)\r\n")


#: A head that h11 would take as it is.
PLAIN_RESPONSE = response_pattern()
_HEADER = re.compile(rb"(" + _TOKEN + rb"):([\t -~]*)\r\n")
#: The headers that say what else a message means than itself.
_SPECIAL = re.compile(
    rb"\n((?i:connection|content-length|expect|host|transfer-encoding|upgrade)):[\t ]*([^\r]*)"
)
#: Up to so many bytes a body that is all there leaves together with the head, in one packet.
SMALL_BODY = 16 * 1024
#: Digits of a length that is surely one.
MAX_DIGITS = 18


class PlainRequest(NamedTuple):
    """The head of a request, and what it means."""

    head: bytes
    length: int  #: of its body, in bytes
    keeps: bool  #: the connection, as far as the request goes


def plain_request(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> PlainRequest | None:
    """Return the request as it is sent, None where it is not plain."""
    lines = [b"%s %s HTTP/1.1\r\n" % (method, target)]
    lines += [b"%s: %s\r\n" % header for header in headers]
    lines.append(b"\r\n")
    head = b"".join(lines)
    if method == b"CONNECT" or not PLAIN_REQUEST.fullmatch(head):
        return None
    # As many lines as there should be, and each name its own: nothing was smuggled in.
    if head.count(b"\n") != len(lines) or b":" in b"".join([name for name, _ in headers]):
        return None
    length = None
    keeps = True
    hosts = 0
    for name, value in _SPECIAL.findall(head):
        name = name.lower()
        if name == b"host":
            hosts += 1
        elif name == b"connection":
            value = value.lower()
            if value == b"close":
                keeps = False
            elif value != b"keep-alive":
                return None
        elif name == b"content-length" and length is None and value.isdigit() and len(value) <= MAX_DIGITS:
            length = int(value)
        else:
            return None
    return PlainRequest(head, length or 0, keeps) if hosts == 1 else None


class PlainResponse(NamedTuple):
    """The head of a response, and what it means."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    size: int  #: of the head, in bytes
    length: int | None  #: of the body, in bytes; None: it is chunked
    keeps: bool  #: the connection, as far as the response goes


def plain_response(data: bytes, method: bytes) -> PlainResponse | None:
    """Return the response that begins with ``data``, None where its head is not plain, or not all of it there."""
    match = PLAIN_RESPONSE.match(data)
    if match is None:
        return None
    size = match.end()
    status = int(match[1])
    length = None
    is_chunked = False
    keeps = True
    for name, value in _SPECIAL.findall(data, 0, size):
        name = name.lower()
        value = value.rstrip(b"\t ")
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > MAX_DIGITS:
                return None
            length = int(value)
        elif name == b"connection":
            keeps = keeps and b"close" not in [token.strip() for token in value.lower().split(b",")]
        elif name == b"transfer-encoding":
            if is_chunked or value != b"chunked":
                return None
            is_chunked = True
    if is_chunked and length is not None:
        return None  # somebody may be deceived about where it ends
    if method == b"HEAD" or status in (204, 304):
        length = 0
    elif length is None and not is_chunked:
        return None  # it ends with the connection
    headers = [(name, value.strip(b"\t ")) for name, value in _HEADER.findall(match[3])]
    return PlainResponse(status, match[2] or b"", headers, size, length, keeps)
