"""From an outcome to what people see: the branch, the pull request, the status comment. Runs on the `default` worker.

Every outside effect is looked up before it is made, so a run whose worker died half-way is delivered once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from uuid import UUID

from worker import logs
from worker.errors import (
    ForgeUnavailable,
    LeaseLost,
    Permanent,
    ShuttingDown,
    Transient,
)
from worker.heartbeat import Heartbeat, owner_name
from worker.holding import Holding
from worker.observe import Watch
from worker.runs import budget_words, states
from worker.runs.caps import WITH_PULL_REQUEST, Caps, OverCap
from worker.runs.states import Lease
from worker.stages import capped, labels, large_files
from worker.stages.answering import answer
from worker.stages.edge import last_words, unless_lost
from worker.stages.forge import Forge, Forges
from worker.stages.labels import Label, StateLabels
from worker.stages.ports import Repositories
from worker.stages.publishing import Publication
from worker.stages.result import read
from worker.stages.status import delivered, ended, queued, set_status
from worker.stages.tidying import after_the_end
from worker.store import queries
from worker.store.models import Run, RunKind, RunState
from worker.store.session import Store
from worker.store.text import clean

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 24 * 3600.0
SHORTEST_PAUSE, LONGEST_PAUSE = 15.0, 900.0
DEADLINE_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class Deliver:
    """The task body of `deliver`. A run that failed, was cancelled, or waits for a budget only has its status comment
    set."""

    store: Store
    heartbeat: Heartbeat
    forges: Forges
    repositories: Repositories
    lease_seconds: float
    check_runs: bool = True
    author: str = "devstral-fix <devstral-fix@users.noreply.github.com>"
    labels: StateLabels | None = None
    caps: Caps = field(default_factory=Caps)
    watch: Watch = field(default_factory=Watch)

    def __call__(self, run_id: UUID) -> None:
        with logs.bound(run_id=run_id):
            capped.look_again(self.store, self.forges, run_id, self.caps)
            with self.store.transaction() as session:
                lease = states.claim_stage(session, run_id, "deliver", owner=owner_name(), seconds=self.lease_seconds)
                run = queries.run(session, run_id)
            if lease is None:
                if run is not None and run.state in (RunState.FAILED, RunState.CANCELLED):
                    self._tell_end(run)
                elif run is not None and run.state is RunState.QUEUED:
                    self._tell_held(run)
                return
            with self.heartbeat.hold(lease, stage="deliver", seconds=DEADLINE_SECONDS) as holding:
                try:
                    trace = None if run is None else run.traceparent
                    with self.watch.stage("deliver", run_id, trace) as recording:
                        recording.set(pull_request=self._deliver(lease, holding))
                except LeaseLost as lost:
                    self.watch.lease_lost()
                    log.warning("lease_lost", extra={"why": str(lost)})
                    self._after_loss(run_id)
                except OverCap as over:
                    self._hold(lease, over)
                except ShuttingDown as error:
                    self._hand_on(lease, str(error))
                except Transient as error:
                    self._again_or_fail(lease, error)
                except Exception as error:  # noqa: BLE001 - a bug ends a run, never its worker
                    self._fail(lease, last_words(error, "deliver_crashed"))

    def _deliver(self, lease: Lease, holding: Holding) -> str | None:
        """The pull request's address, where there is one."""
        result = read(self.store, lease.run_id)
        run = result.run
        assert run.outcome is not None
        forge = self.forges.open(run.repository, run.installation_id)
        published, changed = None, None
        if run.outcome in WITH_PULL_REQUEST and result.patch is not None and not result.patch.empty:
            git_dir = self.repositories.run_dir(str(run.id), self.repositories.mirror(run.repository))
            published = Publication(
                store=self.store,
                repositories=self.repositories,
                forge=forge,
                lease=lease,
                holding=holding,
                git_dir=git_dir,
                result=result,
                patch=result.patch,
                outcome=run.outcome,
                check_runs=self.check_runs,
                caps=self.caps,
                author=self.author,
            )()
            if run.head_commit is not None:
                changed = self.repositories.patch(git_dir, run.head_commit, result.patch.tree)
        url = None if published is None else published.pull_request.url
        answer(self.store, forge, run, changed=changed, head=None if published is None else published.head)
        comment_id = run.status_comment_id
        if run.kind is not RunKind.EXPLAIN:
            comment_id = set_status(forge, run.place, delivered(result, url), comment_id=comment_id).id
        with self.store.transaction() as session:
            states.advance(session, lease, RunState.DELIVERED, status_comment_id=comment_id)
            if published is not None:
                queries.upsert_pull_request(
                    session,
                    run_id=run.id,
                    repository=run.repository,
                    issue_number=run.issue_number,
                    branch=run.branch,
                    number=published.pull_request.number,
                    url=published.pull_request.url,
                    state=published.pull_request.state,
                    draft=published.pull_request.draft,
                    head_commit=published.head,
                )
        self._label_end(forge, run, labels.of_outcome(run.outcome))
        self.repositories.drop_run_dir(str(run.id))
        log.info("run_delivered", extra={"outcome": run.outcome.value, "pull_request": url})
        self.watch.ended(state="delivered", outcome=run.outcome, kind=run.kind.value, profile=run.profile)
        return url

    def _hold(self, lease: Lease, over: OverCap) -> None:
        with self.store.transaction() as session:
            run = session.get_one(Run, lease.run_id)
        with unless_lost():
            capped.hold(self.store, self.forges.open(run.repository, run.installation_id), lease, run, over)

    def _after_loss(self, run_id: UUID) -> None:
        """Cancelled in the middle: who cancelled may have told the issue before our pull request was there."""
        with self.store.transaction() as session:
            run = session.get_one(Run, run_id)
        if run.state in (RunState.FAILED, RunState.CANCELLED):
            self._tell_end(run)

    def _hand_on(self, lease: Lease, reason: str) -> None:
        """Another worker goes on, after the sweep announced it; that is no failure of GitHub's."""
        log.info("deliver_handed_on")
        with unless_lost(), self.store.transaction() as session:
            states.hand_back_stage(session, lease, reason=reason, wait=0.0, counts=False)

    def _tell_end(self, run: Run) -> None:
        """A failed or cancelled run says so in the status comment; trying twice shows the same text."""
        result = read(self.store, run.id)
        try:
            forge = self.forges.open(run.repository, run.installation_id)
            if run.kind is RunKind.EXPLAIN:
                answer(self.store, forge, run, changed=None, head=None)
                return
            left = after_the_end(forge, self.store, run) if run.outcome in WITH_PULL_REQUEST else []
            set_status(forge, run.place, ended(result, left), comment_id=run.status_comment_id)
            self._label_end(forge, run, None if run.state is RunState.CANCELLED else Label.FAILED)
        except (Transient, Permanent) as error:
            log.warning("status_comment_failed", extra={"why": str(error)})
        finally:
            self.repositories.drop_run_dir(str(run.id))

    def _label_end(self, forge: Forge, run: Run, label: Label | None) -> None:
        """After the run's end: the trigger label goes too, and by then there is nothing that this would end."""
        if self.labels is not None and run.kind is not RunKind.EXPLAIN:
            self.labels.show(forge, run.place, label, ended=True)

    def _tell_held(self, run: Run) -> None:
        """A run that met a budget without room is in the queue again; the status comment said its place there."""
        try:
            mirror = self.repositories.mirror(run.repository)
            pointers = large_files.kept_outside(self.repositories, mirror, run.base_commit)
            with self.store.transaction() as session:
                now = session.get_one(Run, run.id)
                if budget_words.held(session, now) is None:
                    return
                body = queued(session, now, [large_files.POINTERS] if pointers else [])
            forge = self.forges.open(run.repository, run.installation_id)
            set_status(forge, run.place, body, comment_id=run.status_comment_id)
        except (Transient, Permanent) as error:
            log.warning("status_comment_failed", extra={"why": str(error)})

    def _again_or_fail(self, lease: Lease, error: Transient) -> None:
        """GitHub may be away for hours and a finished patch is worth the wait: no attempt is counted, each pause is
        a quarter of the time waited so far, and only after a day it is given up."""
        log.warning("deliver_postponed", extra={"why": str(error)})
        asked = error.retry_after if isinstance(error, ForgeUnavailable) else None
        with self.store.transaction() as session:
            waited = queries.seconds_since_conclusion(session, lease.run_id)
        if waited >= PATIENCE_SECONDS:
            self._fail(lease, f"given up: {error}")
            return
        wait = max(asked or 0.0, SHORTEST_PAUSE, min(waited / 4, LONGEST_PAUSE))
        with unless_lost(), self.store.transaction() as session:
            states.hand_back_stage(session, lease, reason=clean(str(error)), wait=wait, counts=False)

    def _fail(self, lease: Lease, reason: str) -> None:
        log.error("run_failed", extra={"why": reason})
        with unless_lost():
            with self.store.transaction() as session:
                states.advance(session, lease, RunState.FAILED, reason=clean(reason))
                run = session.get_one(Run, lease.run_id, populate_existing=True)
            self.watch.ended(state=run.state.value, outcome=run.outcome, kind=run.kind.value, profile=run.profile)
            self._tell_end(run)
