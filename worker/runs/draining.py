"""Draining: workers that shall take nothing more, what becomes of what they hold, and what they do then.

A drain belongs to a process. It ends with it, unless that process ended by a failure: then the next one of its host,
role and profile takes it over, for people who wait for an empty GPU must not find it busy again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import Session

from worker.errors import Permanent
from worker.store import pg_notify
from worker.store.operations import Then, WorkerProcess
from worker.store.text import clean

_NOT_DRAINED: dict[str, Any] = {
    "drain_requested_by": None,
    "drain_requested_at": None,
    "drain_until": None,
    "drain_then": None,
}


class NoSuchWorker(Permanent):
    """No worker that is there has this name or profile, or more than one begins with it."""


class TooLate(Permanent):
    """The worker has begun to end."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What is asked of a worker."""

    draining: bool = False
    overdue: bool = False  #: what it holds is to be handed back
    then: Then = Then.STAY


def named(session: Session, name: str, *, every: bool = False) -> list[str]:
    """The worker of this name, or the only one whose name begins so (`every`: all of them). NoSuchWorker."""
    begins = or_(WorkerProcess.name == name, WorkerProcess.name.startswith(name, autoescape=True))
    found = _there(session, begins)
    if name in found and not every:
        return [name]
    if not found:
        raise NoSuchWorker(f"no worker's name begins with {name!r}; see: devstral-fix workers list")
    if len(found) > 1 and not every:
        raise NoSuchWorker(f"{len(found)} workers' names begin with {name!r}: say more, or --all")
    return found


def serving(session: Session, profile: str) -> list[str]:
    """The gpu workers of a profile. NoSuchWorker."""
    found = _there(session, WorkerProcess.role == "gpu", WorkerProcess.profile == profile)
    if not found:
        raise NoSuchWorker(f"no gpu worker of profile {profile!r} is there; see: devstral-fix workers list")
    return found


def _there(session: Session, *which: ColumnElement[bool]) -> list[str]:
    statement = select(WorkerProcess.name).where(WorkerProcess.stopped_at.is_(None), *which)
    return list(session.scalars(statement.order_by(WorkerProcess.name).with_for_update()))


def drain(
    session: Session, names: Sequence[str], *, by: str, within: timedelta | None = None, then: Then = Then.STAY
) -> dict[str, bool]:
    """Ask them to take nothing more, and whether each was draining before. After `within` of the first request they
    hand back what they still hold, at the end of its step; without it they take their time. Asked again, the newest
    limit and `then` count."""
    before = _draining(session, names)
    first = func.coalesce(WorkerProcess.drain_requested_at, func.now())
    asked = {
        "drain_requested_by": clean(by),
        "drain_requested_at": first,
        "drain_until": None if within is None else first + within,
        "drain_then": then,
    }
    session.execute(
        update(WorkerProcess).where(WorkerProcess.name.in_(names), WorkerProcess.ending_at.is_(None)).values(**asked)
    )
    pg_notify.about_everything(session)
    return before


def undo(session: Session, names: Sequence[str]) -> dict[str, bool]:
    """Let them take permits again, and whether each was draining. TooLate, and nothing is changed, where one has begun
    to end."""
    before = _draining(session, names)
    ending = session.scalars(
        select(WorkerProcess.name).where(WorkerProcess.name.in_(names), WorkerProcess.ending_at.is_not(None))
    ).all()
    if ending:
        raise TooLate(f"{', '.join(sorted(ending))}: it was drained and is ending already")
    session.execute(update(WorkerProcess).where(WorkerProcess.name.in_(names)).values(**_NOT_DRAINED))
    pg_notify.about_everything(session)
    return before


def _draining(session: Session, names: Sequence[str]) -> dict[str, bool]:
    statement = select(WorkerProcess.name, WorkerProcess.drain_requested_at.is_not(None))
    rows = session.execute(
        statement.where(WorkerProcess.name.in_(names)).order_by(WorkerProcess.name).with_for_update()
    )
    return {row[0]: row[1] for row in rows}


def orders(session: Session, name: str) -> Orders:
    """What is asked of this worker now."""
    overdue = func.coalesce(WorkerProcess.drain_until <= func.now(), False)
    row = session.execute(
        select(WorkerProcess.drain_requested_at, overdue, WorkerProcess.drain_then).where(WorkerProcess.name == name)
    ).one_or_none()
    if row is None or row[0] is None:
        return Orders()
    return Orders(draining=True, overdue=row[1], then=row[2] or Then.STAY)


def begin_end(session: Session, name: str) -> Then | None:
    """A drained worker that was told to end does so: nobody can undo it from then on. None where it was undone in the
    last moment."""
    statement = (
        update(WorkerProcess)
        .where(WorkerProcess.name == name, WorkerProcess.drain_requested_at.is_not(None))
        .where(WorkerProcess.drain_then.in_([Then.STOP, Then.RESTART]))
        .values(ending_at=func.now())
        .returning(WorkerProcess.drain_then)
    )
    return session.scalar(statement)


def ended_for_good(session: Session, name: str) -> bool:
    """Whether this worker ended because people wanted it to, and not to be started again."""
    told = (WorkerProcess.ending_at.is_not(None), WorkerProcess.drain_then == Then.STOP)
    return bool(session.scalar(select(exists().where(WorkerProcess.name == name, *told))))


def left_over(session: Session, *, host: str, role: str, profile: str) -> list[str]:
    """Workers of this kind that failed, or vanished, before their drain was over; the newest first. Whether the process
    of one that is not known to have ended is there is the caller's to find out."""
    alike = (WorkerProcess.role == role, WorkerProcess.profile == profile)
    failed = or_(WorkerProcess.stopped_at.is_(None), WorkerProcess.failure.is_not(None))
    statement = select(WorkerProcess.name).where(
        WorkerProcess.name.startswith(f"{host}:", autoescape=True),
        *alike,
        failed,
        WorkerProcess.drain_requested_at.is_not(None),
        WorkerProcess.drain_then.is_distinct_from(Then.RESTART),
    )
    return list(session.scalars(statement.order_by(WorkerProcess.started_at.desc())))


def taken_over(session: Session, name: str) -> dict[str, Any]:
    """The drain of a worker that is gone, as columns of its heir's row; it is no longer its own."""
    columns = [WorkerProcess.__table__.c[column] for column in _NOT_DRAINED]
    row = session.execute(select(*columns).where(WorkerProcess.name == name).with_for_update()).mappings().one()
    gone = {**_NOT_DRAINED, "stopped_at": func.coalesce(WorkerProcess.stopped_at, func.now())}
    session.execute(update(WorkerProcess).where(WorkerProcess.name == name).values(**gone))
    return dict(row)
