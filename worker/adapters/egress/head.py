"""The head of a proxy request, read strictly: what is not plainly a CONNECT or an absolute http address is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from worker.adapters.egress.policy import BadHost, host_name, split_port

_LINE = re.compile(rb"([A-Z]{3,10}) ([\x21-\x7e]{1,8000}) HTTP/1\.[01]\Z")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}):[ \t]*([\t\x20-\x7e\x80-\xff]*)\Z")
_METHODS = frozenset({b"GET", b"HEAD", b"POST"})
_DROPPED = frozenset({b"host", b"connection", b"keep-alive", b"upgrade", b"te", b"trailer", b"expect"})


class BadRequest(ValueError):
    """Said to the client; holds nothing of what it sent."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """`forward` is what goes to the destination first (empty for a tunnel); `body` is how many bytes of the client's
    may follow, None for a tunnel's endless stream."""

    host: str
    port: int
    tunnel: bool
    forward: bytes = b""
    body: int | None = None


def parse(head: bytes) -> Request:
    """A request from its head without the final empty line. BadRequest says what is wrong."""
    first, *rest = head.split(b"\r\n")
    line = _LINE.match(first)
    if line is None or b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b""):
        raise BadRequest("not a request to a proxy")
    method, target = line[1], line[2].decode("ascii")
    fields = [_FIELD.match(raw) for raw in rest]
    if len(fields) > 100 or not all(fields):
        raise BadRequest("an unreadable header")
    headers = [(found[1], found[2].strip()) for found in fields if found is not None]
    try:
        if method == b"CONNECT":
            return _tunnel(target)
        return _plain(method, target, headers)
    except (BadHost, ValueError) as e:
        raise BadRequest("not a destination" if not isinstance(e, BadRequest) else str(e)) from e


def _tunnel(target: str) -> Request:
    host, port = split_port(target)
    if port is None:
        raise BadRequest("CONNECT names a host and a port")
    return Request(host=host_name(host), port=port, tunnel=True)


def _plain(method: bytes, target: str, headers: list[tuple[bytes, bytes]]) -> Request:
    parts = urlsplit(target)
    if parts.scheme != "http" or not parts.hostname:
        raise BadRequest("only CONNECT and http:// addresses are served")
    if parts.username is not None or parts.password is not None:
        raise BadRequest("an address with credentials")
    if method not in _METHODS:
        raise BadRequest("only GET, HEAD and POST are served without a tunnel")
    names = [name.lower() for name, _ in headers]
    if b"transfer-encoding" in names or names.count(b"content-length") > 1:
        raise BadRequest("a body's length must be named once, in bytes")
    length = next((value for name, value in headers if name.lower() == b"content-length"), b"0")
    if not re.fullmatch(rb"[0-9]{1,12}", length):
        raise BadRequest("not a length")
    host, port = host_name(parts.hostname), parts.port or 80
    listed = {token.strip().lower() for name, value in headers if name.lower() == b"connection"
              for token in value.split(b",")}  # fmt: skip
    kept = [
        name + b": " + value
        for name, value in headers
        if name.lower() not in _DROPPED | listed and not name.lower().startswith(b"proxy-")
    ]
    path = parts.path or "/"
    query = f"?{parts.query}" if parts.query else ""
    shown = f"[{host}]" if ":" in host else host
    # One request per connection, to the host that was checked, whatever the client wrote into Host.
    lines = [
        method + f" {path}{query} HTTP/1.1".encode("ascii"),
        f"Host: {shown}{'' if port == 80 else f':{port}'}".encode("ascii"),
        b"Connection: close",
        *kept,
    ]
    return Request(host=host, port=port, tunnel=False, forward=b"\r\n".join(lines) + b"\r\n\r\n", body=int(length))
