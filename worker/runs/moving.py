"""Queueing runs for another profile than the one they were asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from worker.errors import Permanent
from worker.runs import workforce
from worker.store import lanes
from worker.store.models import Run, RunState


class NotQueued(Permanent):
    """A run that was named does not wait in the queue of the profile it is to be moved from."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    count: int
    running: int  #: runs of the profile that workers hold: they stay
    in_vain: str | None  #: why nobody takes them where they are now


def move(session: Session, *, from_profile: str, to_profile: str, run_ids: Collection[UUID] = ()) -> Moved:
    """Move all queued runs of a profile, or those of `run_ids`; held and postponed ones are queued, too. Claims wait
    meanwhile, so no worker of the old profile takes one that is moved. NotQueued, and nothing is moved."""
    lanes.take_turns(session)
    which = [Run.profile == from_profile, Run.state == RunState.QUEUED]
    if run_ids:
        which.append(Run.id.in_(run_ids))
    rows = session.execute(
        update(Run)
        .where(*which)
        .values(profile=to_profile, announced=0, publish_after=func.now())
        .returning(Run.id, Run.priority, Run.repository)
        .execution_options(synchronize_session=False)
    ).all()
    if strangers := set(run_ids) - {row.id for row in rows}:
        names = ", ".join(sorted(map(str, strangers)))
        raise NotQueued(f"not queued for profile {from_profile}: {names}; see: devstral-fix runs list")
    lanes.open_lanes(session, [lanes.Key(to_profile, row.priority, row.repository) for row in rows])
    running = select(func.count()).where(Run.profile == from_profile, Run.state == RunState.RUNNING)
    return Moved(
        count=len(rows),
        running=session.scalar(running) or 0,
        in_vain=workforce.unserved(session, [to_profile]).get(to_profile),
    )
