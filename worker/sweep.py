"""The queue's backup: what was not picked up is announced again, and what a lost worker held is freed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from worker import wakes
from worker.observe import Watch
from worker.runs import (
    budget_words,
    budgets,
    caps,
    notifications,
    progress,
    quarantine,
    remarks,
    requests,
    setups,
    states,
)
from worker.runs.accounts import DayLimits
from worker.runs.caps import Caps
from worker.store import lane_upkeep, lanes, queries
from worker.store.models import Run, RunState
from worker.store.session import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The task body of `sweep`. Two at once do no harm: each takes the rows that the other has not (SKIP LOCKED)."""

    store: Store
    send: Callable[[wakes.Wake], None]
    repository_slots: int = lanes.REPOSITORY_SLOTS
    days: DayLimits = field(default_factory=DayLimits)
    quarantine_hours: float = 24.0
    caps: Caps = field(default_factory=Caps)
    watch: Watch = field(default_factory=Watch)

    def __call__(self) -> None:
        """Each part by itself: what one of them stumbles over must not keep the others from their work."""
        failed: list[Exception] = []
        for part in (
            self._free_leases,
            self._end_cancelled,
            self._mind_money,
            self._mend_lanes,
            self._see_to_remarks,
            self._let_go,
            self._announce,
        ):
            try:
                part()
            except Exception as error:
                log.exception("sweep_part_failed", extra={"part": part.__name__})
                failed.append(error)
        if failed:
            raise failed[0]

    def _free_leases(self) -> None:
        with self.store.transaction() as session:
            expired = states.expire(session)
            runs = {run_id: session.get_one(Run, run_id) for run_id, state in expired if state is RunState.FAILED}
        for run_id, state in expired:
            self.watch.taken_over()
            log.warning("lease_expired", extra={"run_id": run_id, "to": state.value})
            if state is RunState.FAILED:
                run = runs[run_id]
                self.watch.ended(state=state.value, outcome=run.outcome, kind=run.kind.value, profile=run.profile)
                self.send(wakes.deliver(run_id))

    def _end_cancelled(self) -> None:
        with self.store.transaction() as session:
            cancelled = requests.end_cancelled(session)
        for run_id in cancelled:
            self.send(wakes.deliver(run_id))

    def _mend_lanes(self) -> None:
        with self.store.transaction() as session:
            added = lane_upkeep.mend(session)
        with self.store.transaction() as session:
            lane_upkeep.tidy(session)
        if added:
            log.warning("lanes_mended", extra={"count": added})

    def _see_to_remarks(self) -> None:
        """What was said while a run was at work, once it has ended: a request of our own, handled as any other."""
        with self.store.transaction() as session:
            for request in remarks.left_waiting(session):
                requests.ask(session, request)

    def _mind_money(self) -> None:
        with self.store.transaction() as session:
            budgets.release_stale(session)
            budgets.refresh(session, self.days)
            budgets.forget_reasons(session)
            budget_words.tell_used_up(session)
        with self.store.transaction() as session:
            for kept in quarantine.judge(session, hours=self.quarantine_hours):
                log.warning("quarantined", extra={"repository": kept.repository, "issue": kept.issue_number})

    def _let_go(self) -> None:
        """Changes that a cap held. What is let go is announced with the rest."""
        with self.store.transaction() as session:
            caps.release_all(session, self.caps)
        with self.store.transaction() as session:
            looked_at = caps.due(session)
        for run_id in looked_at:
            self.send(wakes.deliver(run_id))

    def _announce(self) -> None:
        """Each of these is due again only after a while, which doubles as long as nobody takes it."""
        with self.store.transaction() as session:
            profiles = lanes.due_profiles(session, repository_slots=self.repository_slots)
            deliveries = queries.due_deliveries(session)
            stages = queries.due_stages(session)
            waiting = queries.due_setups(session, setups.HELD)
            untold = notifications.due(session)
            changed = progress.due(session)
        for profile in profiles:
            self.send(wakes.permit(profile))
        if deliveries:
            self.send(wakes.intake())
        if untold:
            self.send(wakes.notify())
        for run_id in changed:
            self.send(wakes.tell(run_id))
        for run_id in waiting:
            self.send(wakes.setup(run_id))
        for run_id, verified in stages:
            self.send(wakes.deliver(run_id) if verified else wakes.verify(run_id))
