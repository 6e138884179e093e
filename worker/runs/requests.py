"""What people may ask of runs: start one, cancel one. A session in, a state out; GitHub was asked before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from worker.runs import batches, pull_requests
from worker.runs.asked import Ending, IssueRequest, Removal, RemovedRequest, StopRequest, WaitingRequest
from worker.runs.priorities import Priority
from worker.runs.states import FINAL, IllegalTransition, override
from worker.store import lanes, pg_notify, queries
from worker.store.models import LIVE, Delivery, DeliveryState, Run, RunKind, RunState
from worker.store.text import clean


def start(
    session: Session,
    request: IssueRequest,
    *,
    clone_url: str,
    base_branch: str,
    base_commit: str,
    profile: str,
    max_attempts: int,
    repository_config: dict[str, Any],
    held_reason: str | None = None,
    priority: Priority = Priority.INTERACTIVE,
    traceparent: str | None = None,
) -> tuple[UUID, bool]:
    """Queue a fix of the issue, or find the live one: (run id, created). The database decides, so two racing
    requests can't both create."""
    values = {
        "kind": RunKind.FIX,
        "repository": request.repository,
        "installation_id": request.installation_id,
        "clone_url": clone_url,
        "issue_number": request.issue_number,
        "issue_title": clean(request.title),
        "issue_body": clean(request.body),
        "requested_by": clean(request.sender),
        "requested_by_id": request.sender_id,
        "label": clean(request.label),
        "batch_id": request.batch_id,
        "base_branch": base_branch,
        "base_commit": base_commit,
        "branch": pull_requests.branch_for(session, request.repository, request.issue_number),
        "profile": profile,
        "max_attempts": max_attempts,
        "repository_config": repository_config,
        "held_reason": held_reason,
        "priority": priority,
        "traceparent": traceparent,
    }
    created = session.scalar(insert(Run).values(**values).on_conflict_do_nothing().returning(Run.id))
    if created is not None:
        lanes.open_lanes(session, [lanes.Key(profile, priority, request.repository)])
        if request.batch_id is not None:
            batches.grew(session, request.batch_id)
        return created, True
    live = session.scalar(
        select(Run.id).where(
            Run.repository == request.repository,
            Run.issue_number == request.issue_number,
            Run.state.in_(LIVE),
        )
    )
    if live is None:  # it ended between the two statements; the caller's next attempt creates it
        raise IllegalTransition(f"a run for {request.repository}#{request.issue_number} ended just now")
    return live, False


def cancel(session: Session, run_id: UUID, *, by: str) -> RunState:
    """End a run: at once where no worker holds it, else at its next checkpoint. Returns the state it is in now.
    IllegalTransition, with its end, when it has ended."""
    run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
    if run is None:
        raise IllegalTransition(f"there is no run {run_id}")
    if run.state in FINAL:
        words = ", ".join(filter(None, (run.state.value, run.outcome and run.outcome.value)))
        raise IllegalTransition(f"{run_id} has ended: {words}{f' ({run.reason})' if run.reason else ''}")
    if run.state is RunState.RUNNING:
        first = func.coalesce(Run.cancel_requested, clean(by))
        session.execute(update(Run).where(Run.id == run_id).values(cancel_requested=first))
        pg_notify.about_run(session, run_id)
        return RunState.RUNNING
    override(session, run_id, RunState.CANCELLED, reason=f"cancelled by {clean(by)}", cancel_requested=clean(by))
    pg_notify.about_run(session, run_id)  # its evidence may be in the taking, its delivery or set-up under way
    return RunState.CANCELLED


def stop(session: Session, request: StopRequest) -> list[tuple[UUID, RunState]]:
    """Cancel what is live for the issue: each run, with the state it is in now (running: its worker will end it)."""
    live = session.scalars(
        select(Run.id)
        .where(
            func.lower(Run.repository) == request.repository.lower(),
            Run.issue_number == request.issue_number,
            Run.state.in_(LIVE),
        )
        .order_by(Run.id)
        .with_for_update()  # one that ends at this moment is none of them
    ).all()
    by = f"{request.sender}, who {_DONE[request.ending]}"
    return [(run_id, cancel(session, run_id, by=by)) for run_id in live]


def stop_branch(session: Session, repository: str, branch: str, *, by: str) -> list[tuple[UUID, RunState]]:
    """Cancel what is live for a branch, as `stop` does of an issue."""
    live = session.scalars(
        select(Run.id)
        .where(Run.repository == repository, Run.branch == branch, Run.state.in_(LIVE))
        .order_by(Run.id)
        .with_for_update()
    ).all()
    return [(run_id, cancel(session, run_id, by=by)) for run_id in live]


def newest_run(session: Session, repository: str, issue_number: int) -> UUID | None:
    """The run of an issue that people mean: the newest."""
    statement = select(Run.id).where(func.lower(Run.repository) == repository.lower(), Run.issue_number == issue_number)
    return session.scalar(statement.order_by(Run.id.desc()).limit(1))


def with_live_runs(session: Session, installation_id: int | None, repositories: Sequence[str] | None) -> Sequence[str]:
    """The repositories, of those named or all of an installation, in which something is live; as runs name them."""
    where: list[ColumnElement[bool]] = [Run.state.in_(LIVE)]
    if repositories is not None:
        where.append(func.lower(Run.repository).in_([name.lower() for name in repositories]))
    if installation_id is not None:
        where.append(Run.installation_id == installation_id)
    elif repositories is None:
        return ()
    return session.scalars(select(Run.repository).where(*where).distinct().order_by(Run.repository)).all()


def stop_all(session: Session, repositories: Sequence[str], request: RemovedRequest) -> list[tuple[UUID, RunState]]:
    """Cancel everything live in these repositories, as `stop` does of an issue."""
    live = session.scalars(
        select(Run.id).where(Run.repository.in_(repositories), Run.state.in_(LIVE)).order_by(Run.id).with_for_update()
    ).all()
    by = f"{request.sender}, who {_REMOVED[request.removal]}"
    return [(run_id, cancel(session, run_id, by=by)) for run_id in live]


def lock_issue(session: Session, repository: str, issue_number: int) -> None:
    """Until this transaction ends, no other starts or stops runs of the issue."""
    key = func.hashtextextended(f"{repository.lower()}#{issue_number}", 0)
    session.execute(select(func.pg_advisory_xact_lock(key)))


def newest_stop(session: Session, repository: str, issue_number: int) -> UUID | None:
    """The newest delivery that stops runs of the issue, whatever became of it."""
    return session.scalar(
        select(Delivery.id)
        .where(
            Delivery.repository == repository,
            Delivery.issue_number == issue_number,
            Delivery.request["kind"].astext == "stop",
        )
        .order_by(Delivery.id.desc())
        .limit(1)
    )


_DONE: dict[Ending, str] = {
    "closed": "closed the issue",
    "unlabeled": "took the label off",
    "deleted": "deleted the issue",
    "transferred": "transferred the issue",
    "locked": "locked the issue",
    "asked": "asked for it",
}


_REMOVED: dict[Removal, str] = {
    "uninstalled": "uninstalled the App",
    "suspended": "suspended the App",
    "removed": "took the App off the repository",
    "archived": "archived the repository",
    "deleted": "deleted the repository",
    "renamed": "renamed the repository",
    "transferred": "transferred the repository",
}


def end_cancelled(session: Session) -> list[UUID]:
    """The sweep's part: runs that were to be cancelled while a worker had them, and came back to the queue instead."""
    statement = (
        select(Run.id, Run.cancel_requested)
        .where(Run.state == RunState.QUEUED, Run.cancel_requested.is_not(None))
        .limit(200)
        .with_for_update(skip_locked=True)
    )
    ended = []
    for run_id, by in session.execute(statement):
        override(session, run_id, RunState.CANCELLED, reason=f"cancelled by {by}")
        ended.append(run_id)
    return ended


def claim_delivery(session: Session, *, seconds: float) -> Delivery | None:
    """Take the oldest received delivery for handling; None when all are done, postponed, or in other hands."""
    candidate = (
        select(Delivery.id)
        .where(
            Delivery.state == DeliveryState.RECEIVED,
            func.coalesce(Delivery.claimed_until, func.now()) <= func.now(),
        )
        .order_by(Delivery.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(Delivery)
        .where(Delivery.id == candidate)
        .values(
            claimed_until=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds),
            attempt=Delivery.attempt + 1,
            announced=0,
        )
        .returning(Delivery)
    )
    return session.scalar(statement)


def ask(session: Session, request: WaitingRequest) -> None:
    """A delivery of our own making. One that was asked for and is not handled yet is not asked for again."""
    key = f"waiting:{request.repository.lower()}#{request.issue_number}"
    under_way = select(Delivery.id).where(Delivery.key.startswith(key + ":"), Delivery.state == DeliveryState.RECEIVED)
    if session.scalar(under_way.limit(1)) is not None:
        return
    value = request.model_dump(mode="json")
    queries.insert_delivery(
        session,
        key=f"{key}:{uuid4()}",
        event="devstral-fix",
        action="waiting",
        repository=request.repository,
        issue_number=request.issue_number,
        sender=request.sender,
        body_sha256=hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest(),
        request=value,
        traceparent=None,
        state=DeliveryState.RECEIVED,
        reason=None,
    )


def finish_delivery(
    session: Session, delivery_id: UUID, state: DeliveryState, *, reason: str | None = None, run_id: UUID | None = None
) -> None:
    session.execute(
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.state == DeliveryState.RECEIVED)
        .values(
            state=state,
            reason=None if reason is None else clean(reason),
            run_id=run_id,
            handled_at=func.now(),
            claimed_until=None,
        )
    )


def postpone_delivery(session: Session, delivery_id: UUID, *, reason: str, seconds: float) -> None:
    """Leave it received for another try; the sweep sends it again."""
    later = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    session.execute(
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.state == DeliveryState.RECEIVED)
        .values(reason=clean(reason), publish_after=later, claimed_until=later)
    )
