"""The gate before GitHub: what all workers of a deployment ask of it together stays below its limits.

GitHub's "Rate limits for the REST API" names the numbers: at most 80 content-creating requests a minute and 500 an
hour, 900 points a minute (a read is 1, a write 5), and `Retry-After` or a used-up primary limit say when to come back.
The windows stand in Redis, one set for each account: an installation, the App itself, or a token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter
from pydantic import Field
from redis import Redis, RedisError

from agent.types import Frozen

log = logging.getLogger(__name__)

PREFIX = "devstral-fix:github"
REDIS_SECONDS = 2.0  # for one question to Redis
LOCAL_SECONDS = 10.0  # without Redis, before it is asked again
SHORTEST_WAIT = 0.02

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
    ) -> None:
        """`waited` is told the account and the seconds of every entry."""
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
        self._local = _Local()
        self._shared = None if redis_url is None else _Shared(redis_url)
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
                return shared.limiter.hit(item, account, cost=cost)
        return self._local.limiter.hit(item, account, cost=cost)

    @contextmanager
    def _redis(self) -> Iterator[_Shared | None]:
        """The shared windows; None where there are none now. What they fail at inside is left undone."""
        usable = self._shared is not None and time.monotonic() >= self._without_until
        try:
            yield self._shared if usable else None
        except RedisError as error:
            self._without_until = time.monotonic() + LOCAL_SECONDS
            log.warning("github_limits_without_redis", extra={"why": type(error).__name__, "seconds": LOCAL_SECONDS})


def _name(account: str, resource: Resource | None) -> str:
    return account if resource is None else f"{account}:{resource}"


def _room_in(limiter: MovingWindowRateLimiter, item: RateLimitItem, account: str, cost: int) -> float:
    """Seconds until there may be room; 0: there is."""
    if limiter.test(item, account, cost=cost):
        return 0.0
    return max(limiter.get_window_stats(item, account).reset_time - time.time(), SHORTEST_WAIT)


class _Local:
    """This process's own windows."""

    def __init__(self) -> None:
        self.limiter = MovingWindowRateLimiter(MemoryStorage())
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def shut(self, name: str, seconds: float) -> None:
        with self._lock:
            self._until[name] = max(self._until.get(name, 0.0), time.monotonic() + seconds)

    def shut_for(self, name: str) -> float:
        with self._lock:
            return max(self._until.get(name, 0.0) - time.monotonic(), 0.0)

    def room_in(self, item: RateLimitItem, account: str, cost: int) -> float:
        return _room_in(self.limiter, item, account, cost)


_SHUT = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) end
"""  # only ever later


class _Shared:
    """The windows of all workers, in Redis."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)
        self._shut = self._redis.register_script(_SHUT)
        self.limiter = MovingWindowRateLimiter(
            RedisStorage("redis://", connection_pool=self._redis.connection_pool, key_prefix=PREFIX)
        )

    def shut(self, name: str, seconds: float) -> None:
        self._shut(keys=[f"{PREFIX}:shut:{name}"], args=[max(int(seconds * 1000), 1)])

    def shut_for(self, name: str) -> float:
        left = int(self._redis.pttl(f"{PREFIX}:shut:{name}"))  # negative: not there
        return max(left, 0) / 1000

    def room_in(self, item: RateLimitItem, account: str, cost: int) -> float:
        return _room_in(self.limiter, item, account, cost)

    def close(self) -> None:
        self._redis.close()
