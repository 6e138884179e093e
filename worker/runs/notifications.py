"""What an operator's own systems are told: written in the transaction of what it tells of, sent later."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from worker.store.notifications import Notification
from worker.store.text import clean


class Kind(StrEnum):
    BATCH_FINISHED = "batch_finished"
    RUN_FAILED = "run_failed"  #: our fault, after the last attempt
    QUARANTINED = "quarantined"  #: a repository or an issue failed again and again
    BUDGET_USED_UP = "budget_used_up"


def note(session: Session, kind: Kind, about: str, **payload: Any) -> bool:
    """Note something to tell; False when `kind` was told `about` this before."""
    values = {"key": f"{kind.value}:{about}", "kind": kind.value, "payload": payload}
    statement = insert(Notification).values(**values).on_conflict_do_nothing(index_elements=[Notification.key])
    return session.scalar(statement.returning(Notification.id)) is not None


def due(session: Session) -> bool:
    statement = select(Notification.id).where(Notification.ended_at.is_(None), Notification.publish_after <= func.now())
    return session.scalar(statement.limit(1)) is not None


def claim(session: Session, *, seconds: float) -> Notification | None:
    """The oldest one that is due; nobody else gets it for `seconds`."""
    candidate = (
        select(Notification.id)
        .where(Notification.ended_at.is_(None), Notification.publish_after <= func.now())
        .order_by(Notification.publish_after)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(Notification)
        .where(Notification.id == candidate)
        .values(publish_after=func.now() + timedelta(seconds=seconds), attempt=Notification.attempt + 1)
        .returning(Notification)
    )
    return session.scalar(statement)


def finish(session: Session, notification_id: UUID, *, reason: str | None = None) -> None:
    """It was taken, or (with a `reason`) never will be."""
    session.execute(
        update(Notification)
        .where(Notification.id == notification_id, Notification.ended_at.is_(None))
        .values(ended_at=func.now(), reason=None if reason is None else clean(reason))
    )


def postpone(session: Session, notification_id: UUID, *, reason: str, seconds: float, patience: float) -> bool:
    """Again in `seconds`; True when it was noted more than `patience` seconds ago, and is given up instead."""
    statement = select(Notification.created_at < func.now() - timedelta(seconds=patience))
    if session.scalar(statement.where(Notification.id == notification_id)):
        finish(session, notification_id, reason=f"given up: {reason}")
        return True
    session.execute(
        update(Notification)
        .where(Notification.id == notification_id, Notification.ended_at.is_(None))
        .values(reason=clean(reason), publish_after=func.now() + timedelta(seconds=seconds))
    )
    return False
