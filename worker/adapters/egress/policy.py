"""What may be reached from a set-up: host patterns, what a resolved address may be, and the caps."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

DEFAULT_PORTS = (443, 80)
_LABELS = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*\Z")


class BadHost(ValueError):
    """Not a host name, address or pattern that can be meant."""


def host_name(text: str) -> str:
    """The one spelling of a host: lower case, no final dot, an IPv6 address without brackets. BadHost otherwise."""
    name = text.lower().removesuffix(".")
    literal = address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    if literal is not None:
        return str(literal)
    if not _LABELS.match(name):
        raise BadHost(f"not a host name: {text[:80]!r}")
    return name


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """`text` as an IP address without its zone; None when it is a name."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


@dataclass(frozen=True)
class HostPattern:
    """`host`, `host:port`, `*.domain` or `*.domain:port`; without a port, those of https and http."""

    host: str
    port: int | None = None
    below: bool = False

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """BadHost says what is wrong."""
        rest = text.strip()
        below = rest.startswith("*.")
        rest = rest.removeprefix("*.") if below else rest
        host, port = split_port(rest)
        name = host_name(host)
        if below and address(name) is not None:
            raise BadHost(f"a pattern of addresses: {text[:80]!r}")
        return cls(name, port, below)

    def matches(self, host: str, port: int) -> bool:
        """`host` as `host_name` spells it."""
        named = host.endswith(f".{self.host}") if self.below else host == self.host
        return named and (port == self.port if self.port is not None else port in DEFAULT_PORTS)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'*.' if self.below else ''}{host}{'' if self.port is None else f':{self.port}'}"


def split_port(text: str) -> tuple[str, int | None]:
    """`host:port` or `host`; an IPv6 address with a port stands in brackets."""
    host, colon, digits = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        return text, None
    if not re.fullmatch(r"[0-9]{1,5}", digits) or not 0 < int(digits) < 65536:
        raise BadHost(f"not a port: {text[:80]!r}")
    return host, int(digits)


@dataclass(frozen=True, kw_only=True)
class Caps:
    """Bytes count both directions. Times are seconds: `idle` without a byte, `total` of one connection, `head` until
    a request's head is there, `connect` of one address."""

    bytes_per_host: int = 4 << 30
    bytes_total: int = 8 << 30
    connections: int = 64
    head_bytes: int = 16 << 10
    head_seconds: float = 10.0
    connect_seconds: float = 15.0
    idle_seconds: float = 60.0
    total_seconds: float = 1800.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`private` names hosts that may be at private or loopback addresses; being listed there allows them too."""

    hosts: tuple[HostPattern, ...] = ()
    private: tuple[HostPattern, ...] = ()
    caps: Caps = field(default_factory=Caps)

    def refuses(self, host: str, port: int) -> str | None:
        """Why a destination may not be reached whatever it resolves to; None when it may be looked up."""
        if any(pattern.matches(host, port) for pattern in (*self.hosts, *self.private)):
            return None
        if address(host) is not None:
            return "an address that is not listed"
        return "not on the list of allowed hosts"

    def refuses_address(self, host: str, port: int, found: str) -> str | None:
        """Why `found`, which `host` resolved to, may not be connected to; None when it may."""
        ip = address(found)
        if ip is None:
            return "resolves to something that is no address"
        kind = special(ip)
        if kind is None:
            return None
        if kind in _LISTABLE and any(pattern.matches(host, port) for pattern in self.private):
            return None
        return f"resolves to {'an' if kind[0] in 'aeiou' else 'a'} {kind} address"


_LISTABLE = frozenset({"loopback", "private"})
_CGNAT = ipaddress.ip_network("100.64.0.0/10")
_EMBEDDING = tuple(
    ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
)


def special(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    """What keeps an address from being a public one of its own; None when it is."""
    if ip.is_unspecified:
        return "unspecified"
    if ip.is_loopback:
        return "loopback"
    if ip.is_multicast:
        return "multicast"
    if ip.is_link_local:
        return "link-local"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or any(ip in net for net in _EMBEDDING):
            return "IPv4-embedding"  # what is reached in the end would be another address than the one checked
        if ip.is_site_local:
            return "private"
    elif ip in _CGNAT:
        return "private"
    return None if ip.is_global else ("reserved" if ip.is_reserved else "private")
