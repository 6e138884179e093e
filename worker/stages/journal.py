"""A trajectory's journal in the store, under its run's lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal

from agent.errors import Cancelled, LimitsExceeded
from agent.protocols import is_approximate
from agent.types import Limits, Price, Step, Usage
from worker.errors import LeaseLost, Paused, ShuttingDown, Transient
from worker.holding import Holding
from worker.observe import Watch
from worker.runs import budgets, ledger
from worker.runs.accounts import Amount, DayLimits, Limited
from worker.runs.budgets import Refusal
from worker.store.money import Scope
from worker.store.session import Store

# Another vocabulary than the model's own may count fewer tokens than the provider does: so much more is set aside.
APPROXIMATE = 1.5


class NoRoom(Transient):
    """A budget has no room for the run's first call: it waits in the queue, and no attempt is counted."""


@dataclass(frozen=True, kw_only=True)
class LeasedJournal:
    """Writes a trajectory to the store under its lease. Three short transactions a step; none is open in between.

    A shutdown, a pause or a drain lets a step that was begun end. A step that was broken off (the grace is over, a
    deadline) is not kept, as though it had not begun; what its model call cost is.
    """

    store: Store
    holding: Holding
    stopping: threading.Event
    profile: str
    model: str
    tokenizer: str = ""
    price: Price = field(default_factory=Price)
    limits: Limits = field(default_factory=Limits)
    days: DayLimits = field(default_factory=DayLimits)
    repository: str = ""
    engine: str = ""
    watch: Watch = field(default_factory=Watch)
    sample: int = 0
    tries: int = 1  #: that the run's own budget has to hold, each with `limits`
    no_room: threading.Event = field(default_factory=threading.Event)  #: set once a budget refused a call
    patience: float = 30.0
    """Seconds that a call waits for money that other calls have set aside and may not need."""
    _in_step: threading.Event = field(default_factory=threading.Event, init=False)

    def checkpoint(self) -> None:
        self.holding.check()
        if self.holding.cancelled_by is not None:
            raise Cancelled(f"cancelled by {self.holding.cancelled_by}")
        if self._in_step.is_set():
            return
        if self.stopping.is_set():
            raise ShuttingDown("the worker is shutting down")
        if self.holding.call_back is not None:
            raise Paused(f"given back: {self.holding.call_back}")

    @contextmanager
    def reserve(self, call: int, prompt_tokens: int, max_tokens: int) -> Iterator[None]:
        """Raises LimitsExceeded, or NoRoom where the run has done nothing yet."""
        if is_approximate(self.tokenizer):
            prompt_tokens = int(prompt_tokens * APPROXIMATE)
        worst = Amount(ledger.usd_at_most(self.price.worst(prompt_tokens, max_tokens)), prompt_tokens + max_tokens)
        self._set_aside(call, worst)
        try:
            yield
        except BaseException:
            # What went wrong matters more than a database that is down; the sweep frees it then.
            with suppress(Transient, LeaseLost), self.store.transaction() as session:
                budgets.release(session, self.holding.lease, call, sample=self.sample)
            raise

    def _set_aside(self, call: int, worst: Amount) -> None:
        usd, tokens = Decimal(str(self.limits.usd)) * self.tries, self.limits.tokens * self.tries
        limited = Limited(usd=usd, tokens=tokens, days=self.days)
        until, pause = time.monotonic() + self.patience, 0.05
        while (refusal := self._try(call, worst, limited)) is not None:
            if not refusal.passing or time.monotonic() >= until:
                if refusal.first and refusal.scope is not Scope.RUN:
                    raise NoRoom(refusal.why)
                self.no_room.set()
                raise LimitsExceeded(refusal.why)
            self.holding.cancel.wait(pause)
            self.checkpoint()
            pause = min(pause * 2, 1.0)

    def _try(self, call: int, worst: Amount, limited: Limited) -> Refusal | None:
        with self.store.transaction() as session:
            return budgets.reserve(session, self.holding.lease, call, worst, limited, sample=self.sample)

    def spend(self, call: int, usage: Usage, usd: float, seconds: float) -> None:
        if self.holding.lost:  # any other interruption is no reason not to pay
            self.holding.check()
        self._in_step.set()
        with self.store.transaction() as session:
            ledger.book(
                session,
                self.holding.lease,
                call=call,
                usage=usage,
                cost=usd,
                cost_low=min(self.price.call(usage)[0], usd),
                seconds=seconds,
                profile=self.profile,
                model=self.model,
                sample=self.sample,
            )
        self.watch.called(model=self.model, repository=self.repository, usage=usage, usd=usd, seconds=seconds)

    def step(self, step: Step) -> None:
        self.holding.check()
        with self.store.transaction() as session:
            ledger.record_step(session, self.holding.lease, step, model=self.model, sample=self.sample)
        self.watch.stepped(step, model=self.model, engine=self.engine)
        self._in_step.clear()
