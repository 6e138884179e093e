"""Work of this process that can be told to stop: by a person, a lost lease, its deadline, or the end of the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from math import inf
from threading import Event
from uuid import UUID

from sqlalchemy.orm import Session

from worker.errors import DeadlinePassed, LeaseLost, ServiceError, ShuttingDown
from worker.runs.states import Lease


class Interruption(StrEnum):
    """Why work was broken off."""

    LOST = "lost"  #: its lease is gone, or nobody waits for it any more
    CANCELLED = "cancelled"  #: a person asked, and it is the holder's to write the end
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"


class Work:
    """`cancel` interrupts what is in flight (a model call, a command); `check()` says why, between effects."""

    def __init__(
        self, stage: str, run_id: UUID | None = None, *, wanted: Callable[[Session], bool] = lambda _: True
    ) -> None:
        self.stage = stage
        self.run_id = run_id
        self.wanted = wanted
        self.cancel = Event()
        self.why: Interruption | None = None
        self.detail = ""
        self.started = time.monotonic()
        self.deadline = inf  #: a time.monotonic() value
        self.interrupted_at = inf
        self.abandoned = False  #: it did not come back: nothing is renewed for it any more

    def limit(self, seconds: float) -> None:
        """It has to be over this long after its start."""
        self.deadline = self.started + seconds

    def restart(self, seconds: float) -> None:
        """The next piece of the same work begins now."""
        self.started = time.monotonic()
        self.limit(seconds)

    def interrupt(self, why: Interruption) -> None:
        """The first reason stands; only a lost lease overrules it, since then nothing may be written."""
        if self.why is None or why is Interruption.LOST:
            self.why = why
        self.interrupted_at = min(self.interrupted_at, time.monotonic())
        self.cancel.set()

    @property
    def lost(self) -> bool:
        return self.why is Interruption.LOST

    def check(self) -> None:
        """LeaseLost, DeadlinePassed or ShuttingDown when it was interrupted for that."""
        error = self._error()
        if error is not None:
            raise error

    def _error(self) -> ServiceError | None:
        if self.why is Interruption.LOST:
            return LeaseLost(f"run {self.run_id}: {self.detail or 'it is no longer wanted'}")
        if self.why is Interruption.DEADLINE:
            return DeadlinePassed(f"{self.stage}: not done after {self.deadline - self.started:.0f} s")
        if self.why is Interruption.SHUTDOWN:
            return ShuttingDown("the worker is shutting down")
        return None


class Holding(Work):
    """Work under a lease. A cancelled one goes on to its own end: `cancelled_by` says who asked."""

    def __init__(self, lease: Lease, stage: str, until: float) -> None:
        super().__init__(stage, lease.run_id)
        self.lease = lease
        self.until = until  #: by `own_clock`; renewed with every beat
        self.cancelled_by: str | None = None
        self.call_back: str | None = None  #: why it is to be given back at the end of its step

    def lose(self, why: str) -> None:
        self.detail = why
        self.interrupt(Interruption.LOST)

    def cancelled(self, by: str) -> None:
        self.cancelled_by = by
        self.interrupt(Interruption.CANCELLED)
