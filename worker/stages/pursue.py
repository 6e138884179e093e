"""One permit: claim the next run of a profile, let the agent work on it, conclude it; and so on until none is left.
Runs on a GPU worker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from sqlalchemy import func
from sqlalchemy.orm import Session

from agent.outcome import Outcome, Patch
from worker import logs, wakes
from worker.errors import LeaseLost, ModelUnavailable, Paused, ShuttingDown, Transient
from worker.gates import Admission, Gate, TokenGate
from worker.heartbeat import Heartbeat, owner_name
from worker.holding import Holding
from worker.observe import Watch
from worker.runs import ledger, setups, states
from worker.runs.accounts import DayLimits
from worker.runs.states import Lease
from worker.runs.tries import Samples
from worker.stages.attempt import Solver
from worker.stages.config import RepositoryConfig
from worker.stages.edge import last_words, unless_lost
from worker.stages.journal import NoRoom
from worker.stages.kept import change_so_far
from worker.stages.layer import LayerMissing, layer_of
from worker.stages.ports import Layers, Repositories
from worker.stages.revision import revised
from worker.stages.series import Cancelled, Series
from worker.store import lanes, queries, tries
from worker.store.models import Run, RunState
from worker.store.session import Store, after_commit
from worker.store.text import clean
from worker.store.tries import Try

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
MARGIN_SECONDS = 300.0  # for a workspace, the patch and the store, besides what the agent itself may take


@dataclass(frozen=True, kw_only=True)
class Pursue:
    """The task body of `pursue`."""

    store: Store
    heartbeat: Heartbeat
    solver: Solver
    repositories: Repositories
    layers: Layers
    send: Callable[[wakes.Wake], None]
    profile: str
    lease_seconds: float
    stopping: threading.Event
    admission: Admission = field(default_factory=lambda: TokenGate(lambda: None, expected=1))
    gates: Sequence[Gate] = ()
    repository_slots: int = lanes.REPOSITORY_SLOTS
    repository_turn: int = lanes.TURN
    days: DayLimits = field(default_factory=DayLimits)
    samples: Samples = field(default_factory=Samples)
    watch: Watch = field(default_factory=Watch)

    def __call__(self) -> None:
        if self.stopping.is_set():
            return  # the permit is lost, the run is not: the sweep sends another
        if not self.solver.model.alive:
            log.error("model_dead")  # what is held here runs out, and goes on where a model lives
            return
        first = True
        while not self.stopping.is_set():
            if not all(gate.room() for gate in self.gates) or not self.admission.enter():
                self._pass_on()
                return
            try:
                if not self._next(wake_another=first):
                    return
            finally:
                self.admission.leave()
            first = False

    def _next(self, *, wake_another: bool) -> bool:
        """Claim one run and work on it; False when this slot has to stop. The first claim wakes the next slot, here or
        elsewhere, if there is more: so one permit wakes them all, one after the other, and nobody counts permits."""
        lease = self._claim(wake_another=wake_another)
        if lease is None:
            return False
        allowed = self.solver.limits.wall_seconds + MARGIN_SECONDS
        held = self.heartbeat.hold(lease, stage="pursue", seconds=allowed)
        with logs.bound(run_id=lease.run_id), held as holding:
            return self._pursue(lease, holding)

    def _claim(self, *, wake_another: bool) -> Lease | None:
        slots = self.repository_slots
        with self.store.transaction() as session:
            lease = states.claim_next(
                session,
                profile=self.profile,
                owner=owner_name(),
                seconds=self.lease_seconds,
                repository_slots=slots,
                turn=self.repository_turn,
            )
            if lease is None or not wake_another:
                return lease
            if lanes.candidate(session, self.profile, repository_slots=slots) is not None:
                after_commit(session, self._pass_on)
        return lease

    def _pass_on(self) -> None:
        """Leave it to a slot that has room: this worker takes no message while a gate is full."""
        self.send(wakes.permit(self.profile))

    def _pursue(self, lease: Lease, holding: Holding) -> bool:
        """False when it ended for a reason that lies in this worker, or in the model it uses: the next run would fare
        no better. The sweep sends another permit."""
        log.info("run_claimed", extra={"token": lease.token})
        try:
            if self._vetoed(lease):
                return True
            self._conclude(lease, holding, self._solve(lease, holding))
        except LeaseLost as lost:
            self.watch.lease_lost()
            log.warning("lease_lost", extra={"why": str(lost)})
        except LayerMissing:
            self._hold_for_setup(lease)
        except Transient as error:
            self._give_back(lease, error)
            return False
        except Exception as error:  # noqa: BLE001 - a bug ends a run, never its worker
            self.watch.failed(error)
            self._fail(lease, last_words(error, "run_crashed"))
        return True

    def _vetoed(self, lease: Lease) -> bool:
        """Whether the repository's owners forbid the server that its code would go to; then the run ends here."""
        with self.store.transaction() as session:
            run = session.get_one(Run, lease.run_id)
            settings = RepositoryConfig.model_validate(run.repository_config)
            if self.solver.remote is None or settings.remote_models:
                return False
            reason = f"the repository's settings forbid model servers elsewhere (this one is {self.solver.remote})"
            states.advance(
                session, lease, RunState.CONCLUDED, outcome=Outcome.REFUSED, reason=reason, publish_after=func.now()
            )
            after_commit(session, lambda: self.send(wakes.deliver(lease.run_id)))
        return True

    def _solve(self, lease: Lease, holding: Holding) -> Cancelled | None:
        model = self.solver.model
        with self.store.transaction() as session:
            run = session.get_one(Run, lease.run_id)
            states.write(
                session,
                lease,
                model=model.label,
                tokenizer=model.tokenizer,
                isolation=self.solver.sandbox.isolation,
            )
        if lease.token == 1 and run.setup_key is None and run.started_at is not None:
            self.watch.claimed(self.profile, (run.started_at - run.queued_at).total_seconds())
        if run.cancel_requested is not None:  # asked for while nobody held it
            holding.cancelled(run.cancel_requested)
        git_dir = self.repositories.run_dir(str(run.id), self.repositories.mirror(run.repository))
        task = self.solver.task(
            git_dir,
            repository=run.repository,
            number=run.issue_number,
            title=run.issue_title,
            body=run.issue_body,
            commit=run.base_commit,
        )
        with self.store.transaction() as session:
            task = revised(session, self.repositories, git_dir, run, task)
        limits = RepositoryConfig.model_validate(run.repository_config).limits.within(self.solver.limits)
        with self.watch.stage("pursue", run.id, run.traceparent), layer_of(self.layers, run.setup_key) as layer:
            return Series(
                store=self.store,
                repositories=self.repositories,
                solver=replace(self.solver, limits=limits),
                lease=lease,
                holding=holding,
                stopping=self.stopping,
                profile=self.profile,
                samples=self.samples,
                idle=self._idle,
                seconds=self.solver.limits.wall_seconds + MARGIN_SECONDS,
                days=self.days,
                watch=self.watch,
                run=run,
                git_dir=git_dir,
                task=task,
                layer=layer,
            )()

    def _idle(self, session: Session) -> bool:
        return lanes.candidate(session, self.profile, repository_slots=self.repository_slots) is None

    def _conclude(self, lease: Lease, holding: Holding, cancelled: Cancelled | None) -> None:
        if cancelled is not None:
            result = cancelled.attempt.result
            holding.check()  # a shutdown or a deadline is no end of the run
            by = holding.cancelled_by
            reason = f"cancelled by {by}" if by else result.reason
            with self.store.transaction() as session:
                ledger.record_patch(session, lease, cancelled.attempt.patch, sample=cancelled.sample)
                states.advance(session, lease, RunState.CANCELLED, exit_status=result.exit_status, reason=reason)
                self._tell(session, lease)
            return
        with self.store.transaction() as session:
            run = session.get_one(Run, lease.run_id, with_for_update=True)
            last = self._last(session, lease)
            assert last is not None, "a series ends with a try, or is cancelled"
            if run.cancel_requested is not None:  # it came as the agent ended
                reason = f"cancelled by {run.cancel_requested}"
                states.advance(session, lease, RunState.CANCELLED, exit_status=last.exit_status, reason=reason)
                self._tell(session, lease)
                return
            self._to_verify(session, lease, last)

    def _last(self, session: Session, lease: Lease) -> Try | None:
        """The newest try that has come to its end."""
        ended = [one for one in tries.of_run(session, lease.run_id) if one.ended_at is not None]
        return ended[-1] if ended else None

    def _to_verify(self, session: Session, lease: Lease, last: Try, why: str = "") -> None:
        """Which of its tries the run's end is taken from is decided there. `why` there are no more of them."""
        states.advance(
            session,
            lease,
            RunState.CONCLUDED,
            exit_status=last.exit_status,
            reason=clean("; ".join(filter(None, (last.reason, why)))),
            summary=last.summary,
            prompt_hash=last.prompt_hash,
            not_before=None,
            publish_after=func.now() + timedelta(seconds=5),
        )
        after_commit(session, lambda: self.send(wakes.verify(lease.run_id)))
        log.info("run_concluded", extra={"exit_status": last.exit_status, "tries": last.sample + 1})

    def _hold_for_setup(self, lease: Lease) -> None:
        log.warning("layer_missing")
        with unless_lost(), self.store.transaction() as session:
            setups.hold(session, lease)
            after_commit(session, lambda: self.send(wakes.setup(lease.run_id)))

    def _give_back(self, lease: Lease, error: Transient) -> None:
        """Back to the queue with the reason visible. No attempt is counted for a shutdown, a pause, a model that is
        down or a budget without room."""
        self.watch.failed(error)
        log.warning("run_given_back", extra={"why": str(error)})
        free = isinstance(error, ModelUnavailable | ShuttingDown | Paused | NoRoom)
        wait = 0.0 if isinstance(error, ShuttingDown | Paused) else RETRY_SECONDS
        kept = change_so_far(self.store, self.repositories, lease.run_id)
        with unless_lost(), self.store.transaction() as session:
            run = session.get_one(Run, lease.run_id)
            if run.cancel_requested is not None:
                reason = f"cancelled by {run.cancel_requested}"
                self._keep(session, lease, kept)
                states.advance(session, lease, RunState.CANCELLED, reason=reason)
                self._tell(session, lease)
                return
            if not free and run.attempt + 1 >= run.max_attempts:
                reason = clean(f"given up after {run.max_attempts} attempts: {error}")
                if (last := self._last(session, lease)) is not None:
                    self._to_verify(session, lease, last, reason)
                    return
                self._keep(session, lease, kept)
                states.advance(session, lease, RunState.FAILED, counted=True, reason=reason)
                self._tell(session, lease)
                return
            later = func.now() + timedelta(seconds=wait)
            states.advance(
                session,
                lease,
                RunState.QUEUED,
                counted=not free,
                reason=clean(str(error)),
                not_before=later,
                publish_after=later,
            )
            if wait == 0.0:
                after_commit(session, lambda: self.send(wakes.permit(self.profile)))
            elif isinstance(error, NoRoom):  # the issue is told what holds it
                after_commit(session, lambda: self.send(wakes.deliver(lease.run_id)))

    def _fail(self, lease: Lease, reason: str) -> None:
        log.error("run_failed", extra={"why": reason})
        kept = change_so_far(self.store, self.repositories, lease.run_id)
        with unless_lost(), self.store.transaction() as session:
            if (last := self._last(session, lease)) is not None:
                self._to_verify(session, lease, last, f"another try failed: {reason}")
                return
            self._keep(session, lease, kept)
            states.advance(session, lease, RunState.FAILED, reason=clean(reason))
            self._tell(session, lease)

    def _keep(self, session: Session, lease: Lease, patch: Patch | None) -> None:
        """Of a run that ends here. Where its end was not written before, there is none yet."""
        if patch is not None and queries.patch(session, lease.run_id) is None:
            ledger.record_patch(session, lease, patch)

    def _tell(self, session: Session, lease: Lease) -> None:
        """People hear of an end without delivery, too."""
        run = session.get_one(Run, lease.run_id, populate_existing=True)
        state, kind = run.state.value, run.kind.value
        after_commit(
            session, lambda: self.watch.ended(state=state, outcome=run.outcome, kind=kind, profile=self.profile)
        )
        after_commit(session, lambda: self.send(wakes.deliver(lease.run_id)))
