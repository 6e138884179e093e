"""The one way to GitHub: every request passes the gate, and reads that repeat are asked conditionally.

It sits below PyGithub, in the adapter of its HTTP session, so no method can go around it. A client is known by its
retry object, which PyGithub hands to every session that it makes.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cachecontrol import CacheControlAdapter
from cachecontrol.cache import BaseCache
from cachecontrol.controller import CacheController
from requests import PreparedRequest, Response

from worker.adapters.forge.border import SECONDARY_WAIT, wait_asked_for
from worker.adapters.forge.gate import Gate, Price, Rates, Resource

READS = frozenset({"GET", "HEAD", "OPTIONS"})
MOST_KEPT, LARGEST_KEPT = 16 << 20, 1 << 20  # bytes of answers, in all and of one
NOT_MODIFIED, UNAUTHORIZED = 304, 401


def price(method: str, path: str, body: bytes | str | None) -> Price:
    """As "Rate limits for the REST API" counts points. What creates content is not listed there: here it is every
    POST, PUT and PATCH but those that only ask or make tokens."""
    bare = path.partition("?")[0]
    if bare.endswith("/graphql"):
        mutates = _is_mutation(body)
        return Price(points=5 if mutates else 1, content=mutates)
    if method in READS:
        return Price(points=1, content=False)
    creates = method != "DELETE" and not bare.endswith(("/access_tokens", "/conversions"))
    return Price(points=5, content=creates)


def _is_mutation(body: bytes | str | None) -> bool:
    try:
        query = json.loads(body or "{}").get("query", "")
    except (ValueError, AttributeError):
        return True  # what can't be read is taken for the dearer one
    return not isinstance(query, str) or query.lstrip().startswith("mutation")


class Kept:
    """Answers with their ETags, of all accounts of this process: the least recently used go first."""

    def __init__(self, most: int = MOST_KEPT, largest: int = LARGEST_KEPT) -> None:
        self._most, self._largest = most, largest
        self._held: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._bytes

    def get(self, key: tuple[str, str]) -> bytes | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def set(self, key: tuple[str, str], value: bytes) -> None:
        with self._lock:
            self._drop(key)
            if len(value) > self._largest:
                return
            self._held[key] = value
            self._bytes += len(value)
            while self._bytes > self._most:
                self._drop(next(iter(self._held)))

    def delete(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        self._bytes -= len(self._held.pop(key, b""))


class _OfAccount(BaseCache):
    """One account's share of what is kept: nobody is answered with what another one may see."""

    def __init__(self, kept: Kept, account: Callable[[], str]) -> None:
        self._kept = kept
        self._account = account

    def get(self, key: str) -> bytes | None:
        return self._kept.get((self._account(), key))

    def set(self, key: str, value: bytes, expires: int | datetime | None = None) -> None:  # noqa: ARG002
        self._kept.set((self._account(), key), value)

    def delete(self, key: str) -> None:
        self._kept.delete((self._account(), key))


class _Whole(CacheController):
    """Only whole answers are kept: a permanent redirect is followed anew each time, since people move repositories."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{**named, "status_codes": (200,)})


@dataclass(frozen=True)
class Passage:
    """One account's way through the gate. `account` is asked when it is needed: an App looks its installation up.

    `told` gets the account, what was asked (`read`, `write`, `graphql`) and the status, of each answer.
    """

    gate: Gate
    kept: Kept
    account: Callable[[], str]
    told: Callable[[str, str, int], None]
    refused: dict[str, float]  # when an account's token was last refused, as time.monotonic()

    def enter(self, method: str, path: str, body: bytes | str | None = None) -> None:
        """Before a request. GateShut when it would have to wait too long."""
        self.gate.enter(self.account(), price(method, path, body), _resource(path))

    def answered(self, method: str, path: str, status: int, headers: Mapping[str, str], said: str = "") -> None:
        """After an answer; header names in lower case. `said`: the body of a refusal."""
        resource = _resource(path)
        kind = "graphql" if resource == "graphql" else "read" if method in READS else "write"
        self.told(self.account(), kind, status)
        if status == UNAUTHORIZED:
            self.refused[self.account()] = time.monotonic()
        used_up = headers.get("x-ratelimit-remaining") == "0"
        limited = status in (403, 429, 503) and "retry-after" in headers
        limited = limited or status == 429 or (status == 403 and "rate limit" in said.lower())
        if limited and ("retry-after" in headers or not used_up):
            self.gate.shut(self.account(), wait_asked_for(headers) or SECONDARY_WAIT)
        elif used_up:
            self.gate.shut(self.account(), wait_asked_for(headers) or 0.0, resource)

    def limited(self, seconds: float) -> None:
        """GitHub asked to wait, in words that a retry has read."""
        self.gate.shut(self.account(), seconds)


@dataclass(frozen=True)
class Passages:
    """What the clients of a process share. By default nobody is slowed down or told."""

    gate: Gate = field(
        default_factory=lambda: Gate(Rates(content_per_minute=0, content_per_hour=0, points_per_minute=0))
    )
    kept: Kept = field(default_factory=Kept)
    told: Callable[[str, str, int], None] = lambda *_: None
    refused: dict[str, float] = field(default_factory=dict)

    def of(self, account: str | Callable[[], str]) -> Passage:
        asked = account if callable(account) else lambda: account
        return Passage(self.gate, self.kept, asked, self.told, self.refused)


class GatedAdapter(CacheControlAdapter):
    """Sends what the gate lets through. Whatever was kept is asked about anew, with its ETag: GitHub answers 304 where
    it still holds, which costs nothing of the primary limit, and its `max-age` never makes us believe an old answer."""

    def __init__(self, passage: Passage, **named: Any) -> None:
        super().__init__(cache=_OfAccount(passage.kept, passage.account), controller_class=_Whole, **named)
        self._passage = passage

    def send(self, request: PreparedRequest, *arguments: Any, **named: Any) -> Response:
        method, path = request.method or "GET", request.path_url
        if method == "GET":
            request.headers["Cache-Control"] = "max-age=0"
        response = self._send(method, path, request, *arguments, **named)
        if response.status_code == NOT_MODIFIED and request.headers.pop("If-None-Match", None) is not None:
            # What it confirms was dropped meanwhile, for others.
            self._passage.kept.delete((self._passage.account(), self.controller.cache_url(request.url or "")))
            response = self._send(method, path, request, *arguments, **named)
        return response

    def _send(self, method: str, path: str, request: PreparedRequest, *arguments: Any, **named: Any) -> Response:
        body = request.body if isinstance(request.body, bytes | str) else None
        self._passage.enter(method, path, body)
        response = super().send(request, *arguments, **named)
        status = NOT_MODIFIED if getattr(response, "from_cache", False) else response.status_code
        said = response.text if status == 403 else ""
        headers = {name.lower(): value for name, value in response.headers.items()}
        self._passage.answered(method, path, status, headers, said)
        return response


def _resource(path: str) -> Resource:
    return "graphql" if path.partition("?")[0].endswith("/graphql") else "core"
