"""The tries of one claimed run, one after the other under its lease; at the end the model compares them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.orm import Session

from agent import choice, critic
from agent.errors import LimitsExceeded
from agent.types import ExitStatus, Task
from worker.errors import LeaseLost, ServiceError
from worker.holding import Holding
from worker.observe import Watch
from worker.runs import ledger, tries
from worker.runs.accounts import DayLimits
from worker.runs.states import Lease
from worker.runs.tries import Place, Samples
from worker.stages.attempt import Attempt, Solver
from worker.stages.config import RepositoryConfig
from worker.stages.journal import LeasedJournal
from worker.stages.ports import Layer, Repositories
from worker.stages.resume import Resumption
from worker.store import tries as rows
from worker.store.models import Run
from worker.store.session import Store

log = logging.getLogger(__name__)

CRITIC_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """Which try a person ended, and what it left."""

    sample: int
    attempt: Attempt


@dataclass(frozen=True, kw_only=True)
class Series:
    """`solver` has the limits of one try; `idle`: whether no other run waits for the lane; `seconds`: what one try may
    take at most."""

    store: Store
    repositories: Repositories
    solver: Solver
    lease: Lease
    holding: Holding
    stopping: threading.Event
    profile: str
    samples: Samples
    idle: Callable[[Session], bool]
    seconds: float
    days: DayLimits
    watch: Watch
    run: Run
    git_dir: Path
    task: Task
    layer: Layer | None

    def __call__(self) -> Cancelled | None:
        """Until there are enough; the one that was cancelled is not written down. Errors of a try pass through: those
        that ended before it are in the store, and are not made again."""
        first = True
        while (place := self._next()) is not None:
            if not first:
                self.holding.restart(self.seconds)
            first = False
            attempt, journal = self._work(place)
            if attempt.result.exit_status is ExitStatus.CANCELLED:
                return Cancelled(sample=place.sample, attempt=attempt)
            with self.store.transaction() as session:
                ledger.record_patch(session, self.lease, attempt.patch, sample=place.sample)
                tries.end(
                    session,
                    self.lease,
                    place.sample,
                    attempt.result,
                    reason=attempt.reason,
                    prompt_hash=attempt.prompt_hash,
                    no_room=journal.no_room.is_set(),
                )
            log.info("try_ended", extra={"sample": place.sample, "exit_status": attempt.result.exit_status.value})
        self._compare()
        return None

    @property
    def _asked(self) -> int | None:
        return RepositoryConfig.model_validate(self.run.repository_config).samples

    def _next(self) -> Place | None:
        planned = self.samples.planned(self.run.kind, self._asked)
        most = self.samples.at_most(self.run.kind, self._asked)
        with self.store.transaction() as session:
            if session.get_one(Run, self.run.id, populate_existing=True).cancel_requested and self._ended(session):
                return None  # the run's end says so; nothing is begun for it
            known = rows.of_run(session, self.run.id)
            place = tries.following(known, self.profile, planned)
            if place is None and most > planned and self.idle(session):
                place = tries.following(known, self.profile, most)
        return place

    def _ended(self, session: Session) -> bool:
        return any(one.ended_at is not None for one in rows.of_run(session, self.run.id))

    def _journal(self, sample: int, before: int) -> LeasedJournal:
        """`before`: how many tries the run had with other profiles."""
        model = self.solver.model
        return LeasedJournal(
            store=self.store,
            holding=self.holding,
            stopping=self.stopping,
            profile=self.profile,
            model=model.label,
            tokenizer=model.tokenizer,
            price=self.solver.price,
            limits=self.solver.limits,
            days=self.days,
            repository=self.run.repository,
            engine=model.identity,
            watch=self.watch,
            sample=sample,
            tries=before + self.samples.at_most(self.run.kind, self._asked),
        )

    def _work(self, place: Place) -> tuple[Attempt, LeasedJournal]:
        temperature = choice.temperature(self.solver.sampling.temperature, place.number)
        solver = replace(self.solver, sampling=self.solver.sampling.model_copy(update={"temperature": temperature}))
        progress = Resumption(
            store=self.store,
            repositories=self.repositories,
            lease=self.lease,
            git_dir=self.git_dir,
            base_commit=self.run.base_commit,
            identity=solver.model.identity,
            profile=self.profile,
            sample=place.sample,
            number=place.number,
            temperature=temperature,
        )
        journal = self._journal(place.sample, place.sample - place.number)
        attempt = solver.solve(
            self.git_dir, self.task, journal, self.holding.cancel, progress=progress, layer=self.layer
        )
        return attempt, journal

    def _compare(self) -> None:
        """Ask the critic where this profile's tries made changes that differ. It is asked before anything is executed,
        while its model is at hand; where it can't answer, there is an order without it."""
        with self.store.transaction() as session:
            known = rows.of_run(session, self.run.id)
            kept = rows.patches(session, self.run.id)
        own = [one for one in known if one.profile == self.profile and one.sample in kept]
        patches = {one.sample: ledger.stored_patch(kept[one.sample]) for one in own}
        differ = choice.distinct(patches)
        if not self.samples.critic or len(differ) < 2 or any(one.named is not None for one in own):
            return
        self.holding.restart(CRITIC_SECONDS + self.seconds)
        try:
            opinion = critic.ask(
                self.solver.model,
                self.task,
                {sample: patches[sample] for sample in differ},
                journal=self._journal(rows.CRITIC, min(one.sample for one in own)),
                limits=self.solver.limits,
                price=self.solver.price,
                deadline=time.monotonic() + CRITIC_SECONDS,
                cancel=self.holding.cancel,
            )
        except LeaseLost:
            raise
        except (ServiceError, LimitsExceeded) as error:
            log.warning("critic_not_asked", extra={"why": str(error)})
            return
        if opinion is None:
            log.info("critic_without_opinion")
            return
        with self.store.transaction() as session:
            tries.name(session, self.lease, opinion.number, opinion.why)
