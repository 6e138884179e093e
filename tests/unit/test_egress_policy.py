"""Which hosts and addresses a set-up may reach, and which requests count as one."""

from __future__ import annotations

import ipaddress

import pytest

from worker.adapters.egress.head import BadRequest, parse
from worker.adapters.egress.policy import BadHost, HostPattern, Policy, host_name, special

SPECIAL = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1",
    "::", "::1", "fe80::1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "ff0e::1", "::ffff:127.0.0.1",
    "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2001::1",
    "::7f00:1", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("text", SPECIAL)
def test_an_address_that_is_not_a_public_one_is_refused(text):
    assert special(ipaddress.ip_address(text)) is not None
    policy = Policy(hosts=(HostPattern.parse("index.test"),))
    assert "resolves to a" in (policy.refuses_address("index.test", 443, text) or "")


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111"])
def test_a_public_address_is_none_of_them(text):
    assert special(ipaddress.ip_address(text)) is None


def test_a_private_host_has_to_be_listed_as_one_with_its_port():
    policy = Policy(hosts=(HostPattern.parse("*.test"),), private=(HostPattern.parse("inner.test:8080"),))
    assert policy.refuses("inner.test", 8080) is None
    assert policy.refuses_address("inner.test", 8080, "10.0.0.1") is None
    assert policy.refuses_address("inner.test", 8080, "127.0.0.1") is None
    assert policy.refuses_address("inner.test", 443, "10.0.0.1") is not None
    assert policy.refuses_address("other.test", 8080, "10.0.0.1") is not None
    for never in ("169.254.169.254", "fe80::1%eth0", "224.0.0.1", "0.0.0.0", "::ffff:10.0.0.1"):
        assert policy.refuses_address("inner.test", 8080, never) is not None, never


def test_patterns():
    exact, port, below = (HostPattern.parse(text) for text in ("Index.Test.", "index.test:8443", "*.index.test"))
    assert exact.matches("index.test", 443)
    assert exact.matches("index.test", 80)
    assert not exact.matches("index.test", 22)
    assert not exact.matches("a.index.test", 443)
    assert port.matches("index.test", 8443)
    assert not port.matches("index.test", 443)
    assert below.matches("a.b.index.test", 443)
    assert not below.matches("index.test", 443)
    assert not below.matches("evilindex.test", 443)
    assert HostPattern.parse("[::1]:8080").matches("::1", 8080)
    assert [str(p) for p in (exact, port, below)] == ["index.test", "index.test:8443", "*.index.test"]


@pytest.mark.parametrize(
    "text", ["", "*", "*.", "a b", "a/b", "host:0", "host:99999", "*.10.0.0.1", "ho\u0455t", "a..b"]
)
def test_what_is_no_pattern(text):
    with pytest.raises(BadHost):
        HostPattern.parse(text)


def test_an_address_has_one_spelling_and_has_to_be_listed():
    assert host_name("[::0:1]") == "::1"
    policy = Policy(hosts=(HostPattern.parse("*.test"),))
    assert policy.refuses("8.8.8.8", 443) == "an address that is not listed"
    assert Policy(hosts=(HostPattern.parse("8.8.8.8"),)).refuses("8.8.8.8", 443) is None


@pytest.mark.parametrize(
    "head",
    [
        b"", b"\x16\x03\x01", b"CONNECT index.test HTTP/1.1", b"CONNECT index.test:0 HTTP/1.1",
        b"CONNECT http://index.test:443 HTTP/1.1", b"CONNECT a b:443 HTTP/1.1", b"CONNECT u@index.test:443 HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: index.test", b"GET https://index.test/ HTTP/1.1", b"GET ftp://index.test/ HTTP/1.1",
        b"GET http://u:p@index.test/ HTTP/1.1", b"DELETE http://index.test/ HTTP/1.1", b"GET http://index.test/ HTTP/2",
        b"GET http://index.test:http/ HTTP/1.1", b"GET http:///x HTTP/1.1", b"get http://index.test/ HTTP/1.1",
        b"POST http://index.test/ HTTP/1.1\r\nTransfer-Encoding: chunked",
        b"POST http://index.test/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2",
        b"POST http://index.test/ HTTP/1.1\r\nContent-Length: +1",
        b"GET http://index.test/ HTTP/1.1\r\nX: a\nHost: other", b"GET http://index.test/ HTTP/1.1\r\n folded: x",
        b"GET http://index.test/ HTTP/1.1\r\nX : a", b"GET http://index.test/ HTTP/1.1\r\nX: a\rb",
    ],
)  # fmt: skip
def test_what_is_no_request(head):
    with pytest.raises(BadRequest):
        parse(head)


def test_a_plain_request_goes_to_the_host_that_was_checked_and_to_no_other():
    request = parse(
        b"GET http://Index.test:8080/simple/?a=1 HTTP/1.1\r\nHost: other.test\r\nProxy-Authorization: Basic eA==\r\n"
        b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nAccept: */*"
    )
    assert (request.host, request.port, request.tunnel, request.body) == ("index.test", 8080, False, 0)
    assert request.forward == (
        b"GET /simple/?a=1 HTTP/1.1\r\nHost: index.test:8080\r\nConnection: close\r\nAccept: */*\r\n\r\n"
    )
