"""A run's tries as they begin, end and are judged; how many there are to be. Every write proves that the lease is
held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from agent.choice import MOST
from agent.evidence import Verdict
from agent.types import AgentResult
from worker.runs.states import Lease, write
from worker.store.models import Run, RunKind
from worker.store.text import clean
from worker.store.tries import Try, of_run


@dataclass(frozen=True, kw_only=True)
class Samples:
    """How many tries a run gets; from 1 to `agent.choice.MOST`. `each`: where its repository does not say; `most`: what
    a repository may ask for; `idle`: so many in all while no other run waits for the lane."""

    each: int = 1
    most: int = MOST
    idle: int = 0
    critic: bool = True  #: the model is asked to compare changes that differ

    def planned(self, kind: RunKind, asked: int | None) -> int:
        """Only fixes are tried more than once: a revision stands on what people said, a question has one answer."""
        if kind is not RunKind.FIX:
            return 1
        return max(1, min(self.each if asked is None else asked, max(self.most, self.each), MOST))

    def at_most(self, kind: RunKind, asked: int | None) -> int:
        """With those of an idle lane."""
        planned = self.planned(kind, asked)
        return planned if kind is not RunKind.FIX else max(planned, min(self.idle, MOST))


@dataclass(frozen=True)
class Cascade:
    """Profiles in the order in which a run is tried with them; empty or of one: a run stays where it is."""

    profiles: tuple[str, ...] = field(default=())

    def after(self, profile: str) -> str | None:
        at = self.profiles.index(profile) + 1 if profile in self.profiles else len(self.profiles)
        return self.profiles[at] if at < len(self.profiles) else None


@dataclass(frozen=True)
class Place:
    """Where a run's next try stands: its number among all, and among those of its profile."""

    sample: int
    number: int


def following(tries: Sequence[Try], profile: str, wanted: int) -> Place | None:
    """The try to go on with, or to begin; None once `wanted` of this profile have ended, or one of them by a budget
    that the others share."""
    own = [one for one in tries if one.profile == profile]
    ended = [one for one in own if one.ended_at is not None]
    if len(ended) >= wanted or any(one.no_room for one in ended):
        return None
    after = max((one.sample for one in tries), default=-1) + 1
    sample = next((one.sample for one in own if one.ended_at is None), after)
    return Place(sample=sample, number=sample - min([sample, *(one.sample for one in own)]))


def begin(
    session: Session,
    lease: Lease,
    sample: int,
    *,
    profile: str,
    temperature: float,
    model: str,
    opening: str,
    anew: bool,
) -> None:
    """A try goes on, or begins (`anew`) under this lease. LeaseLost when that is gone."""
    write(session, lease, lease_owner=lease.owner)
    values = {"profile": profile, "temperature": temperature, "model": clean(model), "opening": opening}
    added = insert(Try).values(run_id=lease.run_id, sample=sample, began=lease.token, **values)
    changed = {**values, "began": lease.token} if anew else {"temperature": temperature}
    session.execute(added.on_conflict_do_update(index_elements=[Try.run_id, Try.sample], set_=changed))


def end(
    session: Session, lease: Lease, sample: int, result: AgentResult, *, reason: str, prompt_hash: str, no_room: bool
) -> None:
    """Its agent has ended; its patch is written in the same transaction."""
    _set(
        session,
        lease,
        sample,
        ended_at=func.now(),
        exit_status=result.exit_status,
        reason=clean(reason),
        summary=clean(result.summary),
        prompt_hash=prompt_hash,
        no_room=no_room,
    )


def name(session: Session, lease: Lease, sample: int, why: str) -> None:
    """The critic named it."""
    _set(session, lease, sample, named=clean(why))


def adopt(session: Session, lease: Lease, run: Run) -> None:
    """A concluded run without a row, from before there were any, has one try: its own end."""
    if of_run(session, run.id):
        return
    write(session, lease, lease_owner=lease.owner)
    values = {"profile": run.profile, "began": 0, "model": run.model or "", "opening": "", "ended_at": func.now()}
    end = {"exit_status": run.exit_status, "reason": run.reason, "summary": run.summary, "prompt_hash": run.prompt_hash}
    session.execute(insert(Try).values(run_id=run.id, sample=0, **values, **end))


def judge(session: Session, lease: Lease, sample: int, verdict: Verdict, *, evidence_of: int) -> None:
    _set(session, lease, sample, outcome=verdict.outcome, verdict=clean(verdict.reason), evidence_of=evidence_of)


def _set(session: Session, lease: Lease, sample: int, **values: object) -> None:
    write(session, lease, lease_owner=lease.owner)
    session.execute(
        update(Try)
        .where(Try.run_id == lease.run_id, Try.sample == sample)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
