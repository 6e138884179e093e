"""A task body that a backlog of equal messages runs once: whoever comes again too soon has nothing to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Paced:
    """Calls `body` at most once in `seconds` by this process's monotonic clock; other calls return at once.

    A message's own expiry would compare the clocks of two machines: a worker that is minutes ahead of beat would
    throw away every one.
    """

    body: Callable[[], None]
    seconds: float
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _next: float = field(default=0.0, init=False)

    def __call__(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + self.seconds
        self.body()
