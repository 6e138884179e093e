"""Conditions on runs, in SQL: whether what a run belongs to is paused (`worker.runs.pausing` says what that means)."""

from __future__ import annotations

from sqlalchemy import ColumnElement, exists, func, or_

from worker.store.models import Run, RunState
from worker.store.operations import Switch

EVERYTHING = "*"


def _of_run() -> ColumnElement[bool]:
    return or_(Switch.scope == EVERYTHING, Switch.scope == func.lower(Run.repository))


def allow() -> ColumnElement[bool]:
    """Nothing that the run belongs to is paused."""
    return ~exists().where(_of_run())


def call_back() -> ColumnElement[bool]:
    """It is to be given back at the end of its step."""
    return exists().where(_of_run(), Switch.at_once)


def announced() -> ColumnElement[bool]:
    """It may go on, so its wake-up is worth sending: evidence is taken during a pause, too."""
    return or_((Run.state == RunState.CONCLUDED) & Run.outcome.is_(None), allow())
