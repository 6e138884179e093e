"""Batches: many runs with one budget. One is finished when its last run is, in that run's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from worker.store.models import LIVE, Batch, Run
from worker.store.money import Account, Scope


def create(session: Session, *, name: str, by: str, budget: Decimal | None) -> Batch:
    batch = Batch(name=name, requested_by=by, budget_usd=budget)
    session.add(batch)
    session.flush()
    return batch


def set_budget(session: Session, batch_id: UUID, budget: Decimal | None) -> bool:
    """What all of its runs may spend; runs that waited for it may be claimed from then on. False: no such batch."""
    changed = update(Batch).where(Batch.id == batch_id).values(budget_usd=budget).returning(Batch.id)
    if session.scalar(changed) is None:
        return False
    account = update(Account).where(Account.scope == Scope.BATCH, Account.key == str(batch_id))
    session.execute(account.values(limit_usd=budget).execution_options(synchronize_session=False))
    return True


def grew(session: Session, batch_id: UUID) -> None:
    """A run was added: a batch that was finished is not any more."""
    session.execute(update(Batch).where(Batch.id == batch_id).values(finished_at=None))


def ended(session: Session, run_ids: Sequence[UUID]) -> Sequence[Batch]:
    """Runs came to their end: finish those of their batches in which no other run is live. Which those are."""
    if not run_ids:
        return []
    theirs = select(Run.batch_id).where(Run.id.in_(run_ids), Run.batch_id.is_not(None))
    # Locked first: of two last runs that end at once, the second then sees that the first has ended.
    batches = session.scalars(
        select(Batch.id).where(Batch.id.in_(theirs)).order_by(Batch.id).with_for_update(key_share=True)
    ).all()
    if not batches:
        return []
    live = select(Run.batch_id).where(Run.batch_id.in_(batches), Run.state.in_(LIVE))
    finished = (
        update(Batch)
        .where(Batch.id.in_(batches), Batch.id.not_in(live), Batch.finished_at.is_(None))
        .values(finished_at=func.now())
        .returning(Batch)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    return session.scalars(finished).all()


def newest(session: Session, *, limit: int) -> Sequence[Batch]:
    return session.scalars(select(Batch).order_by(Batch.id.desc()).limit(limit)).all()


def totals(session: Session, batch: Batch) -> dict[str, Any]:
    """A batch with its runs by state and outcome, and what its account says; JSON-ready."""
    states: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    unsure = Decimal(0)  # how much less they may have cost
    counted = select(Run.state, Run.outcome, func.count(), func.sum(Run.usd - Run.usd_low))
    counted = counted.where(Run.batch_id == batch.id)
    for state, outcome, count, less in session.execute(counted.group_by(Run.state, Run.outcome).order_by(Run.state)):
        unsure += less
        states[state.value] = states.get(state.value, 0) + count
        if outcome is not None:
            outcomes[outcome.value] = outcomes.get(outcome.value, 0) + count
    account = session.scalar(select(Account).where(Account.scope == Scope.BATCH, Account.key == str(batch.id)))
    spent = Decimal(0) if account is None else account.spent_usd
    return {
        "batch_id": str(batch.id),
        "name": batch.name,
        "requested_by": batch.requested_by,
        "budget_usd": None if batch.budget_usd is None else float(batch.budget_usd),
        "spent_usd": float(spent),
        "spent_usd_low": float(spent - unsure),
        "reserved_usd": 0.0 if account is None else float(account.reserved_usd),
        "calls": 0 if account is None else account.calls,
        "used_up": account is not None and account.used_up,
        "runs": states,
        "outcomes": outcomes,
        "created_at": batch.created_at.isoformat(),
        "finished_at": batch.finished_at.isoformat() if batch.finished_at else None,
    }
