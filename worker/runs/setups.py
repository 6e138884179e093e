"""What a repository's set-up does to the runs that wait for it. No lease: each write changes only a run that still
waits, so doing it twice is the same as once."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from agent.outcome import Outcome
from agent.types import ExitStatus
from worker.runs import states
from worker.store.models import Run, RunState
from worker.store.text import clean

HELD = "setup"

# Queued and held, or concluded and its layer went missing before its evidence was taken.
_WAITS = or_(
    and_(Run.state == RunState.QUEUED, Run.held_reason == HELD),
    and_(Run.state == RunState.CONCLUDED, Run.outcome.is_(None), Run.lease_owner.is_(None)),
)


def waiting(session: Session, run_id: UUID, *, lock: bool = False) -> Run | None:
    """The run, if it waits for a set-up now."""
    statement = select(Run).where(Run.id == run_id, _WAITS)
    return session.scalar(statement.with_for_update() if lock else statement)


def wanted(session: Session, repository: str) -> bool:
    """Whether any run of the repository waits for a set-up."""
    return session.scalar(select(Run.id).where(Run.repository == repository, _WAITS).limit(1)) is not None


def release(session: Session, run_id: UUID, key: str | None) -> Run | None:
    """The set-up is there (None: none is needed): the run may be claimed. None when it no longer waited."""
    statement = (
        update(Run)
        .where(Run.id == run_id, _WAITS)
        .values(
            held_reason=None,
            setup_key=key,
            reason=None,
            not_before=None,
            publish_after=func.now() + timedelta(seconds=5),
            # The agent has all its tries, however many the set-up took; a layer made anew gives none back.
            attempt=case((Run.started_at.is_(None), 0), else_=Run.attempt),
        )
        .returning(Run)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    return session.scalar(statement)


def hold(session: Session, lease: states.Lease) -> None:
    """A claimed run whose layer is gone waits for it again; that is no attempt."""
    states.advance(
        session,
        lease,
        RunState.QUEUED,
        held_reason=HELD,
        reason="its set-up has to be made again",
        publish_after=func.now() + timedelta(seconds=5),
    )


def conclude(session: Session, run_id: UUID, *, reason: str, log: str) -> bool:
    """The set-up failed: the run ends without an agent, to be delivered. False when it no longer waited."""
    run = waiting(session, run_id, lock=True)
    if run is None:
        return False
    ending = {
        "held_reason": None,
        "outcome": Outcome.SETUP_FAILED,
        "reason": clean(reason),
        "setup_log": clean(log),
        "not_before": None,
        "publish_after": func.now() + timedelta(seconds=5),
    }
    if run.state is RunState.QUEUED:
        states.override(session, run_id, RunState.CONCLUDED, exit_status=ExitStatus.ERROR, **ending)
    else:
        session.execute(update(Run).where(Run.id == run_id).values(**ending, lease_token=Run.lease_token + 1))
    return True


def postpone(session: Session, run_id: UUID, *, reason: str, seconds: float) -> bool:
    """Our own failure: again later, until the attempts are used up. True when the run failed now."""
    run = waiting(session, run_id, lock=True)
    if run is None:
        return False
    if run.attempt + 1 >= run.max_attempts:
        states.override(session, run_id, RunState.FAILED, held_reason=None, reason=clean(f"given up: {reason}"))
        return True
    later = func.now() + timedelta(seconds=seconds)
    session.execute(
        update(Run)
        .where(Run.id == run_id)
        .values(attempt=Run.attempt + 1, reason=clean(reason), not_before=later, publish_after=later, announced=0)
    )
    return False
