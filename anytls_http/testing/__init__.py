"""An AnyTLS server, certificates and a small web site on loopback, for tests. Not for production.

::

    from anytls_http.testing import AnyTLSServer, Site

    with AnyTLSServer() as server, Site() as site:
        with httpx.Client(transport=AnyTLSTransport(server.outbound())) as http:
            http.get(site.url)

``server.faults`` makes the server misbehave on purpose (``faults.py`` lists how).
"""

from __future__ import annotations

from .certificates import Authority, Certificate, make_authority, make_certificate
from .faults import Faults
from .server import AnyTLSServer
from .site import Site

__all__ = ["AnyTLSServer", "Authority", "Certificate", "Faults", "Site", "make_authority", "make_certificate"]
