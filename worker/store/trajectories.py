"""Reading a run's trajectory and its history, when several attempts have worked on it.

Attempts go on from each other's steps until one begins anew; what counts is everything since the last one that did.
A run's first try is known by its attempts, any other by its own row: an attempt may work on several.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from worker.store.attempts import Attempt
from worker.store.models import Spend
from worker.store.steps import Step
from worker.store.tries import Try


def _began(run_id: UUID, sample: int) -> ScalarSelect[int]:
    """The lease token of the attempt with which the present trajectory began."""
    if sample:
        own = select(func.coalesce(func.max(Try.began), 0)).where(Try.run_id == run_id, Try.sample == sample)
        return own.scalar_subquery()
    return (
        select(func.coalesce(func.max(Attempt.lease_token), 0))
        .where(Attempt.run_id == run_id, Attempt.first_step == 0)
        .scalar_subquery()
    )


def _of(table: type[Step | Spend], run_id: UUID, sample: int) -> tuple[ColumnElement[bool], ...]:
    return table.run_id == run_id, table.sample == sample, table.lease_token >= _began(run_id, sample)


def steps(session: Session, run_id: UUID, *, sample: int = 0) -> Sequence[Step]:
    """One trajectory in order, each index once: the newest attempt's."""
    statement = select(Step).where(*_of(Step, run_id, sample)).ext(distinct_on(Step.index))
    return session.scalars(statement.order_by(Step.index, Step.lease_token.desc())).all()


def step_count(session: Session, run_id: UUID, *, sample: int = 0) -> int:
    return session.scalar(select(func.count(Step.index.distinct())).where(*_of(Step, run_id, sample))) or 0


def call_count(session: Session, run_id: UUID, *, sample: int = 0) -> int:
    """Model calls of the trajectory, also those whose step was lost with their worker."""
    return session.scalar(select(func.count()).select_from(Spend).where(*_of(Spend, run_id, sample))) or 0


def recorded_with(session: Session, run_id: UUID, *, sample: int = 0) -> tuple[str, str] | None:
    """The model's identity and the opening that the trajectory's steps were recorded with."""
    if sample:
        own = select(Try.model, Try.opening).where(Try.run_id == run_id, Try.sample == sample)
        found = session.execute(own).one_or_none()
        return None if found is None else (found[0], found[1])
    row = session.execute(
        select(Attempt.model, Attempt.opening)
        .where(Attempt.run_id == run_id, Attempt.first_step.is_not(None))
        .order_by(Attempt.lease_token.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else (row.model or "", row.opening or "")


def attempts(session: Session, run_id: UUID) -> Sequence[Attempt]:
    return session.scalars(select(Attempt).where(Attempt.run_id == run_id).order_by(Attempt.lease_token)).all()


def models(session: Session, run_id: UUID) -> dict[str, int]:
    """Who made the run's calls, and how many each: all of the ledger, the first one first."""
    counted = select(Spend.model, func.count()).where(Spend.run_id == run_id)
    rows = session.execute(counted.group_by(Spend.model).order_by(func.min(Spend.id)))
    return {row[0]: row[1] for row in rows}


class AttemptSpend(NamedTuple):
    calls: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    usd: Decimal
    usd_low: Decimal


def spend_by_attempt(session: Session, run_id: UUID) -> dict[int, AttemptSpend]:
    """The ledger by lease token: every attempt's, whatever became of its steps."""
    sums = [func.sum(column) for column in (Spend.prompt_tokens, Spend.cached_tokens, Spend.completion_tokens)]
    low = func.coalesce(Spend.usd_low, Spend.usd)  # rows from before it was kept are taken as exact
    rows = session.execute(
        select(Spend.lease_token, func.count(), *sums, func.sum(Spend.usd), func.sum(low))
        .where(Spend.run_id == run_id)
        .group_by(Spend.lease_token)
        .order_by(Spend.lease_token)
    )
    return {
        row[0]: AttemptSpend(row[1], int(row[2]), int(row[3]), int(row[4]), Decimal(row[5]), Decimal(row[6]))
        for row in rows
    }
