"""Windows of requests in Redis. A module of its own, since most commands need no Redis client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from limits import RateLimitItem
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis import Redis, RedisError

from worker.adapters.forge.windows import WindowsGone, room_in

PREFIX = "devstral-fix:github"
REDIS_SECONDS = 2.0  # for one question to Redis

_SHUT = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) end
"""  # only ever later


class RedisWindows:
    """The windows of all workers, in Redis."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)
        self._shut = self._redis.register_script(_SHUT)
        self._limiter = MovingWindowRateLimiter(
            RedisStorage("redis://", connection_pool=self._redis.connection_pool, key_prefix=PREFIX)
        )

    def shut(self, name: str, seconds: float) -> None:
        self._shut(keys=[f"{PREFIX}:shut:{name}"], args=[max(int(seconds * 1000), 1)])

    def shut_for(self, name: str) -> float:
        left = int(self._redis.pttl(f"{PREFIX}:shut:{name}"))  # negative: not there
        return max(left, 0) / 1000

    def room_in(self, item: RateLimitItem, account: str, cost: int) -> float:
        return room_in(self._limiter, item, account, cost)

    def hit(self, item: RateLimitItem, account: str, cost: int) -> bool:
        return self._limiter.hit(item, account, cost=cost)

    @contextmanager
    def translated(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            raise WindowsGone(type(error).__name__) from error

    def close(self) -> None:
        self._redis.close()
