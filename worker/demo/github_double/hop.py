"""The hop between emulate's webhooks and our receiver: a fresh GUID each, everything else untouched, all remembered."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from worker.demo.github_double.serving import LoopbackServer, Reply, Request

_NOT_FORWARDED = {"host", "content-length", "connection", "transfer-encoding", "accept-encoding", "x-github-delivery"}


@dataclass(frozen=True)
class DeliveryRecord:
    """One webhook as sent. `status` is the receiver's answer; None when nobody was there to answer."""

    guid: str
    event: str
    headers: Mapping[str, str]
    body: bytes
    status: int | None
    answer: bytes = b""

    @property
    def payload(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def action(self) -> str | None:
        action = self.payload.get("action")
        return action if isinstance(action, str) else None


def sign(secret: bytes, body: bytes) -> str:
    """The value of X-Hub-Signature-256."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


class Hop:
    """emulate names its deliveries by the millisecond, so two can share an id; GitHub sends a GUID, and so does
    this hop. The body and its signature pass byte for byte."""

    def __init__(self, receiver_url: str | None, *, timeout: float = 10.0) -> None:
        self.receiver_url = receiver_url
        self._timeout = timeout
        self._records: list[DeliveryRecord] = []
        self._changed = threading.Condition()
        # No proxy of the environment: everything here is on loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._server = LoopbackServer("double-hop", self._relay)
        self.url = f"{self._server.url}/webhook"
        self.stop = self._server.stop

    def _relay(self, request: Request) -> Reply:
        headers = {name: value for name, value in request.headers.items() if name not in _NOT_FORWARDED}
        record = self.send(str(uuid.uuid4()), headers, request.body)
        return Reply(record.status or 502)

    def send(self, guid: str, headers: Mapping[str, str], body: bytes) -> DeliveryRecord:
        """Post to the receiver and remember it. A receiver that isn't there leaves `status` None."""
        sent = {**headers, "x-github-delivery": guid}
        status, answer = self._post(sent, body)
        record = DeliveryRecord(guid, sent.get("x-github-event", ""), sent, body, status, answer)
        with self._changed:
            self._records.append(record)
            self._changed.notify_all()
        return record

    def _post(self, headers: Mapping[str, str], body: bytes) -> tuple[int | None, bytes]:
        if self.receiver_url is None:
            return None, b""
        request = urllib.request.Request(self.receiver_url, data=body, headers=dict(headers), method="POST")  # noqa: S310
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()
        except OSError as error:
            return None, str(error).encode()

    def records(self) -> list[DeliveryRecord]:
        with self._changed:
            return list(self._records)

    def wait(self, matches: Callable[[DeliveryRecord], bool], timeout: float) -> DeliveryRecord:
        """The first record that `matches`, past or to come; TimeoutError after `timeout` seconds."""
        end = time.monotonic() + timeout
        seen = 0
        with self._changed:
            while True:
                for record in self._records[seen:]:
                    if matches(record):
                        return record
                seen = len(self._records)
                if not self._changed.wait(max(0.0, end - time.monotonic())) and len(self._records) == seen:
                    raise TimeoutError(f"no such delivery within {timeout} s; {seen} others came")
