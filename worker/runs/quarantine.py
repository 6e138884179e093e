"""Quarantine: what failed repeatedly is not tried for a while, with a reason that people see and a way out.

An issue: its last ISSUE_FAILURES runs all failed, could not be set up, or ended without a solution: each spends
money and none brings a result. A repository: its last REPOSITORY_FAILURES runs within a day, over all issues, failed
or could not be set up; unsolved issues say nothing about the next one. What was cancelled counts neither way, and
after a quarantine's end counting starts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, case, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from agent.outcome import Outcome
from worker.runs import notifications
from worker.runs.notifications import Kind
from worker.store.models import Run, RunState
from worker.store.money import Quarantine
from worker.store.room import quarantined
from worker.store.text import clean

ISSUE_FAILURES = 3
REPOSITORY_FAILURES = 5

_ENDED = Run.state.in_([RunState.FAILED, RunState.DELIVERED])
_BROKEN = or_(Run.state == RunState.FAILED, Run.outcome == Outcome.SETUP_FAILED)
_FRUITLESS = or_(_BROKEN, Run.outcome == Outcome.UNSOLVED)


def standing(session: Session, repository: str, issue_number: int) -> Quarantine | None:
    """What keeps this issue from being tried now, the repository's own first."""
    whose = or_(Quarantine.issue_number.is_(None), Quarantine.issue_number == issue_number)
    statement = select(Quarantine).where(quarantined(), Quarantine.repository == repository, whose)
    return session.scalar(statement.order_by(Quarantine.issue_number.asc().nulls_first()).limit(1))


def words(kept: Quarantine) -> str:
    """For the issue and for the record."""
    what = "this repository" if kept.issue_number is None else "this issue"
    until = "until it is lifted" if kept.until is None else f"until {kept.until:%Y-%m-%d %H:%M} UTC"
    return f"{what} is not tried {until}: {kept.reason} (an operator ends that with `devstral-fix quarantine lift`)"


def all_standing(session: Session) -> Sequence[Quarantine]:
    return session.scalars(select(Quarantine).where(quarantined()).order_by(Quarantine.id)).all()


def lift(session: Session, repository: str, issue_number: int | None, *, by: str) -> bool:
    """End it now. False when none stood."""
    statement = (
        update(Quarantine)
        .where(
            quarantined(),
            Quarantine.repository == repository,
            Quarantine.issue_number.is_not_distinct_from(issue_number),
        )
        .values(lifted_at=func.now(), lifted_by=clean(by))
        .returning(Quarantine.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(statement) is not None


def judge(session: Session, *, hours: float) -> Sequence[Quarantine]:
    """The sweep's part: end what is over, and quarantine what failed repeatedly. The new ones."""
    session.execute(
        update(Quarantine)
        .where(Quarantine.lifted_at.is_(None), Quarantine.until <= func.now())
        .values(lifted_at=Quarantine.until, lifted_by="time")
        .execution_options(synchronize_session=False)
    )
    found = [
        (repository, None, f"{REPOSITORY_FAILURES} runs in a row failed or could not be set up; the last: {last}")
        for repository, last in session.execute(_broken_repositories())
    ]
    found += [
        (repository, number, f"{ISSUE_FAILURES} runs in a row brought no result; the last: {last}")
        for repository, number, last in session.execute(_fruitless_issues())
    ]
    made = []
    for repository, number, reason in found:
        values = {"repository": repository, "issue_number": number, "reason": clean(reason)}
        until = func.now() + timedelta(hours=hours)
        statement = insert(Quarantine).values(**values, until=until).on_conflict_do_nothing().returning(Quarantine)
        if (kept := session.scalar(statement)) is not None:
            made.append(kept)
            about = {"repository": repository, "issue_number": number, "reason": kept.reason}
            notifications.note(session, Kind.QUARANTINED, f"{kept.id}", **about)
    return made


def _since(*, whole_repository: bool) -> Any:
    """Only runs that ended after the last quarantine count."""
    same = Quarantine.repository == Run.repository
    issue = Quarantine.issue_number.is_(None) if whole_repository else Quarantine.issue_number == Run.issue_number
    last = select(func.max(Quarantine.lifted_at)).where(same, issue).scalar_subquery()
    return or_(last.is_(None), Run.finished_at > last)


_LAST = func.left(func.coalesce(Run.reason, Run.outcome, Run.state), 200)


def _broken_repositories() -> Any:
    day = Run.finished_at > func.now() - timedelta(days=1)
    place = func.row_number().over(partition_by=Run.repository, order_by=Run.finished_at.desc())
    runs = (
        select(Run.repository, _BROKEN.label("bad"), _LAST.label("last"), place.label("place"))
        .where(_ENDED, day, _since(whole_repository=True))
        .subquery()
    )
    return _streaks(runs, REPOSITORY_FAILURES, runs.c.repository)


def _fruitless_issues() -> Any:
    recent = (
        select(Run.repository, Run.issue_number)
        .where(_ENDED, _FRUITLESS, Run.finished_at > func.now() - timedelta(days=1))
        .distinct()
    )
    issue = (Run.repository, Run.issue_number)
    place = func.row_number().over(partition_by=issue, order_by=Run.finished_at.desc())
    runs = (
        select(*issue, _FRUITLESS.label("bad"), _LAST.label("last"), place.label("place"))
        .where(_ENDED, tuple_(*issue).in_(recent), _since(whole_repository=False))
        .subquery()
    )
    return _streaks(runs, ISSUE_FAILURES, runs.c.repository, runs.c.issue_number)


def _streaks(runs: Any, length: int, *key: Any) -> Any:
    newest = func.max(case((runs.c.place == 1, runs.c.last)))
    return (
        select(*key, newest)
        .where(runs.c.place <= length)
        .group_by(*key)
        .having(and_(func.count() == length, func.bool_and(runs.c.bad)))
    )
