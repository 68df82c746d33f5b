r"""Settings and ServerSettings: ``key=value`` lines joined by ``\n``."""

from __future__ import annotations

from .frames import MAX_DATA

__all__ = ["PROTOCOL_VERSION", "client_settings", "parse_settings"]

#: The version of the protocol that this client speaks.
PROTOCOL_VERSION = 2


def client_settings(client: str, padding_md5: str) -> bytes:
    """Return the data of the Settings frame, the first frame of every session.

    ``client``: the name and version to tell (may be empty). ``padding_md5``: of the padding scheme in
    use; a server with another one sends it. Raises :class:`ValueError` where ``client`` is more than one
    line, which would be another setting, or too long for a frame.
    """
    if any(char in client for char in "\r\n\0"):
        raise ValueError("client metadata must be a single line")
    data = f"v={PROTOCOL_VERSION}\nclient={client}\npadding-md5={padding_md5}".encode()
    if len(data) > MAX_DATA:
        raise ValueError(f"the settings have {len(data)} bytes, more than {MAX_DATA}")
    return data


def parse_settings(data: bytes | bytearray | memoryview) -> dict[str, str]:
    """Return the settings in ``data``; the last of equal keys counts. Never raises.

    Lines without ``=`` are ignored, spaces around keys and values too; bytes that are not UTF-8 are
    replaced.
    """
    settings = {}
    for line in bytes(data).decode("utf-8", "replace").split("\n"):
        key, equals, value = line.partition("=")
        if equals:
            settings[key.strip()] = value.strip()
    return settings
