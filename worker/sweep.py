"""The queue's backup: what was not picked up is announced again, and what a lost worker held is freed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from worker import wakes
from worker.runs import requests, setups, states
from worker.store import queries
from worker.store.models import RunState
from worker.store.session import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The task body of `sweep`; running it twice at once is harmless (rows are taken with SKIP LOCKED)."""

    store: Store
    send: Callable[[wakes.Wake], None]

    def __call__(self) -> None:
        with self.store.transaction() as session:
            expired = states.expire(session)
        for run_id, state in expired:
            log.warning("lease_expired", extra={"run_id": run_id, "to": state.value})
            if state is RunState.FAILED:
                self.send(wakes.deliver(run_id))
        with self.store.transaction() as session:
            cancelled = requests.end_cancelled(session)
        for run_id in cancelled:
            self.send(wakes.deliver(run_id))
        with self.store.transaction() as session:
            deliveries = queries.due_deliveries(session)
            runs = queries.due_runs(session)
            waiting = queries.due_setups(session, setups.HELD)
        for run_id in waiting:
            self.send(wakes.setup(run_id))
        if deliveries:
            self.send(wakes.intake())
        for run_id, state, profile, verified in runs:
            if state is RunState.QUEUED:
                self.send(wakes.permit(profile))
            else:
                self.send(wakes.deliver(run_id) if verified else wakes.verify(run_id))
