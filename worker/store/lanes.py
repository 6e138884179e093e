"""Lanes: the queue's order. One row per (profile, priority, repository) that has, or lately had, queued runs.

A claim walks the lanes of its profile and takes the oldest run of the first that may give one, so its cost does not
grow with the queue. A lane remembers when it was last claimed from: that makes the order round-robin. Its turn lasts a few
claims of one worker, whose engine then holds once what runs of one repository begin with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Index,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from worker.store import switches
from worker.store.backoff import next_announcement
from worker.store.base import Base
from worker.store.models import Run, RunState
from worker.store.room import may_start

REPOSITORY_SLOTS = 8  # runs of one repository at once, where no setting says otherwise
CLAIMS = 0x636C61  # "cla": the advisory lock that claims take turns by
STALLED_MS = 3000  # a claim takes milliseconds; a process that is stopped inside one must not stop the others
TURN = 4  # claims of a lane's turn, where no setting says otherwise
WARM = timedelta(minutes=15)  # after so long without a claim what a turn's runs shared is no longer in an engine's cache
MEMORY = timedelta(hours=1)  # an emptied lane keeps its place: one that is filled run by run must not always come first


class Lane(Base):
    """Queued runs of one repository, at one priority, for one profile."""

    __tablename__ = "lanes"

    profile: Mapped[str] = mapped_column(Text, primary_key=True)
    priority: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    repository: Mapped[str] = mapped_column(Text, primary_key=True)
    last_claimed_at: Mapped[datetime | None] = mapped_column()
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())
    turn_of: Mapped[str | None]  #: the worker that claimed from it last
    turn_left: Mapped[int] = mapped_column(server_default="0")  #: claims that this worker's turn has left
    turn_size: Mapped[int | None]  #: how many it had, by that worker's setting

    __table_args__ = (
        Index("ix_lanes_turn", "profile", "turn_of", postgresql_where=text("turn_of IS NOT NULL")),
        Index(
            "ix_lanes_order",
            "profile",
            priority.desc(),
            last_claimed_at.asc().nulls_first(),
            "opened_at",
            "repository",
        ),
    )


class Permit(Base):
    """How often a profile's permit was announced by the sweep without a claim since."""

    __tablename__ = "permits"

    profile: Mapped[str] = mapped_column(Text, primary_key=True)
    announced: Mapped[int] = mapped_column(server_default="0")
    publish_after: Mapped[datetime] = mapped_column(server_default=func.now())


class Key(NamedTuple):
    """What names a lane."""

    profile: str
    priority: int
    repository: str


class Candidate(NamedTuple):
    """The run that the order says is next."""

    run_id: UUID
    lane: Key
    goes_on: bool = False  #: with the turn of the worker that asked


LANES, PERMITS = (Base.metadata.tables[table.__tablename__] for table in (Lane, Permit))
ORDER = (Lane.priority.desc(), Lane.last_claimed_at.asc().nulls_first(), Lane.opened_at, Lane.repository)


def run_conditions() -> list[ColumnElement[bool]]:
    """What a queued run has to fulfil to be claimed. Conditions that look at one run belong here."""
    return [
        Run.state == RunState.QUEUED,
        Run.held_reason.is_(None),
        or_(Run.not_before.is_(None), Run.not_before <= func.now()),
        may_start(),
        switches.allow(),
    ]


def lane_conditions(repository_slots: ColumnElement[int] | int) -> list[ColumnElement[bool]]:
    """What a lane has to fulfil to give a run. Conditions on a repository, a profile or the whole service belong
    here."""
    busy = aliased(Run)
    running = (
        select(func.count())
        .where(busy.repository == Lane.repository, busy.state == RunState.RUNNING)
        .correlate(Lane)
        .scalar_subquery()
    )
    return [running < repository_slots]


def turn_goes_on() -> ColumnElement[bool]:
    """The lane is the one that its worker claimed from last, lately, and the turn has claims left. A worker has one turn:
    it gives it up when it claims elsewhere, and nobody else waits for one."""
    newer = aliased(Lane)
    later = exists().where(
        newer.profile == Lane.profile, newer.turn_of == Lane.turn_of, newer.last_claimed_at > Lane.last_claimed_at
    )
    return and_(Lane.turn_left > 0, Lane.last_claimed_at > func.now() - WARM, ~later.correlate(Lane))


def _walk(*which: ColumnElement[bool]) -> Any:
    oldest = (
        select(Run.id)
        .where(
            Run.profile == Lane.profile,
            Run.priority == Lane.priority,
            Run.repository == Lane.repository,
            *run_conditions(),
            Run.id.not_in(bindparam("skipped", expanding=True)),
        )
        .order_by(Run.queued_at, Run.id)
        .limit(1)
        .correlate(Lane)
        .lateral()
    )
    slots = bindparam("slots", type_=BigInteger)
    return (
        select(oldest.c.id, Lane.profile, Lane.priority, Lane.repository)
        .select_from(Lane)
        .join(oldest, literal(value=True))
        .where(Lane.profile == bindparam("profile"), *which, *lane_conditions(slots))
        .order_by(*ORDER)
        .limit(1)
    )


_WALK = _walk()
_ABOVE = _walk(Lane.priority > bindparam("above", type_=BigInteger))
_ON = _walk(Lane.turn_of == bindparam("owner"), turn_goes_on())


_TAKE_TURNS = text(
    f"SELECT set_config('idle_in_transaction_session_timeout', '{STALLED_MS}', true), pg_advisory_xact_lock({CLAIMS})"
)


def take_turns(session: Session) -> None:
    """Claims happen one after the other until the end of this transaction, so that order and cap are exact. All
    profiles share the lock, since the cap counts over all of them."""
    session.execute(_TAKE_TURNS)


def candidate(
    session: Session, profile: str, *, repository_slots: int, skipped: Sequence[UUID] = (), owner: str | None = None
) -> Candidate | None:
    """The next run of a profile, not locked; None when nothing may be claimed. A turn of `owner` goes on, unless
    something of a higher priority waits."""
    values: dict[str, Any] = {"profile": profile, "slots": repository_slots, "skipped": list(skipped)}
    on = None if owner is None else session.execute(_ON, values | {"owner": owner}).one_or_none()
    if on is None:
        row = session.execute(_WALK, values).one_or_none()
    else:
        row = session.execute(_ABOVE, values | {"above": on.priority}).one_or_none() or on
    return None if row is None else Candidate(row[0], Key(row[1], row[2], row[3]), goes_on=row is on)


_RESET = (
    update(PERMITS)
    .where(PERMITS.c.profile == bindparam("lane_profile"), PERMITS.c.announced > 0)
    .values(announced=0, publish_after=func.now())
)
_CLAIMED = (
    update(LANES)
    .where(
        LANES.c.profile == bindparam("lane_profile"),
        LANES.c.priority == bindparam("lane_priority"),
        LANES.c.repository == bindparam("lane_repository"),
    )
    .values(
        # Not now(): that is when the transaction began, perhaps before it had its turn.
        last_claimed_at=func.clock_timestamp(),
        turn_of=bindparam("lane_owner"),
        turn_left=case((bindparam("goes_on", type_=Boolean), LANES.c.turn_left), else_=bindparam("turn")) - 1,
        turn_size=bindparam("turn", type_=BigInteger),
    )
    .add_cte(_RESET.returning(PERMITS.c.profile).cte("reset"))
)


def claimed(session: Session, found: Candidate, *, owner: str, turn: int = 1) -> None:
    """The lane goes to the end of the round, but for what its turn of `turn` claims has left for `owner`; somebody
    claims, so the sweep's announcements start anew."""
    values = {f"lane_{name}": value for name, value in found.lane._asdict().items()}
    session.execute(_CLAIMED, values | {"lane_owner": owner, "goes_on": found.goes_on, "turn": turn})


def open_lanes(session: Session, lanes: Iterable[Key]) -> None:
    """To be called in the transaction that queues a run, or gives one back. The lane can't be removed before this
    transaction ends; and its run is announced soon, however often others were in vain."""
    for lane in sorted(set(lanes)):  # in one order, so that two who open several don't wait for each other
        held = select(Lane.profile).where(
            Lane.profile == lane.profile, Lane.priority == lane.priority, Lane.repository == lane.repository
        )
        while True:
            session.execute(insert(Lane).values(lane._asdict()).on_conflict_do_nothing())
            # A key share lock stops its removal only: claims from it go on.
            if session.scalar(held.with_for_update(read=True, key_share=True)) is not None:
                break
        session.execute(_RESET, {"lane_profile": lane.profile})


_QUEUED_IN_LANE = and_(
    Run.state == RunState.QUEUED,
    Run.profile == Lane.profile,
    Run.priority == Lane.priority,
    Run.repository == Lane.repository,
)


def mend(session: Session) -> int:
    """The sweep's part: lanes that are missing are added. Returns how many were."""
    missing = (
        select(Run.profile, Run.priority, Run.repository)
        .where(Run.state == RunState.QUEUED, ~exists().where(_QUEUED_IN_LANE).correlate(Run))
        .distinct()
    )
    columns = ["profile", "priority", "repository"]
    added = insert(Lane).from_select(columns, missing, include_defaults=False).on_conflict_do_nothing()
    return len(session.execute(added.returning(Lane.repository)).all())


def tidy(session: Session, *, limit: int = 1000) -> int:
    """The sweep's part: lanes without runs are removed once nobody remembers their last claim. Returns how many."""
    key = tuple_(Lane.profile, Lane.priority, Lane.repository)
    empty = [
        func.coalesce(Lane.last_claimed_at, Lane.opened_at) < func.now() - MEMORY,
        ~exists().where(_QUEUED_IN_LANE).correlate(Lane),
    ]
    found = session.execute(
        select(Lane.profile, Lane.priority, Lane.repository)
        .where(*empty)
        .order_by(Lane.profile, Lane.priority, Lane.repository)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    if not found:
        return 0
    # Looked at again by a second statement: a run may have been queued before the lock was had, and is seen now.
    gone = delete(Lane).where(key.in_([tuple(row) for row in found]), *empty).returning(Lane.repository)
    return len(session.execute(gone.execution_options(synchronize_session=False)).all())


def due_profiles(session: Session, *, repository_slots: int) -> list[str]:
    """Profiles that have something to claim and were not announced lately; each is due again later and later until
    somebody claims."""
    profiles = select(Lane.profile).distinct().subquery()
    session.execute(insert(Permit).from_select(["profile"], select(profiles.c.profile)).on_conflict_do_nothing())
    due = session.scalars(
        select(Permit.profile)
        .where(Permit.publish_after <= func.now())
        .order_by(Permit.profile)
        .with_for_update(skip_locked=True)
    ).all()
    waiting = [p for p in due if candidate(session, p, repository_slots=repository_slots) is not None]
    if waiting:
        session.execute(
            update(Permit)
            .where(Permit.profile.in_(waiting))
            .values(announced=Permit.announced + 1, publish_after=next_announcement(Permit.announced))
            .execution_options(synchronize_session=False)
        )
    return waiting
