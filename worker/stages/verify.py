"""From a concluded run to its outcome: hygiene of the patch, then the evidence. Runs on a CPU worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from agent.evidence import Verdict
from agent.outcome import Evidence, Outcome, Patch
from worker import logs, wakes
from worker.errors import LeaseLost, Permanent, ShuttingDown, Transient
from worker.heartbeat import Heartbeat, owner_name
from worker.holding import Holding
from worker.observe import Watch
from worker.runs import baselines, ledger, states, tries
from worker.runs.states import Lease
from worker.runs.tries import Cascade
from worker.stages import candidates
from worker.stages.baselines import BaselineBusy
from worker.stages.candidates import Candidate
from worker.stages.config import RepositoryConfig
from worker.stages.edge import last_words, unless_lost
from worker.stages.judging import judged
from worker.stages.layer import LayerMissing, layer_of
from worker.stages.ports import Layers, Repositories
from worker.stages.revision import in_words
from worker.stages.verification import MOST_RUNS, Subject, Taken, Verifier
from worker.store.models import Run, RunKind, RunState
from worker.store.session import Store, after_commit
from worker.store.text import clean

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
MARGIN_SECONDS = 300.0  # for workspaces and the store, besides what the tests themselves may take


@dataclass(frozen=True, kw_only=True)
class Verify:
    """The task body of `verify`."""

    store: Store
    heartbeat: Heartbeat
    verifier: Verifier
    repositories: Repositories
    layers: Layers
    send: Callable[[wakes.Wake], None]
    lease_seconds: float
    cascade: Cascade = field(default_factory=Cascade)
    watch: Watch = field(default_factory=Watch)

    def __call__(self, run_id: UUID) -> None:
        with self.store.transaction() as session:
            lease = states.claim_stage(session, run_id, "verify", owner=owner_name(), seconds=self.lease_seconds)
        if lease is None:
            return
        with logs.bound(run_id=run_id), self.heartbeat.hold(lease, stage="verify") as holding:
            try:
                self._verify(lease, holding)
            except LeaseLost as lost:
                self.watch.lease_lost()
                log.warning("lease_lost", extra={"why": str(lost)})
            except LayerMissing as missing:
                self._wait_for_setup(lease, str(missing))
            except BaselineBusy as busy:
                self._wait_for_baseline(lease, busy)
            except ShuttingDown as error:
                self._hand_on(lease, str(error))
            except Transient as error:
                self._again_or_fail(lease, str(error))
            except Exception as error:  # noqa: BLE001 - a bug ends a run, never its worker
                self._fail(lease, last_words(error, "verify_crashed"))

    def _verify(self, lease: Lease, holding: Holding) -> None:
        with self.store.transaction() as session:
            run = session.get_one(Run, lease.run_id)
            tries.adopt(session, lease, run)
            found = candidates.of_run(session, run)
        assert found, "a concluded run has a try that ended, and its patch, be it empty"
        settings = RepositoryConfig.model_validate(run.repository_config)
        groups = candidates.groups(found)
        holding.limit(MOST_RUNS * settings.test_timeout_seconds * max(len(groups), 1) + MARGIN_SECONDS)
        git_dir = self.repositories.run_dir(str(run.id), self.repositories.mirror(run.repository))
        stage = self.watch.stage("verify", run.id, run.traceparent)
        with stage, layer_of(self.layers, run.setup_key) as layer:
            for group in groups:
                subject = Subject(
                    git_dir=git_dir,
                    repository=run.repository,
                    patch=self._made_anew(git_dir, group[0].patch),
                    settings=settings,
                    setup_key=run.setup_key,
                    layer=layer,
                )
                self._judge(lease, holding, run, subject, group, found)
        self._finish(lease)

    def _made_anew(self, git_dir: Path, patch: Patch) -> Patch:
        """A patch came through the database, perhaps from another host: its tree is made here, and compared."""
        if not patch.empty and (tree := self.repositories.apply(git_dir, patch.base_commit, patch.diff)) != patch.tree:
            raise Permanent(f"the stored patch makes tree {tree}, the agent's workspace was {patch.tree}")
        return patch

    def _judge(
        self,
        lease: Lease,
        holding: Holding,
        run: Run,
        subject: Subject,
        group: Sequence[Candidate],
        known: Sequence[Candidate],
    ) -> None:
        """Tries of one change. All of their verdicts are written together: who takes over has all of them, or none."""
        first = group[0].sample

        def record(piece: Evidence) -> None:
            holding.check()
            with self.store.transaction() as session:
                ledger.record_evidence(session, lease, piece, sample=first)

        verdicts: list[tuple[Candidate, Verdict, int]] = []
        taken: Taken | None = None
        for one in group:
            words = in_words(self.repositories, subject.git_dir, run, one.patch, one.exit_status)
            before = candidates.judged_before(known, one)
            if words is not None:
                verdicts.append((one, words, first))
                continue
            if before is not None and before.verdict is not None:
                shared = before.sample if before.evidence_of is None else before.evidence_of
                verdicts.append((one, before.verdict, shared))
                continue
            found = judged(
                self.verifier,
                subject,
                one.exit_status,
                one.summary,
                number=run.issue_number,
                cancel=holding.cancel,
                record=record,
                check=holding.check,
                known=taken,
            )
            taken = found.taken
            verdicts.append((one, found.verdict, first))
        with self.store.transaction() as session:
            for one, verdict, shared in verdicts:
                tries.judge(session, lease, one.sample, verdict, evidence_of=shared)

    def _finish(self, lease: Lease) -> None:
        """The best of the tries is the run's end from here on, or another profile tries once more."""
        with self.store.transaction() as session:
            run = session.get_one(Run, lease.run_id)
            found = candidates.of_run(session, run)
            sample = candidates.chosen(session, run, found).best
            best = next(one for one in found if one.sample == sample)
            assert best.verdict is not None
            if (onward := self._onward(run, best, found)) is not None:
                reason = clean(f"tried again with {onward}; {run.profile} ended so: {best.verdict.reason}")
                states.queue_elsewhere(session, lease, profile=onward, reason=reason)
                after_commit(session, lambda: self.send(wakes.permit(onward)))
                log.info("run_goes_on_elsewhere", extra={"profile": onward})
                return
            states.finish_verify(
                session,
                lease,
                outcome=best.verdict.outcome,
                reason=clean(best.verdict.reason),
                chosen=best.sample,
                exit_status=best.exit_status,
                summary=best.summary,
                prompt_hash=best.prompt_hash,
            )
            after_commit(session, lambda: self.send(wakes.deliver(lease.run_id)))
        log.info("run_verified", extra={"outcome": best.verdict.outcome.value, "tries": len(found)})

    def _onward(self, run: Run, best: Candidate, found: Sequence[Candidate]) -> str | None:
        """The profile that tries next. Only what failed goes on: not a question, a refusal or a broken set-up, and not
        what a budget ended."""
        assert best.verdict is not None
        if run.kind is not RunKind.FIX or best.verdict.outcome is not Outcome.UNSOLVED:
            return None
        if any(one.no_room for one in found if one.profile == run.profile):
            return None
        return self.cascade.after(run.profile)

    def _wait_for_setup(self, lease: Lease, reason: str) -> None:
        log.warning("layer_missing")
        with unless_lost(), self.store.transaction() as session:
            states.hand_back_stage(session, lease, reason=reason, wait=RETRY_SECONDS, counts=False)
            after_commit(session, lambda: self.send(wakes.setup(lease.run_id)))

    def _wait_for_baseline(self, lease: Lease, busy: BaselineBusy) -> None:
        """Another run executes the tests of the same base; once that is kept, this one is free to be taken again."""
        log.info("baseline_busy")
        with unless_lost(), self.store.transaction() as session:
            wait = busy.wait if baselines.still_busy(session, busy.key) else 0.0
            states.hand_back_stage(session, lease, reason=str(busy), wait=wait, counts=False)

    def _hand_on(self, lease: Lease, reason: str) -> None:
        """Another worker takes the evidence anew; that is no attempt."""
        log.info("verify_handed_on")
        with unless_lost(), self.store.transaction() as session:
            states.hand_back_stage(session, lease, reason=reason, wait=0.0, counts=False)
            after_commit(session, lambda: self.send(wakes.verify(lease.run_id)))

    def _again_or_fail(self, lease: Lease, reason: str) -> None:
        log.warning("verify_postponed", extra={"why": reason})
        with self.store.transaction() as session:
            run = session.get_one(Run, lease.run_id)
        if run.attempt + 1 >= run.max_attempts:
            self._fail(lease, f"given up after {run.max_attempts} attempts: {reason}", counted=True)
            return
        with unless_lost(), self.store.transaction() as session:
            states.hand_back_stage(session, lease, reason=clean(reason), wait=RETRY_SECONDS, counts=True)

    def _fail(self, lease: Lease, reason: str, *, counted: bool = False) -> None:
        log.error("run_failed", extra={"why": reason})
        with unless_lost():
            with self.store.transaction() as session:
                states.advance(session, lease, RunState.FAILED, counted=counted, reason=clean(reason))
                run = session.get_one(Run, lease.run_id, populate_existing=True)
                after_commit(session, lambda: self.send(wakes.deliver(lease.run_id)))
            self.watch.ended(state=run.state.value, outcome=run.outcome, kind=run.kind.value, profile=run.profile)
