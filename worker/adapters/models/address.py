"""Which model servers may be talked to: what an agent sends there is the repository's code."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from agent.types import Frozen
from worker.errors import ModelUnavailable, SettingsError

VARIABLE = "DEVSTRAL_FIX_ALLOW_REMOTE_MODELS"
_EXAMPLE = "openai:http://127.0.0.1:8000/v1#devstral"
_HOST = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+")

# Named one by one: Python's `is_private` also takes documentation, benchmark and reserved ranges, and differs
# between versions.
_OWN = tuple(
    map(
        ipaddress.ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "::1/128",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)


class ModelAddress(Frozen):
    """A checked base URL. `place` is its host and port, for people; `remote`: it is outside private address ranges."""

    url: str
    place: str
    remote: bool


def check_address(base_url: str, allow_remote: Collection[str]) -> ModelAddress:
    """The address of a model server we may talk to.

    Its host must be one of `allow_remote`, or resolve to loopback, private or link-local addresses and no others. The
    name is resolved here, once: someone who controls its DNS can change it later, so a name that isn't the owner's
    belongs into neither the setting nor the URL.

    Raises SettingsError for a URL that can't be used or a host that isn't allowed, and ModelUnavailable when the name
    doesn't resolve now.
    """
    # urlsplit drops tabs and newlines and takes backslashes for host characters; others read such URLs differently.
    if not base_url.isascii() or not base_url.isprintable() or " " in base_url or "\\" in base_url:
        raise SettingsError(f"model server URL holds characters that don't belong in one; example: {_EXAMPLE}")
    try:
        parts = urlsplit(base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise SettingsError(f"model server URL can't be read ({error}); example: {_EXAMPLE}") from error
    if "@" in parts.netloc:  # and is not repeated in the message
        raise SettingsError("model server URL holds a user or password; give the key in its own setting instead")
    if parts.scheme not in ("http", "https"):
        raise SettingsError(f"model server URL {base_url!r} must start with http:// or https://; example: {_EXAMPLE}")
    if parts.query or parts.fragment:
        raise SettingsError(f"model server URL {base_url!r} has a query or a fragment; example: {_EXAMPLE}")
    host = (parts.hostname or "").rstrip(".")
    if not _HOST.fullmatch(host):
        raise SettingsError(f"model server URL {base_url!r} has no usable host; example: {_EXAMPLE}")
    shown = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/")
    url = f"{parts.scheme}://{shown}:{port}{path}"
    outside = _outside(host, port)
    if outside and host not in {name.strip().rstrip(".").lower() for name in allow_remote}:
        raise SettingsError(
            f"model server {host} is at {outside[0]}, outside this network, and the repository's code would go there; "
            f"allow it by name if that is meant: {VARIABLE}={host}"
        )
    return ModelAddress(url=url, place=f"{shown}:{port}", remote=bool(outside))


def _outside(host: str, port: int) -> list[str]:
    """The addresses of `host` that are not loopback, private or link-local."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ModelUnavailable(f"model server {host} can't be resolved: {error}") from error
    addresses = sorted({str(entry[4][0]).partition("%")[0] for entry in found})
    return [address for address in addresses if not _own(address)]


def _own(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip.version == network.version and ip in network for network in _OWN)
