"""Caps on pull requests: how many of ours may be open in a repository, and be made there in one UTC day.

A change that is over a cap waits as a concluded run with the cap's name in `held_reason`, without a lease, and goes out
in the order in which the runs were concluded. A place is taken in the transaction that notes the push, under a lock of
the repository, so two workers never pass a cap of one more together. An update of an open pull request takes none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from agent.outcome import Outcome
from worker.store.backoff import next_announcement
from worker.store.models import PullRequest, Run, RunState
from worker.store.operations import Push
from worker.store.room import today

Cap = Literal["max_open_pull_requests", "max_pull_requests_per_day"]
OPEN: Cap = "max_open_pull_requests"
DAY: Cap = "max_pull_requests_per_day"
HELD: tuple[Cap, ...] = (OPEN, DAY)
WITH_PULL_REQUEST = frozenset({Outcome.FIXED, Outcome.PARTIAL})

_IS_HELD = and_(Run.state == RunState.CONCLUDED, Run.held_reason.in_(HELD))


class OverCap(Exception):
    """There is no place for one more pull request: `cap` says which cap leaves none, `most` what it is."""

    def __init__(self, cap: Cap, most: int) -> None:
        super().__init__(cap)
        self.cap = cap
        self.most = most


@dataclass(frozen=True, kw_only=True)
class Caps:
    """What the operator allows per repository; 0: no cap."""

    open: int = 0
    day: int = 0

    def of(self, config: Mapping[str, Any]) -> dict[Cap, int]:
        """The lower of the operator's and the repository's own, each; a cap that neither sets is left out."""
        set_here: tuple[tuple[Cap, int], ...] = ((OPEN, self.open), (DAY, self.day))
        both = {cap: [most for most in (ours, config.get(cap)) if most] for cap, ours in set_here}
        return {cap: min(each) for cap, each in both.items() if each}


def take_place(session: Session, run: Run, caps: Caps) -> None:
    """Before a push is noted, in the same transaction: OverCap when the run has to wait. A run whose push was noted has
    its place, whatever came after."""
    if session.scalar(select(exists().where(Push.run_id == run.id))):
        return
    _lock(session, run.repository)
    over = _over(session, run, caps)
    if over is not None:
        raise over


def release(session: Session, repository: str, caps: Caps) -> list[UUID]:
    """Let go of those held runs of a repository that there is a place for now, first concluded first; they are due at
    once. How long they waited is not held against their delivery's patience."""
    _lock(session, repository)
    freed = []
    held = select(Run).where(_IS_HELD, Run.repository == repository).order_by(Run.concluded_at, Run.id)
    for run in session.scalars(held):
        over = _over(session, run, caps)
        if over is not None:
            break  # those behind it wait for it
        session.execute(
            update(Run)
            .where(Run.id == run.id, _IS_HELD)
            .values(held_reason=None, publish_after=func.now(), deliver_after=func.now(), announced=0)
            .execution_options(synchronize_session=False)
        )
        freed.append(run.id)
    return freed


def release_all(session: Session, caps: Caps) -> list[UUID]:
    """The sweep's part: a day may have turned, or a pull request been closed."""
    repositories = session.scalars(select(Run.repository).where(_IS_HELD).distinct().order_by(Run.repository)).all()
    return [run_id for repository in repositories for run_id in release(session, repository, caps)]


def due(session: Session) -> Sequence[UUID]:
    """Held runs, one of each repository, whose repository was not looked at lately: what we know of its open pull
    requests may be old. Each is due again later and later."""
    first = (
        select(Run.id)
        .where(_IS_HELD)
        .ext(distinct_on(Run.repository))
        .order_by(Run.repository, Run.concluded_at, Run.id)
    )
    statement = (
        update(Run)
        .where(Run.id.in_(first), Run.publish_after <= func.now())
        .values(announced=Run.announced + 1, publish_after=next_announcement(Run.announced))
        .returning(Run.id)
        .execution_options(synchronize_session=False)
    )
    return session.scalars(statement).all()


def open_ones(session: Session, repository: str) -> Sequence[PullRequest]:
    """What we take for open pull requests of ours."""
    return session.scalars(select(PullRequest).where(_open(repository)).order_by(PullRequest.id)).all()


def words(cap: str) -> str:
    """Why a change waits, for people."""
    if cap == DAY:
        made = "as many pull requests of this service were made in this repository today as may be on one day"
        return f"It waits: {made} (`{DAY}`). It goes out after 00:00 UTC, when its turn comes."
    are = "as many pull requests of this service are open in this repository as may be at once"
    return f"It waits: {are} (`{OPEN}`). It goes out when one of them is merged or closed and its turn comes."


def _lock(session: Session, repository: str) -> None:
    """Until this transaction ends, nobody else takes a place in the repository."""
    key = func.hashtextextended(f"pull requests of {repository.lower()}", 0)
    session.execute(select(func.pg_advisory_xact_lock(key)))


def _over(session: Session, run: Run, caps: Caps) -> OverCap | None:
    """The cap that leaves no place for `run`: beside what is open or was made today, those count that go out first, and
    those whose push is noted."""
    limits = caps.of(run.repository_config)
    branches = select(PullRequest.branch).where(_open(run.repository))
    if not limits or session.scalar(select(branches.where(PullRequest.branch == run.branch).exists())):
        return None
    before = tuple_(Run.concluded_at, Run.id) < tuple_(run.concluded_at, run.id)
    going = session.scalar(
        select(func.count(Run.branch.distinct())).where(
            Run.repository == run.repository,
            Run.state == RunState.CONCLUDED,
            Run.outcome.in_(WITH_PULL_REQUEST),
            Run.id != run.id,
            Run.branch.not_in(branches),
            or_(before, exists().where(Push.run_id == Run.id)),
        )
    )
    made_today = func.date(func.timezone("UTC", PullRequest.created_at)) == today()
    here = PullRequest.repository == run.repository
    for cap, counted in ((OPEN, _open(run.repository)), (DAY, and_(here, made_today))):
        there = session.scalar(select(func.count()).select_from(PullRequest).where(counted))
        if cap in limits and (there or 0) + (going or 0) >= limits[cap]:
            return OverCap(cap, limits[cap])
    return None


def _open(repository: str) -> ColumnElement[bool]:
    return and_(PullRequest.repository == repository, PullRequest.state == "open")
