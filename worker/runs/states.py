"""The state machine: the only writer of `Run.state`.

A worker's write carries the lease token it was given; an operator's or the sweep's write bumps the token, so that
whoever still works on the run is fenced out from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Interval, and_, bindparam, case, func, or_, select, update
from sqlalchemy.orm import Session

from worker.clock import own_clock
from worker.errors import LeaseLost, Permanent
from worker.runs import attempts, batches, notifications
from worker.runs.notifications import Kind
from worker.store import lanes, switches
from worker.store.attempts import AttemptEnd, AttemptStage
from worker.store.backoff import next_announcement
from worker.store.base import Base
from worker.store.models import Run, RunState

S = RunState
TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    # Concluded at once: a run whose set-up failed ends without an agent.
    S.QUEUED: frozenset({S.RUNNING, S.CONCLUDED, S.FAILED, S.CANCELLED}),
    S.RUNNING: frozenset({S.CONCLUDED, S.QUEUED, S.FAILED, S.CANCELLED}),
    # Queued again: for the next profile of a cascade, where this one's tries failed.
    S.CONCLUDED: frozenset({S.DELIVERED, S.QUEUED, S.FAILED, S.CANCELLED}),
    S.DELIVERED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
}
ENDS = {
    S.QUEUED: AttemptEnd.GIVEN_BACK,
    S.CONCLUDED: AttemptEnd.CONCLUDED,
    S.DELIVERED: AttemptEnd.DELIVERED,
    S.FAILED: AttemptEnd.FAILED,
    S.CANCELLED: AttemptEnd.CANCELLED,
}
FINAL = frozenset(state for state, targets in TRANSITIONS.items() if not targets)


class IllegalTransition(Permanent):
    """The run is not in a state from which this may happen."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to write one run, until it expires or is taken over. `token` only ever grows.

    `since`: by this process's own clock, a moment before the database began to count; see `worker.heartbeat`.
    """

    run_id: UUID
    token: int
    owner: str
    since: float = field(default_factory=own_clock, compare=False)


Stage = Literal["verify", "deliver"]

MOST_SKIPPED = 20  # runs that a claim passes over since somebody has them in hand


def _write(run_id: UUID, to: RunState, where: ColumnElement[bool], values: Mapping[str, Any]) -> Any:
    sources = [state for state, targets in TRANSITIONS.items() if to in targets]
    released = {} if to is S.RUNNING else {"lease_owner": None, "lease_expires_at": None}
    stamps: dict[str, Any] = {}
    if to in FINAL:
        stamps["finished_at"], stamps["held_reason"] = func.now(), None
    elif to is S.CONCLUDED:
        stamps["concluded_at"] = func.now()
        stamps["attempt"] = 0  # each stage has all its tries; the history keeps every one
    return (
        update(Run)
        .where(Run.id == run_id, Run.state.in_(sources), where)
        .values(state=to, **{"announced": 0, **released, **stamps, **values})
        .returning(Run.profile, Run.priority, Run.repository)
        .execution_options(synchronize_session=False)
    )


def _held(lease: Lease) -> ColumnElement[bool]:
    """The lease is this one, and was not given back: a thread that hangs may come to itself after that."""
    return and_(Run.lease_token == lease.token, Run.lease_owner.is_not(None))


def _moved(session: Session, statement: Any, to: RunState) -> bool:
    row = session.execute(statement).one_or_none()
    if row is not None and to is S.QUEUED:
        lanes.open_lanes(session, [lanes.Key(*row)])
    return row is not None


def advance(session: Session, lease: Lease, to: RunState, *, counted: bool = False, **values: Any) -> None:
    """Move a run that this worker holds. LeaseLost when it no longer does: nothing was written.

    `counted`: this attempt ended by a failure of ours that another may not have.
    """
    if counted:
        values["attempt"] = Run.attempt + 1
    statement = _write(lease.run_id, to, _held(lease), values)
    if not _moved(session, statement, to):
        raise LeaseLost(f"run {lease.run_id}: token {lease.token} may no longer move it to {to.value}")
    attempts.end(session, [lease.run_id], ENDS[to], reason=values.get("reason"), counted=counted)
    if to in FINAL:
        _ended(session, [lease.run_id])


def override(session: Session, run_id: UUID, to: RunState, **values: Any) -> None:
    """Move a run from outside (operator, sweep). Fences out its worker. IllegalTransition when it may not."""
    statement = _write(run_id, to, Run.id == run_id, {"lease_token": Run.lease_token + 1, **values})
    if not _moved(session, statement, to):
        raise IllegalTransition(f"run {run_id} can't become {to.value} from where it is")
    attempts.end(session, [run_id], AttemptEnd.OVERRULED, reason=values.get("reason"))
    if to in FINAL:
        _ended(session, [run_id])


def _ended(session: Session, run_ids: Sequence[UUID]) -> None:
    """In the transaction of the end: their batches may be finished, and what failed is told to the operator's hook."""
    for batch in batches.ended(session, run_ids):
        notifications.note(session, Kind.BATCH_FINISHED, f"{batch.id}", **batches.totals(session, batch))
    failed = select(Run.id, Run.repository, Run.issue_number, Run.reason)
    for run in session.execute(failed.where(Run.id.in_(run_ids), Run.state == S.FAILED)):
        about = {"repository": run.repository, "issue_number": run.issue_number, "reason": run.reason}
        notifications.note(session, Kind.RUN_FAILED, f"{run.id}", run_id=str(run.id), **about)


def _lease_values(owner: str, seconds: float) -> dict[str, Any]:
    return {
        "lease_token": Run.lease_token + 1,
        "lease_owner": owner,
        "lease_expires_at": func.now() + timedelta(seconds=seconds),
    }


def _claim() -> Any:
    # Claims take turns, but an operator may have the row in hand: then it is not waited for.
    free = (
        select(Run.id)
        .where(Run.id == bindparam("candidate"), *lanes.run_conditions())
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return (
        update(_RUNS)
        .where(_RUNS.c.id == free)
        .values(
            state=S.RUNNING,
            started_at=func.coalesce(_RUNS.c.started_at, func.now()),
            reason=None,
            announced=0,
            lease_token=_RUNS.c.lease_token + 1,
            lease_owner=bindparam("owner"),
            lease_expires_at=func.now() + bindparam("lease", type_=Interval),
        )
        .returning(_RUNS.c.lease_token)
    )


_RUNS = Base.metadata.tables[Run.__tablename__]
_CLAIM = _claim()  # built once: building it takes longer than running it


def claim_next(
    session: Session,
    *,
    profile: str,
    owner: str,
    seconds: float,
    repository_slots: int = lanes.REPOSITORY_SLOTS,
    turn: int = 1,
) -> Lease | None:
    """Take the next queued run of a profile: higher priority first, then round-robin over repositories with fewer than
    `repository_slots` running runs, `turn` claims of this owner at a time, then the oldest. None when there is nothing
    to do (the permit is spent).

    What else must hold for a claim stands in `lanes.run_conditions` and `lanes.lane_conditions`.
    """
    since = own_clock()
    lanes.take_turns(session)
    skipped: list[UUID] = []
    while len(skipped) < MOST_SKIPPED:
        found = lanes.candidate(
            session, profile, repository_slots=repository_slots, skipped=skipped, owner=owner if turn > 1 else None
        )
        if found is None:
            return None
        values = {"candidate": found.run_id, "owner": owner, "lease": timedelta(seconds=seconds)}
        token = session.scalar(_CLAIM, values)
        if token is not None:
            lanes.claimed(session, found, owner=owner, turn=turn)
            attempts.begin(session, found.run_id, token, stage=AttemptStage.PURSUE, owner=owner)
            return Lease(run_id=found.run_id, token=token, owner=owner, since=since)
        skipped.append(found.run_id)
    return None


def claim_stage(session: Session, run_id: UUID, stage: Stage, *, owner: str, seconds: float) -> Lease | None:
    """Take a concluded run for one later stage; None when it is done, held, or in other hands.

    A lease that ran out is the sweep's to end, so that it is counted, once.
    """
    since = own_clock()
    ready = (
        Run.outcome.is_(None)
        if stage == "verify"
        else and_(
            Run.outcome.is_not(None),
            switches.allow(),
            or_(Run.deliver_after.is_(None), Run.deliver_after <= func.now()),
        )
    )
    statement = (
        update(Run)
        .where(
            Run.id == run_id,
            Run.state == S.CONCLUDED,
            Run.held_reason.is_(None),
            ready,
            or_(Run.not_before.is_(None), Run.not_before <= func.now()),
            Run.lease_owner.is_(None),
        )
        .values(announced=0, **_lease_values(owner, seconds))
        .returning(Run.lease_token)
        .execution_options(synchronize_session=False)
    )
    token = session.scalar(statement)
    if token is None:
        return None
    attempts.begin(session, run_id, token, stage=AttemptStage(stage), owner=owner)
    return Lease(run_id=run_id, token=token, owner=owner, since=since)


def write(session: Session, lease: Lease, **values: Any) -> None:
    """Change a run's other columns under the lease. LeaseLost when it is gone."""
    statement = (
        update(Run)
        .where(Run.id == lease.run_id, _held(lease))
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    if session.execute(statement).rowcount != 1:  # type: ignore[attr-defined]
        raise LeaseLost(f"run {lease.run_id}: token {lease.token} no longer holds it")


def finish_verify(session: Session, lease: Lease, **values: Any) -> None:
    """The outcome is known: the run waits to be delivered, with all tries of that stage. LeaseLost when it is gone."""
    write(session, lease, lease_owner=None, lease_expires_at=None, not_before=None, attempt=0, **values)
    attempts.end(session, [lease.run_id], AttemptEnd.VERIFIED, reason=values.get("reason"))


def queue_elsewhere(session: Session, lease: Lease, *, profile: str, reason: str) -> None:
    """Nothing of a verified run is worth delivering: it goes to the lane of another profile, with all attempts of its
    own. Tries, evidence and the ledger stay. LeaseLost when it is gone."""
    advance(
        session,
        lease,
        S.QUEUED,
        profile=profile,
        reason=reason,
        attempt=0,
        exit_status=None,
        concluded_at=None,
        not_before=None,
        publish_after=func.now(),
    )


def hold_stage(session: Session, lease: Lease, *, held_reason: str) -> None:
    """Give a later stage back until what holds it passes; no attempt is counted. LeaseLost when it is gone."""
    values = {"lease_owner": None, "lease_expires_at": None, "held_reason": held_reason, "announced": 0}
    write(session, lease, **values, publish_after=next_announcement(0))
    attempts.end(session, [lease.run_id], AttemptEnd.GIVEN_BACK, reason=held_reason)


def hand_back_stage(session: Session, lease: Lease, *, reason: str, wait: float, counts: bool) -> None:
    """Give a later stage back for another try in `wait` seconds; `counts` as an attempt when the failure was ours.
    Where there is an outcome, the run's own `reason` is the outcome's, for people: this one is its attempt's alone."""
    later = func.now() + timedelta(seconds=wait)
    write(
        session,
        lease,
        lease_owner=None,
        lease_expires_at=None,
        not_before=later,
        publish_after=later,
        announced=0,
        reason=case((Run.outcome.is_(None), reason), else_=Run.reason),
        attempt=Run.attempt + (1 if counts else 0),
    )
    attempts.end(session, [lease.run_id], AttemptEnd.GIVEN_BACK, reason=reason, counted=counts)


def expire(session: Session, *, limit: int = 200) -> list[tuple[UUID, RunState]]:
    """The sweep's part: every run whose lease ran out goes back to its queue, or fails after `max_attempts`.

    A concluded run only loses the lease (its stage is claimed anew). Returns what was touched, with its new state.
    """
    due = (
        select(Run.id)
        .where(Run.lease_expires_at < func.now(), Run.state.in_([S.RUNNING, S.CONCLUDED]))
        .order_by(Run.lease_expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    spent = Run.attempt + 1 >= Run.max_attempts
    statement = (
        update(Run)
        .where(Run.id.in_(due))
        .values(
            attempt=Run.attempt + 1,
            lease_token=Run.lease_token + 1,
            lease_owner=None,
            lease_expires_at=None,
            publish_after=func.now(),
            announced=0,
            state=case((spent, S.FAILED.value), (Run.state == S.RUNNING, S.QUEUED.value), else_=Run.state),
            finished_at=case((spent, func.now()), else_=None),
            reason=case(
                (spent, "given up: its worker was lost too often"),
                (Run.outcome.is_(None), "its worker was lost; trying again"),
                else_=Run.reason,
            ),
        )
        .returning(Run.id, Run.state, Run.profile, Run.priority, Run.repository)
        .execution_options(synchronize_session=False)
    )
    rows = session.execute(statement).all()
    lanes.open_lanes(session, [lanes.Key(*row[2:]) for row in rows if row.state is S.QUEUED])
    if rows:
        attempts.end(session, [row.id for row in rows], AttemptEnd.LEASE_LOST, counted=True)
    _ended(session, [row.id for row in rows if row.state in FINAL])
    return [(row.id, row.state) for row in rows]
