"""Windows of requests in this process, and what those in Redis have to offer, too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from limits import RateLimitItem
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

SHORTEST_WAIT = 0.02


class WindowsGone(Exception):
    """What holds the windows can't be asked now; the message names why."""


class SharedWindows(Protocol):
    """Those of all workers. Used inside `translated`, which raises WindowsGone."""

    def translated(self) -> AbstractContextManager[None]: ...

    def shut(self, name: str, seconds: float) -> None: ...

    def shut_for(self, name: str) -> float:
        """Seconds; 0: open."""

    def room_in(self, item: RateLimitItem, account: str, cost: int) -> float:
        """Seconds until there may be room; 0: there is."""

    def hit(self, item: RateLimitItem, account: str, cost: int) -> bool: ...

    def close(self) -> None: ...


def room_in(limiter: MovingWindowRateLimiter, item: RateLimitItem, account: str, cost: int) -> float:
    """Seconds until there may be room; 0: there is."""
    if limiter.test(item, account, cost=cost):
        return 0.0
    return max(limiter.get_window_stats(item, account).reset_time - time.time(), SHORTEST_WAIT)


class LocalWindows:
    """This process's own windows."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def shut(self, name: str, seconds: float) -> None:
        with self._lock:
            self._until[name] = max(self._until.get(name, 0.0), self._clock() + seconds)

    def shut_for(self, name: str) -> float:
        with self._lock:
            return max(self._until.get(name, 0.0) - self._clock(), 0.0)

    def room_in(self, item: RateLimitItem, account: str, cost: int) -> float:
        return room_in(self._limiter, item, account, cost)

    def hit(self, item: RateLimitItem, account: str, cost: int) -> bool:
        return self._limiter.hit(item, account, cost=cost)
