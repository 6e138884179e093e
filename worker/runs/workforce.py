"""The worker processes of the service: who is there, what each serves and holds, and which profiles nobody serves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from worker.store.models import Run, RunState
from worker.store.operations import WorkerProcess
from worker.store.text import clean

KEPT = timedelta(days=7)
_NO_DRAIN = dict.fromkeys(("drain_requested_by", "drain_requested_at", "drain_until", "drain_then"))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A worker as people see it. `state`: starting (an engine takes minutes), running, draining (finishes what it
    holds), drained, ending (drained, and told to end then), lost (not seen for a lease's time), stopped, or failed (it
    ended, or never started, and nobody asked for that: `failure` says why); seconds are by the database's clock."""

    name: str
    role: str
    state: str
    queues: tuple[str, ...]
    profile: str
    slots: int
    isolation: str
    version: str
    model: str | None
    started_at: datetime
    age_seconds: float
    seen_seconds_ago: float
    drain_requested_by: str | None
    drain_seconds_left: float | None  #: until it hands back what it holds; None: it is not drained, or has no limit
    drain_then: str | None
    failure: str | None
    holds: tuple[UUID, ...]


def register(
    session: Session,
    name: str,
    *,
    role: str,
    queues: Sequence[str],
    profile: str,
    slots: int,
    isolation: str,
    version: str,
    lease_seconds: float,
    drain: Mapping[str, Any] = _NO_DRAIN,
) -> None:
    """A process that starts. One that had the same name is gone; so are those that ended long ago. `drain`: columns of
    one that it takes over (`worker.runs.draining`)."""
    session.execute(delete(WorkerProcess).where(WorkerProcess.seen_at < func.now() - KEPT))
    values = {
        "role": role,
        "queues": list(queues),
        "profile": profile,
        "slots": slots,
        "isolation": isolation,
        "version": version,
        "model": None,
        "lease_seconds": lease_seconds,
        "started_at": func.now(),
        "ready_at": None,
        "seen_at": func.now(),
        "ending_at": None,
        "stopped_at": None,
        "failure": None,
        **_NO_DRAIN,
        **drain,
    }
    statement = insert(WorkerProcess).values(name=name, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[WorkerProcess.name], set_=values))


def ready(session: Session, name: str) -> None:
    """It takes messages from now on."""
    statement = update(WorkerProcess).where(WorkerProcess.name == name)
    session.execute(statement.values(ready_at=func.now(), seen_at=func.now()))


def opened(session: Session, name: str, *, model: str) -> None:
    """What a gpu worker serves, as ledger rows name it."""
    session.execute(update(WorkerProcess).where(WorkerProcess.name == name).values(model=clean(model)))


def touch(session: Session, name: str) -> None:
    """It is alive."""
    session.execute(update(WorkerProcess).where(WorkerProcess.name == name).values(seen_at=func.now()))


def stop(session: Session, name: str, *, failure: str | None = None) -> None:
    """It has ended; `failure` says why where nobody asked for it."""
    why = None if failure is None else clean(failure)
    statement = update(WorkerProcess).where(WorkerProcess.name == name)
    session.execute(statement.values(stopped_at=func.now(), seen_at=func.now(), failure=why))


def seen(session: Session, *, every: bool = False) -> Sequence[Seen]:
    """The workers that did not stop, and those that failed and were not replaced since (`every`: all), oldest first."""
    holds = select(func.array_agg(Run.id)).where(Run.lease_owner == WorkerProcess.name).scalar_subquery()
    age = func.extract("epoch", func.now() - WorkerProcess.started_at)
    ago = func.extract("epoch", func.now() - WorkerProcess.seen_at)
    left = func.extract("epoch", WorkerProcess.drain_until - func.now())
    statement = select(WorkerProcess, holds, age, ago, left).order_by(WorkerProcess.started_at, WorkerProcess.name)
    if not every:
        statement = statement.where(or_(WorkerProcess.stopped_at.is_(None), _failed()))
    return [_seen(*row) for row in session.execute(statement)]


def _failed() -> ColumnElement[bool]:
    """It failed, and no worker of its host, role and profile was started after it."""
    later = aliased(WorkerProcess)
    host = [func.split_part(table.name, ":", 1) for table in (WorkerProcess, later)]
    same = (later.role == WorkerProcess.role, later.profile == WorkerProcess.profile, host[0] == host[1])
    replaced = exists().where(*same, later.started_at > WorkerProcess.started_at)
    return WorkerProcess.failure.is_not(None) & ~replaced


def _seen(row: WorkerProcess, holds: list[UUID] | None, age: float, ago: float, left: float | None) -> Seen:
    return Seen(
        name=row.name,
        role=row.role,
        state=_state(row, holds, float(ago)),
        queues=tuple(row.queues),
        profile=row.profile,
        slots=row.slots,
        isolation=row.isolation,
        version=row.version,
        model=row.model,
        started_at=row.started_at,
        age_seconds=round(float(age), 1),
        seen_seconds_ago=round(float(ago), 1),
        drain_requested_by=row.drain_requested_by,
        drain_seconds_left=None if left is None else max(0.0, round(float(left), 1)),
        drain_then=None if row.drain_then is None else row.drain_then.value,
        failure=row.failure,
        holds=tuple(holds or ()),
    )


def _state(row: WorkerProcess, holds: list[UUID] | None, ago: float) -> str:
    if row.stopped_at is not None:
        return "stopped" if row.failure is None else "failed"
    if ago > row.lease_seconds:
        return "lost"
    if row.ending_at is not None:
        return "ending"
    if row.ready_at is None:
        return "starting"
    if row.drain_requested_at is None:
        return "running"
    return "draining" if holds else "drained"


def unserved(session: Session, profiles: Collection[str]) -> dict[str, str]:
    """Of these profiles, those whose runs no worker takes now, and why."""
    ago = func.extract("epoch", func.now() - WorkerProcess.seen_at)
    here = (WorkerProcess.role == "gpu", WorkerProcess.stopped_at.is_(None), WorkerProcess.profile.in_(profiles))
    states: dict[str, set[str]] = {profile: set() for profile in profiles}
    for row, seconds in session.execute(select(WorkerProcess, ago).where(*here)):
        states[row.profile].add(_state(row, None, float(seconds)))
    return {profile: _why(profile, found) for profile, found in states.items() if "running" not in found}


def _why(profile: str, states: set[str]) -> str:
    if "starting" in states:
        return f"the worker of profile {profile} is starting"
    if states & {"drained", "draining", "ending"}:
        return f"the workers of profile {profile} are drained"
    return f"no worker serves profile {profile}"


def waiting_in_vain(session: Session) -> list[str]:
    """Of each profile whose queued runs no worker takes: how many wait, and why."""
    counted = select(Run.profile, func.count()).where(Run.state == RunState.QUEUED).group_by(Run.profile)
    waiting = {row[0]: row[1] for row in session.execute(counted)}
    why = unserved(session, waiting)
    return [f"{why[p]}: {n} {'run waits' if n == 1 else 'runs wait'}" for p, n in sorted(waiting.items()) if p in why]
