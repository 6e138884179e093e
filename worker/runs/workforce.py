"""The worker processes of the service: who is there, what each holds, and who shall take nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from worker.errors import Permanent
from worker.store import pg_notify
from worker.store.models import Run
from worker.store.operations import WorkerProcess
from worker.store.text import clean

KEPT = timedelta(days=7)


class NoSuchWorker(Permanent):
    """No worker that is there has this name, or more than one begins with it."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A worker as people see it. `state`: starting (an engine takes minutes), running, draining (finishes what it
    holds), drained, lost (not seen for a lease's time) or stopped; ages are seconds by the database's clock."""

    name: str
    role: str
    state: str
    queues: tuple[str, ...]
    profile: str
    slots: int
    isolation: str
    version: str
    started_at: datetime
    age_seconds: float
    seen_seconds_ago: float
    drain_requested_by: str | None
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
) -> None:
    """A process that starts. One that had the same name is gone; so are those that ended long ago."""
    session.execute(delete(WorkerProcess).where(WorkerProcess.seen_at < func.now() - KEPT))
    values = {
        "role": role,
        "queues": list(queues),
        "profile": profile,
        "slots": slots,
        "isolation": isolation,
        "version": version,
        "lease_seconds": lease_seconds,
        "started_at": func.now(),
        "ready_at": None,
        "seen_at": func.now(),
        "drain_requested_by": None,
        "drain_requested_at": None,
        "stopped_at": None,
    }
    statement = insert(WorkerProcess).values(name=name, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[WorkerProcess.name], set_=values))


def ready(session: Session, name: str) -> None:
    """It takes messages from now on."""
    statement = update(WorkerProcess).where(WorkerProcess.name == name)
    session.execute(statement.values(ready_at=func.now(), seen_at=func.now()))


def touch(session: Session, name: str) -> bool:
    """It is alive. Returns whether it shall take nothing more."""
    statement = (
        update(WorkerProcess)
        .where(WorkerProcess.name == name)
        .values(seen_at=func.now())
        .returning(WorkerProcess.drain_requested_at)
    )
    row = session.execute(statement).one_or_none()
    return row is not None and row.drain_requested_at is not None


def stop(session: Session, name: str) -> None:
    statement = update(WorkerProcess).where(WorkerProcess.name == name)
    session.execute(statement.values(stopped_at=func.now(), seen_at=func.now()))


def drain(
    session: Session, name: str, *, by: str, every: bool = False, undo: bool = False
) -> Sequence[tuple[str, bool]]:
    """Ask the worker of this name (or the only one whose name begins so; `every`: all of them) to take nothing more,
    or (`undo`) to take permits again. Returns (name, whether it was draining before) of each. NoSuchWorker."""
    there = WorkerProcess.stopped_at.is_(None)
    rows = session.execute(
        select(WorkerProcess.name, WorkerProcess.drain_requested_at)
        .where(there, or_(WorkerProcess.name == name, WorkerProcess.name.startswith(name, autoescape=True)))
        .order_by(WorkerProcess.name)
        .with_for_update()
    ).all()
    found = {row[0]: row[1] is not None for row in rows}
    if name in found and not every:
        found = {name: found[name]}
    if not found:
        raise NoSuchWorker(f"no worker's name begins with {name!r}; see: devstral-fix workers list")
    if len(found) > 1 and not every:
        raise NoSuchWorker(f"{len(found)} workers' names begin with {name!r}: say more, or --all")
    asked: dict[str, Any] = {"drain_requested_by": None, "drain_requested_at": None}
    if not undo:
        first = func.coalesce(WorkerProcess.drain_requested_at, func.now())
        asked = {"drain_requested_by": clean(by), "drain_requested_at": first}
    session.execute(update(WorkerProcess).where(WorkerProcess.name.in_(found)).values(**asked))
    pg_notify.about_everything(session)
    return list(found.items())


def seen(session: Session, *, every: bool = False) -> Sequence[Seen]:
    """The workers that did not stop (`every`: those too), oldest first."""
    holds = select(func.array_agg(Run.id)).where(Run.lease_owner == WorkerProcess.name).scalar_subquery()
    age = func.extract("epoch", func.now() - WorkerProcess.started_at)
    ago = func.extract("epoch", func.now() - WorkerProcess.seen_at)
    statement = select(WorkerProcess, holds, age, ago).order_by(WorkerProcess.started_at, WorkerProcess.name)
    if not every:
        statement = statement.where(WorkerProcess.stopped_at.is_(None))
    return [_seen(*row) for row in session.execute(statement)]


def _seen(row: WorkerProcess, holds: list[UUID] | None, age: float, ago: float) -> Seen:
    if row.stopped_at is not None:
        state = "stopped"
    elif float(ago) > row.lease_seconds:
        state = "lost"
    elif row.ready_at is None:
        state = "starting"
    elif row.drain_requested_at is None:
        state = "running"
    else:
        state = "draining" if holds else "drained"
    return Seen(
        name=row.name,
        role=row.role,
        state=state,
        queues=tuple(row.queues),
        profile=row.profile,
        slots=row.slots,
        isolation=row.isolation,
        version=row.version,
        started_at=row.started_at,
        age_seconds=round(float(age), 1),
        seen_seconds_ago=round(float(ago), 1),
        drain_requested_by=row.drain_requested_by,
        holds=tuple(holds or ()),
    )
