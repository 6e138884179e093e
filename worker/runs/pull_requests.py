"""Pull requests of ours after they were opened: which are known, what became of them, and which branch comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from worker.store import queries
from worker.store.models import PullRequest, Run

BRANCHES = "devstral/"  # what the service's branches begin with; it pushes to no other


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What GitHub says of it now. `at`: when the event happened; None: now."""

    state: str  #: open, closed or merged
    draft: bool
    head: str
    at: datetime | None = None
    merge_commit: str | None = None
    survived: float | None = None  #: share of the lines we added that were merged


def known(session: Session, repository: str, number: int) -> PullRequest | None:
    return session.scalar(
        select(PullRequest).where(
            func.lower(PullRequest.repository) == repository.lower(), PullRequest.number == number
        )
    )


def became(session: Session, pull_request_id: UUID, fate: Fate) -> None:
    """Record it. The first end stands, unless it was opened again: a merge that is told of twice is one merge."""
    row = session.get_one(PullRequest, pull_request_id, with_for_update=True, populate_existing=True)
    ended = fate.state != "open"
    when = fate.at or session.scalar(select(func.now()))
    values = {"state": fate.state, "draft": fate.draft}
    if ended != (row.closed_at is not None):
        values["closed_at"] = when if ended else None
    if fate.state == "merged" and row.merged_at is None:
        values |= {"merged_at": when, "merge_commit": fate.merge_commit, "survived": fate.survived}
    if fate.head not in queries.pushed_heads(session, row.repository, row.branch):
        values["people_head"] = fate.head
    session.execute(update(PullRequest).where(PullRequest.id == row.id).values(**values))


def reviewed(session: Session, pull_request_id: UUID) -> None:
    """A person reviewed it; the first time is kept."""
    session.execute(
        update(PullRequest)
        .where(PullRequest.id == pull_request_id, PullRequest.reviewed_at.is_(None))
        .values(reviewed_at=func.now())
    )


def described(
    session: Session, *, state: str | None = None, repository: str | None = None, limit: int = 50
) -> Sequence[dict[str, Any]]:
    """The newest, each as one JSON object."""
    statement = select(PullRequest, Run).join(Run, Run.id == PullRequest.run_id).order_by(PullRequest.id.desc())
    if state is not None:
        statement = statement.where(PullRequest.state == state)
    if repository is not None:
        statement = statement.where(func.lower(PullRequest.repository) == repository.lower())
    return [_described(pull, run) for pull, run in session.execute(statement.limit(limit))]


def _described(pull: PullRequest, run: Run) -> dict[str, Any]:
    moments = {
        name: None if (at := getattr(pull, name)) is None else at.isoformat()
        for name in ("created_at", "reviewed_at", "merged_at", "closed_at")
    }
    return {
        "repository": pull.repository,
        "number": pull.number,
        "issue_number": pull.issue_number,
        "url": pull.url,
        "state": pull.state,
        "draft": pull.draft,
        "run_id": str(run.id),
        "outcome": None if run.outcome is None else run.outcome.value,
        "model": run.model,
        "survived": pull.survived,
        "changed_by_people": pull.people_head is not None,
        **moments,
    }


def branch_for(session: Session, repository: str, issue_number: int) -> str:
    """The branch that a fix of the issue goes to: that of its open pull request, and a new one after an end, since what
    people closed or merged is not to change under their hands."""
    ended = session.scalar(
        select(func.count())
        .select_from(PullRequest)
        .where(
            PullRequest.repository == repository,
            PullRequest.issue_number == issue_number,
            PullRequest.closed_at.is_not(None),
        )
    )
    return f"{BRANCHES}issue-{issue_number}" + (f"-{ended + 1}" if ended else "")
