"""Which phase of a run its issue was told of, and when it is to be told again."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from worker.store.models import LIVE, Run, RunKind, RunState

SETTLING_SECONDS = 5.0  # what passes sooner than that is not worth a comment's edit
AGAIN_SECONDS = 60.0  # between two looks at a run that is worked on; longer and longer the longer it takes


class Phase(StrEnum):
    QUEUED = "queued"
    WORKING = "working"
    CHECKING = "checking"
    ENDED = "ended"


_PHASES = {RunState.QUEUED: Phase.QUEUED, RunState.RUNNING: Phase.WORKING, RunState.CONCLUDED: Phase.CHECKING}


def phase(run: Run) -> Phase:
    return _PHASES.get(run.state, Phase.ENDED)


def _phase_sql() -> ColumnElement[str]:
    return case({state.value: one.value for state, one in _PHASES.items()}, value=Run.state, else_=Phase.ENDED.value)


def due(session: Session, *, limit: int = 50) -> Sequence[UUID]:
    """Live runs whose issue was told another phase, or that are worked on for long: each message is noted as told, so
    that none is sent twice in a row."""
    worked = func.extract("epoch", func.now() - func.coalesce(Run.started_at, Run.queued_at))
    silent = func.extract("epoch", func.now() - func.coalesce(Run.told_at, Run.queued_at))
    found = (
        select(Run.id)
        .where(
            Run.state.in_(LIVE),
            Run.kind != RunKind.EXPLAIN,  # whoever asks gets the answer
            or_(
                and_(Run.told_phase.is_distinct_from(_phase_sql()), silent >= SETTLING_SECONDS),
                and_(Run.state == RunState.RUNNING, silent >= func.greatest(AGAIN_SECONDS, worked / 2)),
            ),
        )
        .order_by(Run.told_at.nulls_first())
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = update(Run).where(Run.id.in_(found)).values(told_at=func.now()).returning(Run.id)
    return session.scalars(statement.execution_options(synchronize_session=False)).all()


def seconds_at_work(session: Session, run: Run) -> float:
    """Since it was first claimed, by the database's clock."""
    since = func.extract("epoch", func.now() - func.coalesce(Run.started_at, Run.queued_at))
    return float(session.scalar(select(since).where(Run.id == run.id)) or 0.0)


def noted(session: Session, run: Run) -> Phase:
    """This phase is about to be shown; whether that works is the next change's to mend."""
    now = phase(run)
    session.execute(
        update(Run)
        .where(Run.id == run.id)
        .values(told_phase=now, told_at=func.now())
        .execution_options(synchronize_session=False)
    )
    return now


def found(session: Session, run_id: UUID, comment_id: int) -> Phase | None:
    """Where it was shown; and the phase that the run is in by now."""
    statement = (
        update(Run)
        .where(Run.id == run_id)
        .values(status_comment_id=comment_id)
        .returning(Run.state)
        .execution_options(synchronize_session=False)
    )
    state = session.scalar(statement)
    return None if state is None else _PHASES.get(state, Phase.ENDED)
