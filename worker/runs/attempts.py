"""Opening and closing a run's attempts: called where a lease is handed out or ends, in that transaction."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import Text, cast, func, insert, update
from sqlalchemy.orm import Session

from worker.store.attempts import Attempt, AttemptEnd, AttemptStage


def begin(session: Session, run_id: UUID, token: int, *, stage: AttemptStage, owner: str) -> None:
    """Open an attempt. One that was left open, by whatever let go of the lease without a word, is closed."""
    left = (
        update(Attempt)
        .where(Attempt.run_id == run_id, Attempt.ended_at.is_(None))
        .values(ended_at=func.now(), ending=AttemptEnd.OVERRULED)
        .cte("left_open")
    )
    session.execute(insert(Attempt).values(run_id=run_id, lease_token=token, stage=stage, owner=owner).add_cte(left))


def end(
    session: Session,
    run_ids: Collection[UUID],
    ending: AttemptEnd,
    *,
    reason: str | None = None,
    counted: bool = False,
) -> None:
    """Close what is open of these runs; a run has at most one open attempt, and one that nobody holds has none."""
    session.execute(
        update(Attempt)
        .where(Attempt.run_id.in_(run_ids), Attempt.ended_at.is_(None))
        .values(ended_at=func.now(), ending=ending, reason=reason, counted=counted)
        .execution_options(synchronize_session=False)
    )


def goes_on(
    session: Session, run_id: UUID, token: int, *, first_step: int, model: str, opening: str, note: str | None
) -> bool:
    """Write down where an attempt's own steps begin. False, and nothing written, when it has ended."""
    done = session.execute(
        update(Attempt)
        .where(Attempt.run_id == run_id, Attempt.lease_token == token, Attempt.ended_at.is_(None))
        .values(first_step=first_step, model=model, opening=opening, note=note)
        .execution_options(synchronize_session=False)
    )
    return bool(done.rowcount)  # type: ignore[attr-defined]


def noted(session: Session, run_id: UUID, token: int, note: str | None) -> bool:
    """Write down what else an attempt does than to go on with the run's first try. False where it has ended."""
    words = func.nullif(func.concat_ws("; ", Attempt.note, cast(note, Text)), "")
    done = session.execute(
        update(Attempt)
        .where(Attempt.run_id == run_id, Attempt.lease_token == token, Attempt.ended_at.is_(None))
        .values(note=words)
        .execution_options(synchronize_session=False)
    )
    return bool(done.rowcount)  # type: ignore[attr-defined]
