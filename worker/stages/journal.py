"""A trajectory's journal in the store, under its run's lease."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from agent.errors import Cancelled
from agent.types import Step, Usage
from worker.errors import Transient
from worker.heartbeat import Holding
from worker.runs import ledger
from worker.store.session import Store


class ShuttingDown(Transient):
    """This worker is asked to stop; the run goes on elsewhere."""


@dataclass(frozen=True, kw_only=True)
class LeasedJournal:
    """Writes a trajectory to the store under its lease. Three short transactions a step; none is open in between."""

    store: Store
    holding: Holding
    stopping: threading.Event
    profile: str
    model: str

    def checkpoint(self) -> None:
        self.holding.check()
        if self.holding.cancelled_by is not None:
            raise Cancelled(f"cancelled by {self.holding.cancelled_by}")
        if self.stopping.is_set():
            raise ShuttingDown("the worker is shutting down")

    def spend(self, call: int, usage: Usage, usd: float, seconds: float) -> None:
        self.holding.check()
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
