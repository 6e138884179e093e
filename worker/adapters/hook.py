"""The notification hook: a signed POST to a URL of the operator's.

The signature is HMAC-SHA256 over `<timestamp>.<body>`, so that a receiver can refuse what is old as well as what is
not ours. Redirects are not followed: the body goes to the host that was named, or nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Protocol
from uuid import UUID

import httpx2
from pydantic import SecretStr

from worker.errors import Permanent, SettingsError, Transient

SECONDS = 10.0
_LATER = frozenset({408, 425, 429})


class HookUnavailable(Transient):
    """The receiver did not answer, or asked to be told later."""


class HookRefused(Permanent):
    """The receiver answered that it does not take this."""


class Sendable(Protocol):
    """What is sent: any message that is JSON and has an id and a kind."""

    @property
    def id(self) -> UUID: ...
    @property
    def kind(self) -> str: ...
    def model_dump_json(self) -> str: ...


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The value of `X-Devstral-Fix-Signature-256`."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class WebhookNotifier:
    """Sends to `url`. Safe for threads; SettingsError when `url` is no http(s) address or there is no secret."""

    def __init__(self, url: str, secret: SecretStr | None, *, timeout: float = SECONDS) -> None:
        parsed = httpx2.URL(url)
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise SettingsError(
                "DEVSTRAL_FIX_NOTIFY_URL is no http(s) URL. Example: DEVSTRAL_FIX_NOTIFY_URL=https://hooks.example.com/x"
            )
        if secret is None or not secret.get_secret_value():
            raise SettingsError(
                "DEVSTRAL_FIX_NOTIFY_URL is set, and DEVSTRAL_FIX_NOTIFY_SECRET is not: nothing is sent unsigned"
            )
        self._url = url
        self._secret = secret
        self._client = httpx2.Client(timeout=timeout, follow_redirects=False, headers={"User-Agent": "devstral-fix"})

    def send(self, message: Sendable) -> None:
        body = message.model_dump_json().encode()
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "X-Devstral-Fix-Event": message.kind,
            "X-Devstral-Fix-Delivery": str(message.id),
            "X-Devstral-Fix-Timestamp": timestamp,
            "X-Devstral-Fix-Signature-256": signature(self._secret.get_secret_value(), timestamp, body),
        }
        try:
            status = self._client.post(self._url, content=body, headers=headers).status_code
        except httpx2.HTTPError as error:
            raise HookUnavailable(f"the hook did not answer: {type(error).__name__}") from error
        if status >= 500 or status in _LATER:
            raise HookUnavailable(f"the hook answered {status}")
        if not 200 <= status < 300:
            raise HookRefused(f"the hook answered {status}")

    def close(self) -> None:
        self._client.close()
