"""The state machine: the only writer of `Run.state`.

A worker's write carries the lease token it was given; an operator's or the sweep's write bumps the token, so that
whoever still works on the run is fenced out from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from worker.errors import LeaseLost, Permanent
from worker.store import switches
from worker.store.models import Run, RunState

S = RunState
TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    # Concluded at once: a run whose set-up failed ends without an agent.
    S.QUEUED: frozenset({S.RUNNING, S.CONCLUDED, S.FAILED, S.CANCELLED}),
    S.RUNNING: frozenset({S.CONCLUDED, S.QUEUED, S.FAILED, S.CANCELLED}),
    S.CONCLUDED: frozenset({S.DELIVERED, S.FAILED, S.CANCELLED}),
    S.DELIVERED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
}
FINAL = frozenset(state for state, targets in TRANSITIONS.items() if not targets)


class IllegalTransition(Permanent):
    """The run is not in a state from which this may happen."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to write one run, until it expires or is taken over. `token` only ever grows."""

    run_id: UUID
    token: int
    owner: str


Stage = Literal["verify", "deliver"]


def _write(run_id: UUID, to: RunState, where: ColumnElement[bool], values: Mapping[str, Any]) -> Any:
    sources = [state for state, targets in TRANSITIONS.items() if to in targets]
    released = {} if to is S.RUNNING else {"lease_owner": None, "lease_expires_at": None}
    stamps: dict[str, Any] = {}
    if to in FINAL:
        stamps["finished_at"] = func.now()
    elif to is S.CONCLUDED:
        stamps["concluded_at"] = func.now()
    return (
        update(Run)
        .where(Run.id == run_id, Run.state.in_(sources), where)
        .values(state=to, **{**released, **stamps, **values})
        .execution_options(synchronize_session=False)
    )


def advance(session: Session, lease: Lease, to: RunState, **values: Any) -> None:
    """Move a run that this worker holds. LeaseLost when it no longer does: nothing was written."""
    statement = _write(lease.run_id, to, Run.lease_token == lease.token, values)
    if session.execute(statement).rowcount != 1:  # type: ignore[attr-defined]
        raise LeaseLost(f"run {lease.run_id}: token {lease.token} may no longer move it to {to.value}")


def override(session: Session, run_id: UUID, to: RunState, **values: Any) -> None:
    """Move a run from outside (operator, sweep). Fences out its worker. IllegalTransition when it may not."""
    statement = _write(run_id, to, Run.id == run_id, {"lease_token": Run.lease_token + 1, **values})
    if session.execute(statement).rowcount != 1:  # type: ignore[attr-defined]
        raise IllegalTransition(f"run {run_id} can't become {to.value} from where it is")


def _lease_values(owner: str, seconds: float) -> dict[str, Any]:
    return {
        "lease_token": Run.lease_token + 1,
        "lease_owner": owner,
        "lease_expires_at": func.now() + timedelta(seconds=seconds),
    }


def claim_next(session: Session, *, profile: str, owner: str, seconds: float) -> Lease | None:
    """Take the next queued run of a profile: higher priority first, then the repository with the fewest running
    runs, then the oldest. None when there is nothing to do (the permit is spent)."""
    other = aliased(Run)
    busy = (
        select(func.count())
        .where(other.repository == Run.repository, other.state == S.RUNNING)
        .correlate(Run)
        .scalar_subquery()
    )
    candidate = (
        select(Run.id)
        .where(
            Run.state == S.QUEUED,
            Run.profile == profile,
            Run.held_reason.is_(None),
            switches.allow(),
            or_(Run.not_before.is_(None), Run.not_before <= func.now()),
        )
        .order_by(Run.priority.desc(), busy, Run.queued_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(Run)
        .where(Run.id == candidate, Run.state == S.QUEUED)
        .values(
            state=S.RUNNING,
            started_at=func.coalesce(Run.started_at, func.now()),
            reason=None,
            **_lease_values(owner, seconds),
        )
        .returning(Run.id, Run.lease_token)
        .execution_options(synchronize_session=False)
    )
    row = session.execute(statement).one_or_none()
    return None if row is None else Lease(run_id=row.id, token=row.lease_token, owner=owner)


def claim_stage(session: Session, run_id: UUID, stage: Stage, *, owner: str, seconds: float) -> Lease | None:
    """Take a concluded run for one later stage; None when it is done, held, or in other hands."""
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
            ready,
            or_(Run.not_before.is_(None), Run.not_before <= func.now()),
            or_(Run.lease_expires_at.is_(None), Run.lease_expires_at < func.now()),
        )
        .values(**_lease_values(owner, seconds))
        .returning(Run.lease_token)
        .execution_options(synchronize_session=False)
    )
    token = session.scalar(statement)
    return None if token is None else Lease(run_id=run_id, token=token, owner=owner)


def write(session: Session, lease: Lease, **values: Any) -> None:
    """Change a run's other columns under the lease. LeaseLost when it is gone."""
    statement = (
        update(Run)
        .where(Run.id == lease.run_id, Run.lease_token == lease.token)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    if session.execute(statement).rowcount != 1:  # type: ignore[attr-defined]
        raise LeaseLost(f"run {lease.run_id}: token {lease.token} no longer holds it")


def hand_back_stage(session: Session, lease: Lease, *, reason: str, wait: float, counts: bool) -> None:
    """Give a later stage back for another try in `wait` seconds; `counts` as an attempt when the failure was ours."""
    later = func.now() + timedelta(seconds=wait)
    write(
        session,
        lease,
        lease_owner=None,
        lease_expires_at=None,
        not_before=later,
        publish_after=later,
        reason=reason,
        attempt=Run.attempt + (1 if counts else 0),
    )


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
            state=case((spent, S.FAILED.value), (Run.state == S.RUNNING, S.QUEUED.value), else_=Run.state),
            finished_at=case((spent, func.now()), else_=None),
            reason=case((spent, "given up: its worker was lost too often"), else_="its worker was lost; trying again"),
        )
        .returning(Run.id, Run.state)
        .execution_options(synchronize_session=False)
    )
    return [(row.id, row.state) for row in session.execute(statement)]
