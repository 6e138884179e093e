"""Runs that go on from what was there before: a pull request revised, a question answered. A session in, a run out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from worker.runs.priorities import Priority
from worker.runs.pull_requests import BRANCHES
from worker.store import lanes
from worker.store.models import LIVE, Run, RunKind, RunState
from worker.store.text import clean


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where the work begins. `base_commit`: what the whole change is measured against; `head_commit`: what the
    workspace is opened at."""

    repository: str
    installation_id: int | None
    clone_url: str
    issue_number: int
    title: str
    body: str
    base_branch: str
    base_commit: str
    head_commit: str
    repository_config: dict[str, Any]
    held_reason: str | None
    profile: str
    max_attempts: int
    sender: str
    sender_id: int | None
    traceparent: str | None


@dataclass(frozen=True, kw_only=True)
class Begun:
    """`created`: it is new. `joined`: it waits in the queue, and what is said now can still be part of it. Else
    `run_id` is the run that is in the way."""

    run_id: UUID
    created: bool
    joined: bool


def revise(session: Session, start: Start, *, branch: str, number: int) -> Begun:
    """Of the pull request `number`, whose branch has one live run at most."""
    begun = _insert(session, start, kind=RunKind.REVISE, branch=branch, shown_on=number, label="review")
    if begun is not None:
        return Begun(run_id=begun, created=True, joined=False)
    live = session.scalars(
        select(Run).where(Run.repository == start.repository, Run.branch == branch, Run.state.in_(LIVE))
    ).one()
    waits = live.kind is RunKind.REVISE and live.state is RunState.QUEUED
    return Begun(run_id=live.id, created=False, joined=waits)


def explain(session: Session, start: Start, *, number: int, comment_id: int) -> Begun:
    """A question at an issue or pull request; an issue has one of them under way at most."""
    branch = f"{BRANCHES}explain-{comment_id}"  # which is never made
    begun = _insert(session, start, kind=RunKind.EXPLAIN, branch=branch, shown_on=number, label="question")
    if begun is not None:
        return Begun(run_id=begun, created=True, joined=False)
    live = session.scalars(
        select(Run.id).where(
            Run.repository == start.repository,
            Run.issue_number == start.issue_number,
            Run.kind == RunKind.EXPLAIN,
            Run.state.in_(LIVE),
        )
    ).one()
    return Begun(run_id=live, created=False, joined=False)


def _insert(session: Session, start: Start, *, kind: RunKind, branch: str, shown_on: int, label: str) -> UUID | None:
    values = {
        "kind": kind,
        "repository": start.repository,
        "installation_id": start.installation_id,
        "clone_url": start.clone_url,
        "issue_number": start.issue_number,
        "issue_title": clean(start.title),
        "issue_body": clean(start.body),
        "requested_by": clean(start.sender),
        "requested_by_id": start.sender_id,
        "label": label,
        "base_branch": start.base_branch,
        "base_commit": start.base_commit,
        "head_commit": start.head_commit,
        "branch": branch,
        "shown_on": shown_on,
        "profile": start.profile,
        "max_attempts": start.max_attempts,
        "repository_config": start.repository_config,
        "held_reason": start.held_reason,
        "priority": Priority.INTERACTIVE,
        "traceparent": start.traceparent,
    }
    created = session.scalar(insert(Run).values(**values).on_conflict_do_nothing().returning(Run.id))
    if created is not None:
        lanes.open_lanes(session, [lanes.Key(start.profile, Priority.INTERACTIVE, start.repository)])
    return created
