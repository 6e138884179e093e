"""Where a queued run stands, and when its turn may come: what people are told, with the basis it rests on."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.runs import workforce
from worker.store import lanes
from worker.store.models import Run, RunState

MEASURED = 20  # of the runs that concluded last, so many are looked at
FEWEST = 5  # and with fewer than these nothing is foretold
LATELY = timedelta(hours=1)  # a worker that ran nothing for so long is not counted on


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How quickly the queue of a profile moves, as far as is known."""

    durations: tuple[float, ...]  #: seconds, of the runs that concluded last
    slots: int  #: the most that were running at once lately

    def wait(self, position: int) -> tuple[float, float] | None:
        """Seconds until the run at `position` (from 1) is claimed, from and to. None when too little is known."""
        if len(self.durations) < FEWEST or self.slots == 0:
            return None
        low, _, high = statistics.quantiles(self.durations, n=4, method="inclusive")
        return (position - 1) * low / self.slots, position * high / self.slots

    @property
    def basis(self) -> str:
        """What `wait` rests on, or why it says nothing."""
        if len(self.durations) < FEWEST:
            return f"no estimate: {len(self.durations)} runs measured, {FEWEST} are needed"
        median = f"the last {len(self.durations)} runs took {spoken(statistics.median(self.durations))} in the median"
        if self.slots == 0:
            return f"no estimate: {median}, but none was running within the last hour"
        return f"{median}, {self.slots} at once"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Of one run that may be claimed: how many claims come first by the order of the lanes, and itself."""

    position: int
    of: int
    wait: tuple[float, float] | None
    basis: str  #: of `wait`; where no worker takes the profile's runs, that

    def as_json(self) -> dict[str, Any]:
        """`wait_seconds` is [from, to], or null where too little is known."""
        wait = None if self.wait is None else [round(seconds) for seconds in self.wait]
        return {"position": self.position, "of": self.of, "wait_seconds": wait, "basis": self.basis}

    def __str__(self) -> str:
        about = "" if self.wait is None else f"; {between(*self.wait)}"
        return f"position {self.position} of {self.of}{about} ({self.basis})"


def spoken(seconds: float) -> str:
    """A duration that is not known to the second."""
    if seconds < 90:
        return "a minute" if seconds >= 45 else "less than a minute"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"


def between(low: float, high: float) -> str:
    """A wait as a range; both ends in the same unit where that can be."""
    if high < 90:
        return f"starts in {'about ' if high >= 45 else ''}{spoken(high)}"
    if low >= 60 and high < 90 * 60:
        first, last = round(low / 60), round(high / 60)
        return f"starts in about {first} to {last} minutes" if first < last else f"starts in about {last} minutes"
    return f"starts within {spoken(high)}" if low < 60 else f"starts in about {spoken(low)} to {spoken(high)}"


def pace(session: Session, profile: str) -> Pace:
    """Measured from the rows. Runs that were interrupted are left out: their time is not one worker's."""
    began, measured = func.coalesce(Run.started_at, Run.queued_at), Run.started_at.is_not(None)
    concluded = session.execute(
        select(began, func.coalesce(Run.concluded_at, func.now()), func.now())
        .where(Run.profile == profile, Run.concluded_at.is_not(None), measured, Run.attempt == 0)
        .order_by(Run.concluded_at.desc())
        .limit(MEASURED)
    ).all()
    running = session.execute(
        select(began, func.now(), func.now()).where(Run.profile == profile, Run.state == RunState.RUNNING)
    ).all()
    lately = [(start, end) for start, end, now in [*concluded, *running] if now - end <= LATELY]
    durations = tuple((end - start).total_seconds() for start, end, _ in concluded)
    return Pace(durations=durations, slots=_most_at_once(lately))


def _most_at_once(spans: Sequence[tuple[datetime, datetime]]) -> int:
    # Of an end and a start at the same moment the end comes first: one slot served both.
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def places(session: Session, run_ids: Sequence[UUID]) -> dict[UUID, Place]:
    """The places of those runs that are queued and may be claimed; the others (held, postponed, running, ended) have
    none. Exact by the order of the lanes and their turns where one worker claims; several take turns side by side. A
    repository at its cap is passed over when its turn comes, and who is queued later with a higher priority goes
    first."""
    profiles = session.scalars(
        select(Run.profile).where(Run.id.in_(run_ids), Run.state == RunState.QUEUED).distinct()
    ).all()
    return {run_id: place for profile in profiles for run_id, place in _of_profile(session, profile, run_ids).items()}


def place(session: Session, run_id: UUID) -> Place | None:
    return places(session, [run_id]).get(run_id)


def _of_profile(session: Session, profile: str, run_ids: Sequence[UUID]) -> dict[UUID, Place]:
    lane = (Run.priority, Run.repository)
    waiting = (Run.profile == profile, *lanes.run_conditions())
    numbered = (
        select(
            Run.id, *lane, func.row_number().over(partition_by=lane, order_by=(Run.queued_at, Run.id)).label("place")
        )
        .where(*waiting)
        .subquery()
    )
    asked = session.execute(select(numbered).where(numbered.c.id.in_(run_ids))).all()
    counts = {
        (row[0], row[1]): row[2] for row in session.execute(select(*lane, func.count()).where(*waiting).group_by(*lane))
    }
    turns = _turns(session, profile, top=max((priority for priority, _ in counts), default=0))
    speed, in_vain = pace(session, profile), workforce.unserved(session, [profile]).get(profile)
    total = sum(counts.values())
    found = {}
    for run_id, priority, repository, place in asked:
        before = place - 1  # of its own lane
        own = turns.block((priority, repository), place)
        for other, count in counts.items():
            if other[0] > priority:
                before += count
            elif other[0] == priority and other[1] != repository:
                before += min(count, turns.given(other, by=own, before=(priority, repository)))
        position = before + 1
        wait = None if in_vain else speed.wait(position)
        found[run_id] = Place(position=position, of=total, wait=wait, basis=in_vain or speed.basis)
    return found


@dataclass(frozen=True, kw_only=True)
class _Turns:
    """How claims go round the lanes of a profile; a lane is named by its priority and its repository."""

    size: int  #: claims of a turn
    ranks: Mapping[tuple[int, str], int]
    left: Mapping[tuple[int, str], int]  #: claims of turns that were begun: they come before any round

    def rank(self, lane: tuple[int, str]) -> int:
        return self.ranks.get(lane, len(self.ranks))  # one that is missing is added by the sweep, at the end

    def block(self, lane: tuple[int, str], place: int) -> int:
        """The round in which a lane gives its run at `place`, both from 1; 0: in the turn that was begun."""
        return max(0, -((self.left.get(lane, 0) - place) // self.size))

    def given(self, other: tuple[int, str], *, by: int, before: tuple[int, str]) -> int:
        """Runs that `other` may have given by the time that the lane `before` gives some in round `by`: those before it
        in the order are one round ahead."""
        rounds = by - (self.rank(other) > self.rank(before))
        return 0 if rounds < 0 else self.left.get(other, 0) + self.size * rounds


def _turns(session: Session, profile: str, *, top: int) -> _Turns:
    """`top`: the highest priority that waits; turns below it are given up for it."""
    lane = lanes.Lane
    goes_on = lanes.turn_goes_on(lane.turn_of, lane.profile)
    rows = session.execute(
        select(lane.priority, lane.repository, lane.turn_left, goes_on)
        .where(lane.profile == profile)
        .order_by(*lanes.ORDER)
    ).all()
    size = session.scalar(
        select(lane.turn_size)
        .where(lane.profile == profile, lane.turn_size.is_not(None))
        .order_by(lane.last_claimed_at.desc())
        .limit(1)
    )
    return _Turns(
        size=size or lanes.TURN,
        ranks={(row[0], row[1]): rank for rank, row in enumerate(rows)},
        left={(row[0], row[1]): row[2] for row in rows if row[3] and row[0] == top},
    )


def told(session: Session, run: Run) -> str | None:
    """What people are told about the wait of a run; None when it does not wait."""
    if run.state is not RunState.QUEUED:
        return None
    found = place(session, run.id)
    if found is not None:
        return str(found)
    return f"waits for its {run.held_reason}" if run.held_reason else "is tried again soon"
