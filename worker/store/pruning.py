"""What is forgotten in time. The ledger (spends), runs, patches and evidence never are.

Each function looks at rows of a certain age and takes a limited number, so that a caller that repeats it holds no lock
for long; `count_only` says how many there are and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, null, select, update
from sqlalchemy.orm import Session

from worker.store.evidence import Baseline
from worker.store.models import Delivery, DeliveryState, Run, RunState
from worker.store.steps import Step

BATCH = 2000
_ENDED = (RunState.DELIVERED, RunState.FAILED, RunState.CANCELLED)


def _before(days: int) -> ColumnElement[Any]:
    return func.now() - timedelta(days=days)


def requests(session: Session, *, days: int, count_only: bool = False) -> int:
    """What people wrote in issues, kept with a delivery: emptied once the delivery is done with."""
    old = (
        Delivery.state != DeliveryState.RECEIVED,
        Delivery.request.is_not(None),
        func.coalesce(Delivery.handled_at, Delivery.received_at) < _before(days),
    )
    if count_only:
        return session.scalar(select(func.count()).select_from(Delivery).where(*old)) or 0
    batch = select(Delivery.id).where(*old).limit(BATCH)
    # SQL's NULL: None would become a JSON null, which is a value.
    statement = update(Delivery).where(Delivery.id.in_(batch)).values(request=null()).returning(Delivery.id)
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())


def deliveries(session: Session, *, days: int, count_only: bool = False) -> int:
    """Deliveries that are done with. From then on a repetition of one would count as new, so keep them for long."""
    old = (
        Delivery.state != DeliveryState.RECEIVED,
        func.coalesce(Delivery.handled_at, Delivery.received_at) < _before(days),
    )
    if count_only:
        return session.scalar(select(func.count()).select_from(Delivery).where(*old)) or 0
    batch = select(Delivery.id).where(*old).limit(BATCH)
    statement = delete(Delivery).where(Delivery.id.in_(batch)).returning(Delivery.id)
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())


def steps(session: Session, *, days: int, count_only: bool = False) -> int:
    """The steps of runs that ended. What they cost stays in the ledger."""
    ended = select(Run.id).where(Run.state.in_(_ENDED), Run.finished_at < _before(days))
    old = (Step.run_id.in_(ended),)
    if count_only:
        return session.scalar(select(func.count()).select_from(Step).where(*old)) or 0
    batch = select(Step.id).where(*old).limit(BATCH)
    statement = delete(Step).where(Step.id.in_(batch)).returning(Step.id)
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())


def baselines(session: Session, *, days: int, count_only: bool = False) -> int:
    """How commits' tests ended long ago, and claims that nobody has any more."""
    old = (func.coalesce(Baseline.taken_at, Baseline.claimed_until) < _before(days),)
    if count_only:
        return session.scalar(select(func.count()).select_from(Baseline).where(*old)) or 0
    batch = select(Baseline.id).where(*old).limit(BATCH)
    statement = delete(Baseline).where(Baseline.id.in_(batch)).returning(Baseline.id)
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())


def ended_runs(session: Session, run_ids: Sequence[UUID], *, since: timedelta) -> Sequence[UUID]:
    """Those of `run_ids` that ended at least so long ago."""
    statement = select(Run.id).where(Run.id.in_(run_ids), Run.state.in_(_ENDED), Run.finished_at < func.now() - since)
    return session.scalars(statement).all()
