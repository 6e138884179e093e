"""Reads, and the one insert of the request path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, case, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from worker.store import switches, trajectories
from worker.store.backoff import next_announcement
from worker.store.base import Base
from worker.store.evidence import Evidence
from worker.store.models import Delivery, DeliveryState, Patch, PullRequest, Run, RunState
from worker.store.operations import Push
from worker.store.tries import Try

DELIVERIES = Base.metadata.tables[Delivery.__tablename__]


_INSERT_DELIVERY = (
    insert(DELIVERIES)
    .values(publish_after=func.now() + text("interval '5 s'"))
    .on_conflict_do_nothing(index_elements=[DELIVERIES.c.key])
    .returning(DELIVERIES.c.id)
)


def insert_delivery(connection: Connection | Session, **values: Any) -> UUID | None:
    """Store a delivery once; None when its key is known. `publish_after` gives the publisher a head start over the
    sweep."""
    delivery_id: UUID | None = connection.scalar(_INSERT_DELIVERY, values)
    return delivery_id


def due_deliveries(session: Session, *, limit: int = 200) -> Sequence[UUID]:
    """Received deliveries that nobody picked up in time; each is due again later and later."""
    due = (
        select(Delivery.id)
        .where(
            Delivery.state == DeliveryState.RECEIVED,
            Delivery.publish_after <= func.now(),
            func.coalesce(Delivery.claimed_until, func.now()) <= func.now(),
        )
        .order_by(Delivery.publish_after)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        update(Delivery)
        .where(Delivery.id.in_(due))
        .values(announced=Delivery.announced + 1, publish_after=next_announcement(Delivery.announced))
        .returning(Delivery.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalars(statement).all()


def due_stages(session: Session, *, limit: int = 200) -> Sequence[tuple[UUID, bool]]:
    """Concluded runs that wait for a worker and were not announced lately: (id, verified)."""
    due = (
        select(Run.id)
        .where(
            Run.state == RunState.CONCLUDED,
            Run.held_reason.is_(None),
            Run.lease_owner.is_(None),
            switches.announced(),
            Run.publish_after <= func.now(),
            or_(Run.not_before.is_(None), Run.not_before <= func.now()),
            or_(Run.deliver_after.is_(None), Run.deliver_after <= func.now()),
        )
        .order_by(Run.publish_after)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [(row[0], row[1]) for row in session.execute(_announced(due, Run.outcome.is_not(None)))]


def due_setups(
    session: Session, held_reason: str, *, repository: str | None = None, limit: int = 200
) -> Sequence[UUID]:
    """Runs that wait for their set-up and were not announced lately; with `repository`, all of that one's."""
    due = (
        select(Run.id)
        .where(
            Run.state == RunState.QUEUED,
            Run.held_reason == held_reason,
            Run.publish_after <= func.now() if repository is None else Run.repository == repository,
            or_(Run.not_before.is_(None), Run.not_before <= func.now()),
        )
        .order_by(Run.publish_after)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [row[0] for row in session.execute(_announced(due))]


def _announced(due: Select[Any], *also: ColumnElement[Any]) -> ReturningUpdate[Any]:
    return (
        update(Run)
        .where(Run.id.in_(due))
        .values(announced=Run.announced + 1, publish_after=next_announcement(Run.announced))
        .returning(Run.id, *also)
        .execution_options(synchronize_session=False)
    )


def run(session: Session, run_id: UUID) -> Run | None:
    return session.get(Run, run_id)


steps = trajectories.steps
step_count = trajectories.step_count


def seconds_since_receipt(session: Session, delivery_id: UUID) -> float:
    """How long ago a delivery came, by the database's clock."""
    waited = func.extract("epoch", func.now() - Delivery.received_at)
    return float(session.scalar(select(waited).where(Delivery.id == delivery_id)) or 0.0)


def seconds_since_conclusion(session: Session, run_id: UUID) -> float:
    """By the database's clock; the transaction's moment, as all times that are compared with it. What it was held for
    does not count: `deliver_after` is when it was let go."""
    since = func.now() - func.greatest(func.coalesce(Run.concluded_at, Run.queued_at), Run.deliver_after)
    return float(session.execute(select(func.extract("epoch", since)).where(Run.id == run_id)).scalar_one())


def patch(session: Session, run_id: UUID) -> Patch | None:
    """Of the try that was chosen; until then, of the first one."""
    chosen = select(Run.chosen).where(Run.id == run_id).scalar_subquery()
    return session.scalar(select(Patch).where(Patch.run_id == run_id, Patch.sample == chosen))


def evidence(session: Session, run_id: UUID, *, sample: int | None = None) -> Sequence[Evidence]:
    """The evidence of the newest verification of a try, in the order it was taken; of the one that was chosen, unless
    `sample` says of which."""
    run = select(Run.chosen).where(Run.id == run_id).scalar_subquery()
    number = run if sample is None else literal(sample)
    shared = select(Try.evidence_of).where(Try.run_id == run_id, Try.sample == number).scalar_subquery()
    which = (Evidence.run_id == run_id, Evidence.sample == func.coalesce(shared, number))
    newest = select(func.max(Evidence.lease_token)).where(*which).scalar_subquery()
    statement = select(Evidence).where(*which, Evidence.lease_token == newest)
    return session.scalars(statement.order_by(Evidence.created_at, Evidence.id)).all()


def pull_request(session: Session, repository: str, branch: str) -> PullRequest | None:
    return session.scalar(select(PullRequest).where(PullRequest.repository == repository, PullRequest.branch == branch))


def pushed_heads(session: Session, repository: str, branch: str) -> frozenset[str]:
    """The commits that this service made for a branch."""
    noted = select(Push.commit).where(Push.repository == repository, Push.branch == branch)
    delivered = select(PullRequest.head_commit).where(
        PullRequest.repository == repository, PullRequest.branch == branch
    )
    return frozenset(session.scalars(noted.union(delivered)))


def note_push(session: Session, **values: Any) -> None:
    """Remember a commit that is about to be pushed."""
    session.execute(insert(Push).values(**values).on_conflict_do_nothing())


def upsert_pull_request(session: Session, **values: Any) -> None:
    statement = insert(PullRequest).values(**values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[PullRequest.repository, PullRequest.branch],
            set_={
                **{k: statement.excluded[k] for k in ("run_id", "number", "url", "state", "draft", "head_commit")},
                # Another one of the same branch was made now, and counts for today.
                "created_at": case(
                    (PullRequest.number == statement.excluded.number, PullRequest.created_at), else_=func.now()
                ),
                "updated_at": func.now(),
            },
        )
    )


def recent_runs(session: Session, *, limit: int = 50) -> Sequence[Run]:
    return session.scalars(select(Run).order_by(Run.id.desc()).limit(limit)).all()
