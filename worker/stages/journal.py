"""A trajectory's journal in the store, under its run's lease."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from agent.errors import Cancelled
from agent.types import Step, Usage
from worker.errors import Paused, ShuttingDown
from worker.holding import Holding
from worker.runs import ledger
from worker.store.session import Store


@dataclass(frozen=True, kw_only=True)
class LeasedJournal:
    """Writes a trajectory to the store under its lease. Three short transactions a step; none is open in between.

    A shutdown or a pause lets a step that was begun end. A step that was broken off (the grace is over, a deadline) is
    not kept, as though it had not begun; what its model call cost is.
    """

    store: Store
    holding: Holding
    stopping: threading.Event
    profile: str
    model: str
    _in_step: threading.Event = field(default_factory=threading.Event, init=False)

    def checkpoint(self) -> None:
        self.holding.check()
        if self.holding.cancelled_by is not None:
            raise Cancelled(f"cancelled by {self.holding.cancelled_by}")
        if self._in_step.is_set():
            return
        if self.stopping.is_set():
            raise ShuttingDown("the worker is shutting down")
        if self.holding.call_back:
            raise Paused("given back: paused")

    def spend(self, call: int, usage: Usage, usd: float, seconds: float) -> None:
        self._in_step.set()
        with self.store.transaction() as session:
            ledger.book(
                session,
                self.holding.lease,
                call=call,
                usage=usage,
                cost=usd,
                seconds=seconds,
                profile=self.profile,
                model=self.model,
            )

    def step(self, step: Step) -> None:
        self.holding.check()
        with self.store.transaction() as session:
            ledger.record_step(session, self.holding.lease, step)
        self._in_step.clear()
