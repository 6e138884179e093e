"""Conditions on runs, in SQL: whether what a run belongs to is paused (`worker.runs.pausing` says what that means), or
its worker's time is over (`worker.runs.draining`)."""

from __future__ import annotations

from sqlalchemy import ColumnElement, case, exists, func, or_

from worker.store.models import Run, RunState
from worker.store.operations import Switch, WorkerProcess

EVERYTHING = "*"


def _of_run() -> ColumnElement[bool]:
    return or_(Switch.scope == EVERYTHING, Switch.scope == func.lower(Run.repository))


def allow() -> ColumnElement[bool]:
    """Nothing that the run belongs to is paused."""
    return ~exists().where(_of_run())


def call_back() -> ColumnElement[str | None]:
    """Why it is to be given back at the end of its step; null where it is not."""
    overdue = exists().where(WorkerProcess.name == Run.lease_owner, WorkerProcess.drain_until <= func.now())
    return case((exists().where(_of_run(), Switch.at_once), "paused"), (overdue, "its worker is drained"), else_=None)


def announced() -> ColumnElement[bool]:
    """It may go on, so its wake-up is worth sending: evidence is taken during a pause, too."""
    return or_((Run.state == RunState.CONCLUDED) & Run.outcome.is_(None), allow())
