"""The sweep's part of the lanes: missing ones are added, and those that nobody needs are removed."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import and_, delete, exists, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from worker.store.lanes import Lane
from worker.store.models import Run, RunState

MEMORY = timedelta(hours=1)  # an emptied lane keeps its place: one that is filled run by run must not always come first

_QUEUED_IN_LANE = and_(
    Run.state == RunState.QUEUED,
    Run.profile == Lane.profile,
    Run.priority == Lane.priority,
    Run.repository == Lane.repository,
)


def mend(session: Session) -> int:
    """Lanes that are missing are added. Returns how many were."""
    missing = (
        select(Run.profile, Run.priority, Run.repository)
        .where(Run.state == RunState.QUEUED, ~exists().where(_QUEUED_IN_LANE).correlate(Run))
        .distinct()
    )
    columns = ["profile", "priority", "repository"]
    added = insert(Lane).from_select(columns, missing, include_defaults=False).on_conflict_do_nothing()
    return len(session.execute(added.returning(Lane.repository)).all())


def tidy(session: Session, *, limit: int = 1000) -> int:
    """Lanes without runs are removed once nobody remembers their last claim. Returns how many."""
    key = tuple_(Lane.profile, Lane.priority, Lane.repository)
    empty = [
        func.coalesce(Lane.last_claimed_at, Lane.opened_at) < func.now() - MEMORY,
        ~exists().where(_QUEUED_IN_LANE).correlate(Lane),
    ]
    found = session.execute(
        select(Lane.profile, Lane.priority, Lane.repository)
        .where(*empty)
        .order_by(Lane.profile, Lane.priority, Lane.repository)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not found:
        return 0
    # Looked at again by a second statement: a run may have been queued before the lock was had, and is seen now.
    gone = delete(Lane).where(key.in_([tuple(row) for row in found]), *empty).returning(Lane.repository)
    return len(session.execute(gone.execution_options(synchronize_session=False)).all())
