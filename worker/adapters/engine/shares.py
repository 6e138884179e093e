"""Whose GPU time it was: at every moment the calls in flight share it equally, so that all shares add up to the time
the engine was busy, whatever overlaps."""

from __future__ import annotations

import time
from collections.abc import Callable


class Shares:
    """A running total of 1/n over time, n being the calls in flight: what it grows by between a call's start and its
    end is that call's share. Each event costs the same, however many are in flight. Not for several threads."""

    def __init__(self, *, gpus: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """`gpus`: how many one engine step keeps busy; GPU-seconds are that many a second."""
        self._gpus = gpus
        self._clock = clock
        self._total = 0.0
        self._calls = 0
        self._last = clock()
        self._busy = self._idle = 0.0

    def enter(self) -> float:
        """A call begins; what to give to `leave`."""
        self._advance()
        self._calls += 1
        return self._total

    def leave(self, mark: float) -> float:
        """The call ended: its share in GPU-seconds."""
        self._advance()
        self._calls -= 1
        return (self._total - mark) * self._gpus

    def times(self) -> tuple[float, float]:
        """Seconds with and without calls in flight so far."""
        self._advance()
        return self._busy, self._idle

    def _advance(self) -> None:
        now = self._clock()
        passed, self._last = now - self._last, now
        if self._calls:
            self._total += passed / self._calls
            self._busy += passed
        else:
            self._idle += passed
