"""What webhooks that never came should have told: which repositories to look at, and requests of our own for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.runs.asked import IssueRequest
from worker.store import queries
from worker.store.models import LIVE, Delivery, DeliveryState, Run

LATELY = timedelta(days=90)


def places(session: Session) -> dict[str, int | None]:
    """Repositories with a run lately, each with its installation."""
    statement = (
        select(Run.repository, func.max(Run.installation_id))
        .where(Run.queued_at > func.now() - LATELY)
        .group_by(Run.repository)
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def unknown(session: Session, repository: str, numbers: Sequence[int]) -> frozenset[int]:
    """Of labelled issues those for which nothing is live: for the others nobody need be asked."""
    live = session.scalars(
        select(Run.issue_number).where(
            func.lower(Run.repository) == repository.lower(), Run.issue_number.in_(numbers), Run.state.in_(LIVE)
        )
    )
    return frozenset(numbers) - frozenset(live)


def ask(session: Session, request: IssueRequest, *, event_id: int, at: datetime, grace: timedelta) -> bool:
    """A delivery for a label that was put on `at`, unless one came for it, or may still come. Once for each event."""
    repository, number = request.repository.lower(), request.issue_number
    if session.scalar(select(func.now() - at < grace)):
        return False
    told = select(Delivery.id).where(
        func.lower(Delivery.repository) == repository,
        Delivery.issue_number == number,
        Delivery.event == "issues",
        Delivery.action == "labeled",
        Delivery.received_at >= at - timedelta(minutes=1),
    )
    begun = select(Run.id).where(
        func.lower(Run.repository) == repository, Run.issue_number == number, Run.queued_at >= at
    )
    if session.scalar(told.limit(1)) is not None or session.scalar(begun.limit(1)) is not None:
        return False
    value = request.model_dump(mode="json")
    inserted = queries.insert_delivery(
        session,
        key=f"sweep:{repository}#{number}:{event_id}",
        event="issues",
        action="labeled",
        repository=request.repository,
        issue_number=number,
        sender=request.sender,
        body_sha256=hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest(),
        request=value,
        traceparent=None,
        state=DeliveryState.RECEIVED,
        reason=None,
    )
    return inserted is not None


def late(session: Session, request: IssueRequest) -> bool:
    """Whether a run was begun for this very wish before its webhook came: by a request of our own."""
    if request.asked_at is None:
        return False
    key = f"sweep:{request.repository.lower()}#{request.issue_number}:%"
    statement = (
        select(Delivery.id)
        .join(Run, Run.id == Delivery.run_id)
        .where(Delivery.key.like(key), Run.queued_at >= request.asked_at)
        .limit(1)
    )
    return session.scalar(statement) is not None
