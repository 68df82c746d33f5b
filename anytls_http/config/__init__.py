"""What the user wrote, as frozen and validated values: the ``anytls`` outbound of sing-box.

``outbound.py`` is the way in. It reads the outbound itself and hands its fields to ``pool.py``, ``dial.py``
and ``tls.py``, all through the readers of ``fields.py``; ``detour.py`` and ``dns.py`` follow the tags that it
names; ``sources.py`` and ``uri.py`` make dicts of text.
What is known and not supported yet is one table in ``unsupported.py``. Nothing here touches a socket.
"""

from __future__ import annotations

from .options import DialOptions, PoolOptions, TLSOptions
from .outbound import AnyTLSOutbound, coerce_outbound

__all__ = ["AnyTLSOutbound", "DialOptions", "PoolOptions", "TLSOptions", "coerce_outbound"]
