"""The tokens that exist in the double, and what each may do: the one place both the API front and git ask."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """`repositories` (lower-case owner/name) is None where the token isn't narrowed; `login` is None for an App's."""

    permissions: Mapping[str, str]
    repositories: frozenset[str] | None = None
    login: str | None = None

    def reaches(self, repository: str) -> bool:
        return self.repositories is None or repository.lower() in self.repositories

    def may(self, access: str, permission: str = "contents") -> bool:
        granted = self.permissions.get(permission)
        return granted == "write" or (access == "read" and granted == "read")


class Tokens:
    def __init__(self) -> None:
        self._known: dict[str, Token] = {}
        self._lock = threading.Lock()

    def add(self, value: str, token: Token) -> None:
        with self._lock:
            self._known[value] = token

    def revoke(self, value: str) -> None:
        with self._lock:
            self._known.pop(value, None)

    def get(self, value: str | None) -> Token | None:
        with self._lock:
            return self._known.get(value) if value else None

    def minted(self) -> dict[str, Token]:
        """Every token an App got, with what it may do."""
        with self._lock:
            return {value: token for value, token in self._known.items() if token.login is None}


def from_authorization(header: str | None) -> str | None:
    """The token in an Authorization header: `token X`, `Bearer X`, or the password of `Basic`; None without one."""
    scheme, _, rest = (header or "").partition(" ")
    if scheme.lower() in ("token", "bearer"):
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return None
