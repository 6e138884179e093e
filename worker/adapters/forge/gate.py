"""The gate before GitHub: what all workers of a deployment ask of it together stays below its limits.

GitHub's "Rate limits for the REST API" names the numbers: at most 80 content-creating requests a minute and 500 an
hour, 900 points a minute (a read is 1, a write 5), and `Retry-After` or a used-up primary limit say when to come back.
The windows stand in Redis, one set for each account: an installation, the App itself, or a token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from pydantic import Field

from agent.types import Frozen
from worker.adapters.forge.windows import SHORTEST_WAIT, LocalWindows, SharedWindows, WindowsGone

log = logging.getLogger(__name__)

LOCAL_SECONDS = 10.0  # without Redis, before it is asked again

Resource = Literal["core", "graphql"]


class Rates(Frozen):
    """What one account may ask; 0: no such limit (GitHub Enterprise Server has none unless its owners set some)."""

    content_per_minute: int = Field(default=80, ge=0)
    content_per_hour: int = Field(default=500, ge=0)
    points_per_minute: int = Field(default=900, ge=0)


class Price(Frozen):
    """What a request costs: `points` of the minute, and whether it creates content."""

    points: int
    content: bool


class GateShut(Exception):
    """The next request would have to wait longer than a caller does: `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Gate:
    """One per process. Safe for threads, and exact over processes while Redis is there.

    Without Redis the same limits hold in this process alone, with a warning: GitHub's own answers still shut the gate,
    and a run that GitHub would have taken is not refused for our own trouble.
    """

    def __init__(
        self,
        rates: Rates | None = None,
        *,
        redis_url: str | None = None,
        max_wait: float = 10.0,
        waited: Callable[[str, float], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`waited` is told the account and the seconds of every entry. `clock`: seconds, of what GitHub asked for."""
        rates = rates or Rates()
        self._content: list[RateLimitItem] = [
            item
            for amount, item in (
                (rates.content_per_hour, RateLimitItemPerHour(max(rates.content_per_hour, 1), namespace="content")),
                (
                    rates.content_per_minute,
                    RateLimitItemPerMinute(max(rates.content_per_minute, 1), namespace="content"),
                ),
            )
            if amount
        ]
        points = RateLimitItemPerMinute(max(rates.points_per_minute, 1), namespace="points")
        self._points: list[RateLimitItem] = [points] if rates.points_per_minute else []
        self._max_wait = max_wait
        self._waited = waited
        self._local = LocalWindows(clock)
        self._shared = None if redis_url is None else _shared(redis_url)
        self._without_until = 0.0

    def enter(self, account: str, price: Price, resource: Resource = "core") -> None:
        """Wait for room, `max_wait` seconds at most. GateShut when it would take longer: nothing was counted then."""
        started = time.monotonic()
        left = [(item, min(price.points, item.amount)) for item in self._points]
        if price.content:
            left = [(item, 1) for item in self._content] + left
        while True:
            wait, why = self._wait(account, resource, left)
            if wait <= 0:
                left = [(item, cost) for item, cost in left if not self._hit(item, account, cost)]
                if not left:
                    self._waited(account, time.monotonic() - started)
                    return
                continue  # another worker was quicker
            if time.monotonic() - started + wait > self._max_wait:
                raise GateShut(why, retry_after=wait)
            time.sleep(max(wait, SHORTEST_WAIT))

    def shut(self, account: str, seconds: float, resource: Resource | None = None) -> None:
        """GitHub asked this account to wait: nobody of this deployment enters until then."""
        if seconds <= 0:
            return
        log.warning("github_asks_to_wait", extra={"account": account, "seconds": seconds})
        self._local.shut(_name(account, resource), seconds)
        with self._redis() as shared:
            if shared is not None:
                shared.shut(_name(account, resource), seconds)

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()

    def _wait(self, account: str, resource: Resource, wanted: list[tuple[RateLimitItem, int]]) -> tuple[float, str]:
        names = [_name(account, None), _name(account, resource)]
        told = max(self._local.shut_for(name) for name in names)
        with self._redis() as shared:
            if shared is not None:
                told = max(told, *(shared.shut_for(name) for name in names))
        if told > 0:
            return told, f"GitHub asked {account} to wait"
        longest, why = 0.0, ""
        for item, cost in wanted:
            seconds = self._room_in(item, account, cost)
            if seconds > longest:
                longest, why = (
                    seconds,
                    f"{account} has used up {item.amount} {item.namespace} per {item.GRANULARITY.name}",
                )
        return longest, why

    def _room_in(self, item: RateLimitItem, account: str, cost: int) -> float:
        with self._redis() as shared:
            if shared is not None:
                return shared.room_in(item, account, cost)
        return self._local.room_in(item, account, cost)

    def _hit(self, item: RateLimitItem, account: str, cost: int) -> bool:
        with self._redis() as shared:
            if shared is not None:
                return shared.hit(item, account, cost)
        return self._local.hit(item, account, cost)

    @contextmanager
    def _redis(self) -> Iterator[SharedWindows | None]:
        """The shared windows; None where there are none now. What they fail at inside is left undone."""
        if self._shared is None or time.monotonic() < self._without_until:
            yield None
            return
        try:
            with self._shared.translated():
                yield self._shared
        except WindowsGone as error:
            self._without_until = time.monotonic() + LOCAL_SECONDS
            log.warning("github_limits_without_redis", extra={"why": str(error), "seconds": LOCAL_SECONDS})


def _name(account: str, resource: Resource | None) -> str:
    return account if resource is None else f"{account}:{resource}"


def _shared(url: str) -> SharedWindows:
    from worker.adapters.forge.redis_windows import RedisWindows  # noqa: PLC0415 - most commands need no Redis client

    return RedisWindows(url)
