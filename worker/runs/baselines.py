"""Who executes a commit's tests before any change, and what came of it: once for all runs of the commit, also for
those that ask at the same time. No lease: who claims it has until `claimed_until`, and a later one writes nothing."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Update, and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from agent.outcome import Execution
from agent.reports import Case
from worker.store.evidence import Baseline
from worker.store.models import Run, RunState
from worker.store.text import clean

WAITS = "waits for another run that executes the tests on the same commit"
UNSURE_FOR = timedelta(hours=1)  # how long one that could not be judged is kept: a busy machine passes


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a baseline depends on."""

    repository: str
    commit: str
    setup_key: str | None
    digest: str


@dataclass(frozen=True)
class Claim:
    """It is to be executed, by whoever got this."""

    id: UUID


@dataclass(frozen=True)
class Busy:
    """Somebody is at it, for so many seconds at most."""

    seconds: float


def take(session: Session, key: Key, *, seconds: float) -> Execution | Claim | Busy:
    """What is kept, or the claim to execute it within `seconds`."""
    claim = uuid4()
    until = func.now() + timedelta(seconds=seconds)
    statement = insert(Baseline).values(
        repository=key.repository.lower(),
        commit=key.commit,
        setup_key=key.setup_key or "",
        digest=key.digest,
        claim=claim,
        claimed_until=until,
    )
    columns = (Baseline.repository, Baseline.commit, Baseline.setup_key, Baseline.digest)
    claimed = session.scalar(
        statement.on_conflict_do_update(
            index_elements=columns,
            set_={"claim": claim, "claimed_until": until, "taken_at": None, "keep_until": None},
            where=or_(
                and_(Baseline.taken_at.is_(None), Baseline.claimed_until <= func.now()),
                and_(Baseline.taken_at.is_not(None), Baseline.keep_until <= func.now()),
            ),
        ).returning(Baseline.id)
    )
    if claimed is not None:
        return Claim(claim)
    left = func.extract("epoch", Baseline.claimed_until - func.now())
    row, seconds_left = session.execute(select(Baseline, left).where(*_of(key))).one()
    return Busy(float(seconds_left)) if row.taken_at is None else _stored(row)


def still_busy(session: Session, key: Key) -> bool:
    """Whether somebody is at it, and will wake what this transaction makes wait: nothing is kept before it ends."""
    busy = (Baseline.taken_at.is_(None), Baseline.claimed_until > func.now())
    return session.scalar(select(Baseline.id).where(*_of(key), *busy).with_for_update(read=True)) is not None


def keep(session: Session, claim: Claim, execution: Execution, *, sure: bool) -> None:
    """What came of it, and whoever waits is woken; nothing where the claim has passed on. `sure`: it would end like
    this again."""
    statement = (
        update(Baseline)
        .where(Baseline.claim == claim.id)
        .values(
            taken_at=func.now(),
            keep_until=None if sure else func.now() + UNSURE_FOR,
            command=clean(execution.command),
            outcome=execution.outcome,
            returncode=execution.returncode,
            seconds=execution.seconds,
            output=clean(execution.output),
            note=clean(execution.note),
            cases=None if execution.cases is None else zlib.compress(json.dumps(dict(execution.cases)).encode()),
        )
    )
    _finish(session, statement)


def release(session: Session, claim: Claim) -> None:
    """It was not executed after all: the next one may."""
    mine = (Baseline.claim == claim.id, Baseline.taken_at.is_(None))
    _finish(session, update(Baseline).where(*mine).values(claimed_until=func.now()))


def _finish(session: Session, statement: Update) -> None:
    """Runs that wait for what the statement writes may be taken at once."""
    for repository, commit in session.execute(statement.returning(Baseline.repository, Baseline.commit)).all():
        waiting = (
            Run.state == RunState.CONCLUDED,
            Run.outcome.is_(None),
            Run.lease_owner.is_(None),
            Run.reason == WAITS,
            func.lower(Run.repository) == repository,
            Run.base_commit == commit,
        )
        now = {"not_before": None, "publish_after": func.now()}
        session.execute(update(Run).where(*waiting).values(**now).execution_options(synchronize_session=False))


def _of(key: Key) -> tuple[ColumnElement[bool], ...]:
    return (
        Baseline.repository == key.repository.lower(),
        Baseline.commit == key.commit,
        Baseline.setup_key == (key.setup_key or ""),
        Baseline.digest == key.digest,
    )


def _stored(row: Baseline) -> Execution:
    assert row.outcome is not None
    cases = None if row.cases is None else {k: Case(v) for k, v in json.loads(zlib.decompress(row.cases)).items()}
    return Execution(
        command=row.command or "",
        outcome=row.outcome,
        returncode=row.returncode,
        seconds=row.seconds or 0.0,
        output=row.output or "",
        note=row.note or "",
        cases=cases,
    )
