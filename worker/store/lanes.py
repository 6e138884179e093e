"""Lanes: the queue's order. One row per (profile, priority, repository) that has, or lately had, queued runs.

A claim walks the lanes of its profile and takes the oldest run of the first that may give one, so its cost does not
grow with the queue. A lane remembers when it was last claimed from: that makes the order round-robin. Its turn lasts a
few claims of one worker, whose engine then holds once what runs of one repository begin with.
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
    SQLColumnExpression,
    Text,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    text,
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
WARM = timedelta(
    minutes=15
)  # after so long without a claim what a turn's runs shared is no longer in an engine's cache


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
        Index("ix_lanes_turn", "profile", "turn_of", "last_claimed_at", postgresql_where=text("turn_of IS NOT NULL")),
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


def turn_goes_on(owner: SQLColumnExpression[str | None], profile: SQLColumnExpression[str]) -> ColumnElement[bool]:
    """The lane is the one that this worker claimed from last, lately, and the turn has claims left. A worker has one
    turn: it gives it up when it claims elsewhere, and nobody else waits for one."""
    own = aliased(Lane)
    last = select(func.max(own.last_claimed_at)).where(own.profile == profile, own.turn_of == owner).scalar_subquery()
    return and_(
        Lane.turn_of == owner,
        Lane.turn_left > 0,
        Lane.last_claimed_at > func.now() - WARM,
        Lane.last_claimed_at == last,
    )


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
_TURN = select(Lane.priority, Lane.repository).where(
    turn_goes_on(bindparam("owner", type_=Text), bindparam("profile", type_=Text))
)
_THAT_OR_ABOVE = _walk(
    or_(
        Lane.priority > bindparam("priority", type_=BigInteger),
        and_(Lane.priority == bindparam("priority", type_=BigInteger), Lane.repository == bindparam("repository")),
    )
)


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
    row, turn = None, None
    if owner is not None:
        turn = session.execute(_TURN, {"profile": profile, "owner": owner}).one_or_none()
    if turn is not None:
        row = session.execute(_THAT_OR_ABOVE, values | turn._asdict()).one_or_none()
    if row is None:
        row = session.execute(_WALK, values).one_or_none()
    return None if row is None else Candidate(row[0], Key(*row[1:]), goes_on=row[2:] == turn)


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
