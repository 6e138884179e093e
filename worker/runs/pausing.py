"""What is paused: everything, or one repository. A paused service takes requests and queues runs; nothing is claimed,
and nothing is delivered. Verification and set-ups go on: they cost no GPU and show nothing to anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from worker.store import pg_notify
from worker.store.models import LIVE, Delivery, Run
from worker.store.operations import Switch
from worker.store.switches import EVERYTHING
from worker.store.text import clean


@dataclass(frozen=True, kw_only=True)
class Pause:
    scope: str
    requested_by: str
    reason: str | None

    @property
    def everything(self) -> bool:
        return self.scope == EVERYTHING

    def __str__(self) -> str:
        what = "" if self.everything else f" {self.scope}"
        return f"paused{what} by {self.requested_by}" + (f": {self.reason}" if self.reason else "")


def _scope(repository: str | None) -> str:
    return EVERYTHING if repository is None else repository.lower()


def pause(session: Session, *, by: str, reason: str | None, repository: str | None = None, at_once: bool) -> None:
    """Again for the same scope changes the words, and whether what runs is called back."""
    values = {
        "requested_by": clean(by),
        "reason": None if reason is None else clean(reason),
        "at_once": at_once,
        "created_at": func.now(),
    }
    statement = insert(Switch).values(scope=_scope(repository), **values)
    session.execute(statement.on_conflict_do_update(index_elements=[Switch.scope], set_=values))
    pg_notify.about_everything(session)


def known(session: Session, repository: str) -> bool:
    """Whether it ever had a run, or asked for one."""
    here = repository.lower()
    asked = select(exists().where(func.lower(Delivery.repository) == here))
    return bool(session.scalar(select(exists().where(func.lower(Run.repository) == here))) or session.scalar(asked))


def resume(session: Session, *, repository: str | None = None) -> bool:
    """False when it was not paused. What waited is due at once, so that the next sweep announces it."""
    scope = _scope(repository)
    gone = session.scalar(delete(Switch).where(Switch.scope == scope).returning(Switch.scope))
    if gone is None:
        return False
    waiting = [Run.state.in_(LIVE), Run.lease_owner.is_(None), Run.publish_after > func.now()]
    if repository is not None:
        waiting.append(func.lower(Run.repository) == scope)
    session.execute(update(Run).where(*waiting).values(publish_after=func.now()))
    pg_notify.about_everything(session)
    return True


def pauses(session: Session, *, repository: str | None = None) -> Sequence[Pause]:
    """What is paused, the whole service first; with `repository`, only what concerns it."""
    statement = select(Switch).order_by(Switch.scope)
    if repository is not None:
        statement = statement.where(Switch.scope.in_([EVERYTHING, repository.lower()]))
    return [
        Pause(scope=row.scope, requested_by=row.requested_by, reason=row.reason) for row in session.scalars(statement)
    ]
