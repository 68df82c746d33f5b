from __future__ import annotations

import pytest

from anytls_http.config import AnyTLSOutbound, TLSOptions
from anytls_http.errors import ConfigError


@pytest.mark.parametrize(
    ("uri", "server", "port", "password"),
    [
        ("anytls://pw@host.example", "host.example", 443, "pw"),
        ("anytls://pw@host.example/", "host.example", 443, "pw"),
        ("ANYTLS://pw@host.example:8443/", "host.example", 8443, "pw"),
        ("anytls://pw@host.example:", "host.example", 443, "pw"),
        ("anytls://pw@[::1]:8443", "::1", 8443, "pw"),
        ("anytls://pw@[::1]", "::1", 443, "pw"),
        ("anytls://pw@[fe80::1%25eth0]:1", "fe80::1%eth0", 1, "pw"),
        ("anytls://a%2Fb%40c%3Ad%25+%C3%A9@1.2.3.4:1", "1.2.3.4", 1, "a/b@c:d%+é"),
        ("anytls://8JCsPssfgS8tiRwiMlhARg==@h:1", "h", 1, "8JCsPssfgS8tiRwiMlhARg=="),
        ("anytls://user:pass@h:1", "h", 1, "user:pass"),
        ("  anytls://a@b@h:1\n", "h", 1, "a@b"),
    ],
)
def test_uris(uri: str, server: str, port: int, password: str) -> None:
    assert AnyTLSOutbound.from_uri(uri) == AnyTLSOutbound(server, port, password)


@pytest.mark.parametrize(
    ("query", "tls"),
    [
        ("", TLSOptions()),
        ("sni=x.example", TLSOptions(server_name="x.example")),
        ("sni=x.example&insecure=1", TLSOptions(server_name="x.example", insecure=True)),
        ("insecure=true", TLSOptions(insecure=True)),
        ("insecure=0&sni=", TLSOptions()),
        ("insecure", TLSOptions()),
        ("sni=b%C3%BCcher.example&", TLSOptions(server_name="bücher.example")),
        # An IP address is never sent as SNI; the certificate is verified for it.
        ("sni=1.2.3.4", TLSOptions(server_name="1.2.3.4")),
        ("sni=[::1]", TLSOptions(server_name="::1")),
    ],
)
def test_queries(query: str, tls: TLSOptions) -> None:
    assert AnyTLSOutbound.from_uri(f"anytls://pw@h:1/?{query}").tls == tls
    assert AnyTLSOutbound.from_uri(f"anytls://pw@h:1?{query}#x").tls == tls


def test_the_fragment_is_the_tag() -> None:
    assert (
        AnyTLSOutbound.from_uri("anytls://pw@h:1/?insecure=1#my%20server%20%F0%9F%98%80").tag
        == "my server 😀"
    )
    assert AnyTLSOutbound.from_uri("anytls://pw@h:1#").tag is None


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("http://pw@h", "takes anytls://password@host:port"),
        ("", "takes anytls://"),
        ("anytls:pw@h", "takes anytls://"),
        ("anytls://h:443", "takes anytls://password@host:port, with no path"),
        ("anytls://@h:443", "takes anytls://password@host:port"),
        ("anytls://pw@h/path", "with no path"),
        ("anytls://pw@", "takes a host name or an IP address"),
        ("anytls://pw@h:x", "and a port number"),
        ("anytls://pw@h:0", "the port is not from 1 to 65535"),
        ("anytls://pw@h:65536", "the port is not from 1 to 65535"),
        ("anytls://pw@h:１", "and a port number"),
        ("anytls://pw@::1", "takes a host name or an IP address"),
        ("anytls://pw@a b:1", "takes a host name or an IP address"),
        ("anytls://%ff@h", "the password is not percent-encoded UTF-8"),
        ("anytls://pw@h?fp=chrome", 'unknown query key "fp", takes sni and insecure'),
        ("anytls://pw@h?f p=chrome", "unknown query key, takes sni and insecure"),
        ("anytls://pw@h?sni=a&sni=b", "the query key sni is there twice"),
        ("anytls://pw@h?insecure=yes", "insecure takes 1 or 0"),
        ("anytls://pw@h?sni=a%20b", "sni is no host name"),
        ("anytls://pw@h#%ff", "the name after # is not percent-encoded UTF-8"),
    ],
)
def test_wrong_uris(uri: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AnyTLSOutbound.from_uri(uri)
    assert str(caught.value).startswith("URI: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize("uri", [None, 5, b"anytls://pa55@h"])
def test_what_is_no_text(uri: object) -> None:
    with pytest.raises(ConfigError, match=r"^URI: got .*, takes a string$"):
        AnyTLSOutbound.from_uri(uri)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "separator", ["/", "?", "#", "@", ":", "%", "[", "]", " ", "\n", "?sni=", "?a=", "&"]
)
@pytest.mark.parametrize(
    "shape", ["anytls://{}{}{}@h:1", "anytls://x@{}{}{}@h:1", "anytls://{}{}{}", "{}{}{}@h"]
)
def test_no_part_of_a_password_that_was_not_encoded_gets_into_an_error(
    separator: str, shape: str, marker: str
) -> None:
    uri = shape.format(marker, separator, marker)
    try:
        AnyTLSOutbound.from_uri(uri)
    except ConfigError as problem:
        assert marker not in str(problem)
        assert problem.__context__ is None
