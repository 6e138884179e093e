"""Remarks on pull requests of ours, and questions: each kept once, and seen to by one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.orm import Session, aliased

from worker.runs.asked import WaitingRequest
from worker.store.models import LIVE, PullRequest, Run
from worker.store.remarks import RemarkRow, RemarkSource
from worker.store.text import clean


@dataclass(frozen=True, kw_only=True)
class Said:
    """What somebody said; see `worker.store.remarks`."""

    source: RemarkSource
    source_id: int
    author: str
    body: str
    path: str | None = None
    line: int | None = None
    hunk: str = ""
    head: str | None = None


def keep(session: Session, repository: str, number: int, said: Sequence[Said]) -> int:
    """How many of them were new: what was kept before, whoever sees to it, is not said twice."""
    if not said:
        return 0
    rows = [
        {key: clean(value) if isinstance(value, str) else value for key, value in asdict(one).items()}
        | {"repository": repository.lower(), "number": number, "source": one.source}
        for one in said
    ]
    statement = insert(RemarkRow).values(rows).on_conflict_do_nothing().returning(RemarkRow.id)
    return len(session.scalars(statement).all())


def attach(session: Session, run_id: UUID, repository: str, number: int, *, source_id: int | None = None) -> int:
    """What waits at a pull request is this run's from now on; with `source_id` that one alone."""
    where = [*_waiting(repository, number)]
    if source_id is not None:
        where.append(RemarkRow.source_id == source_id)
    statement = update(RemarkRow).where(*where).values(run_id=run_id).returning(RemarkRow.id)
    return len(session.scalars(statement.execution_options(synchronize_session=False)).all())


def wait(session: Session, repository: str, number: int) -> bool:
    """Whether something waits at a pull request."""
    statement = select(RemarkRow.id).where(*_waiting(repository, number)).limit(1)
    return session.scalar(statement) is not None


def left_waiting(session: Session) -> Sequence[WaitingRequest]:
    """Open pull requests at which something waits and nothing is live any more, each as a request to see to it; their
    sender is who said the first of it."""
    newest = aliased(Run)
    live = (
        select(Run.id)
        .where(Run.repository == PullRequest.repository, Run.branch == PullRequest.branch, Run.state.in_(LIVE))
        .exists()
    )
    rows = session.execute(
        select(PullRequest, newest.installation_id, RemarkRow.author)
        .join(RemarkRow, and_(RemarkRow.repository == func.lower(PullRequest.repository), _at_it()))
        .join(newest, newest.id == PullRequest.run_id)
        .where(RemarkRow.run_id.is_(None), PullRequest.closed_at.is_(None), ~live)
        .order_by(PullRequest.id, RemarkRow.created_at)
        .ext(distinct_on(PullRequest.id))
    ).all()
    return [
        WaitingRequest(
            repository=pull.repository,
            installation_id=installation_id,
            issue_number=pull.number,
            sender=author,
            sender_type="User",
        )
        for pull, installation_id, author in rows
    ]


def _at_it() -> ColumnElement[bool]:
    return RemarkRow.number == PullRequest.number


def checks_in_a_row(session: Session, repository: str, number: int) -> int:
    """On how many commits checks failed, and were seen to, since a person last said something at the pull request."""
    here = (RemarkRow.repository == repository.lower(), RemarkRow.number == number)
    by_people = select(func.max(RemarkRow.created_at)).where(*here, RemarkRow.source != RemarkSource.CHECK)
    since = func.coalesce(by_people.scalar_subquery(), datetime(1970, 1, 1, tzinfo=UTC))
    heads = select(func.count(RemarkRow.head.distinct())).where(
        *here, RemarkRow.source == RemarkSource.CHECK, RemarkRow.created_at > since
    )
    return session.scalar(heads) or 0


def of(session: Session, run_id: UUID) -> Sequence[RemarkRow]:
    """In the order in which they were said; their numbers, from 1, are their places here."""
    statement = select(RemarkRow).where(RemarkRow.run_id == run_id).order_by(RemarkRow.created_at, RemarkRow.id)
    return session.scalars(statement).all()


def answer(session: Session, answers: Mapping[UUID, str]) -> None:
    """What was posted as the answer to each."""
    for remark_id, text in answers.items():
        session.execute(
            update(RemarkRow)
            .where(RemarkRow.id == remark_id)
            .values(answer=clean(text), answered_at=func.now())
            .execution_options(synchronize_session=False)
        )


def _waiting(repository: str, number: int) -> tuple[ColumnElement[bool], ...]:
    return RemarkRow.repository == repository.lower(), RemarkRow.number == number, RemarkRow.run_id.is_(None)
