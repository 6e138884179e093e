"""From an outcome to what people see: the branch, the pull request, the status comment. Runs on the `default` worker.

Every outside effect is looked up before it is made, so a run whose worker died half-way is delivered once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from agent.evidence import Verdict
from agent.outcome import Outcome, Patch
from worker import logs
from worker.errors import (
    ForgeRefused,
    ForgeUnavailable,
    LeaseLost,
    Permanent,
    RepositoryRefused,
    ShuttingDown,
    Transient,
)
from worker.heartbeat import Heartbeat, owner_name
from worker.holding import Holding
from worker.observe import Watch
from worker.runs import budget_words, states
from worker.runs.states import Lease
from worker.stages import labels, large_files, texts
from worker.stages.edge import last_words, unless_lost
from worker.stages.forge import Forge, Forges, PullRequestRef
from worker.stages.labels import Label, StateLabels
from worker.stages.ports import Repositories
from worker.stages.result import Result, read
from worker.stages.status import WITH_PULL_REQUEST, delivered, ended, queued, set_status
from worker.stages.tidying import after_the_end
from worker.store import queries
from worker.store.models import Run, RunState
from worker.store.session import Store
from worker.store.text import clean

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 24 * 3600.0
SHORTEST_PAUSE, LONGEST_PAUSE = 15.0, 900.0
AUTHOR, EMAIL = "devstral-fix", "devstral-fix@users.noreply.github.com"
DEADLINE_SECONDS = 900.0
CHECK = "devstral-fix"


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
    labels: StateLabels | None = None
    watch: Watch = field(default_factory=Watch)

    def __call__(self, run_id: UUID) -> None:
        with logs.bound(run_id=run_id):
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
        pull_request, head = None, None
        if run.outcome in WITH_PULL_REQUEST and result.patch is not None and not result.patch.empty:
            git_dir = self.repositories.run_dir(str(run.id), self.repositories.mirror(run.repository))
            head = self._push(lease, holding, forge, git_dir, result, result.patch)
            holding.check()
            verified_on = self._verified_on(forge, result.patch, run)
            pull_request = self._pull_request(forge, result, result.patch, run.outcome, verified_on)
            holding.check()
            self._check_run(forge, result, head, run.outcome)
            holding.check()
        url = None if pull_request is None else pull_request.url
        body = delivered(result, url)
        comment = set_status(forge, run.issue_number, body, comment_id=run.status_comment_id)
        with self.store.transaction() as session:
            states.advance(session, lease, RunState.DELIVERED, status_comment_id=comment.id)
            if pull_request is not None and head is not None:
                queries.upsert_pull_request(
                    session,
                    run_id=run.id,
                    repository=run.repository,
                    issue_number=run.issue_number,
                    branch=run.branch,
                    number=pull_request.number,
                    url=pull_request.url,
                    state=pull_request.state,
                    draft=pull_request.draft,
                    head_commit=head,
                )
        self._label_end(forge, run, labels.of_outcome(run.outcome))
        self.repositories.drop_run_dir(str(run.id))
        log.info("run_delivered", extra={"outcome": run.outcome.value, "pull_request": url})
        self.watch.ended(state="delivered", outcome=run.outcome, kind=run.kind.value, profile=run.profile)
        return url

    def _push(self, lease: Lease, holding: Holding, forge: Forge, git_dir: Path, result: Result, patch: Patch) -> str:
        """The commit on the run's branch; pushed unless it is there already. People's commits are never replaced."""
        run = result.run
        tree = self.repositories.apply(git_dir, patch.base_commit, patch.diff)
        message = texts.commit_message(issue_title=run.issue_title, issue_number=run.issue_number, run_id=run.id)
        # Dated by the run, not by the clock, so that a second try makes the very same commit.
        commit = self.repositories.commit(
            git_dir,
            tree=tree,
            parent=patch.base_commit,
            message=message,
            author=AUTHOR,
            email=EMAIL,
            date=run.concluded_at or run.queued_at,
        )
        token = forge.git_token("write")
        url = forge.repository().clone_url
        there = self.repositories.remote_branch(url, run.branch, token)
        if there == commit:
            return commit
        if there is not None and there not in result.known_heads:
            raise RepositoryRefused(
                f"the branch {run.branch} holds commits that are not from this service; delete it and ask again"
            )
        holding.check()
        with self.store.transaction() as session:  # before the push: whatever becomes of this run, it is known as ours
            states.write(session, lease, lease_owner=lease.owner)
            queries.note_push(session, run_id=run.id, repository=run.repository, branch=run.branch, commit=commit)
        self.repositories.push(git_dir, url=url, commit=commit, branch=run.branch, expected=there, token=token)
        return commit

    def _verified_on(self, forge: Forge, patch: Patch, run: Run) -> str:
        """The evidence is of the commit that the run began on, and so is the branch; where the base branch went on
        meanwhile, that is said."""
        now = self.repositories.remote_branch(forge.repository().clone_url, run.base_branch, forge.git_token("read"))
        return texts.verified_on(patch.base_commit, run.base_branch, now)

    def _pull_request(
        self, forge: Forge, result: Result, patch: Patch, outcome: Outcome, verified_on: str
    ) -> PullRequestRef:
        """Ready for review only where the evidence shows a fix; one that is open already stays as it is."""
        run = result.run
        title = texts.pull_request_title(run.issue_title, run.issue_number)
        body = texts.pull_request_body(
            run_id=run.id,
            issue_number=run.issue_number,
            requested_by=run.requested_by,
            summary=run.summary or "",
            verdict=Verdict(outcome=outcome, reason=run.reason or ""),
            evidence=result.evidence,
            verified_on=verified_on,
            patch=patch,
            footer=result.footer,
        )
        found = forge.find_pull_request(run.branch)
        if found is not None and found.state == "open":
            return forge.edit_pull_request(found.number, title=title, body=body)
        draft = outcome is not Outcome.FIXED
        return forge.open_pull_request(title=title, body=body, head=run.branch, base=run.base_branch, draft=draft)

    def _check_run(self, forge: Forge, result: Result, head: str, outcome: Outcome) -> None:
        """The evidence on the commit itself. Not every installation grants it, and nothing depends on it."""
        if not self.check_runs:
            return
        run = result.run
        verdict = Verdict(outcome=outcome, reason=run.reason or "")
        try:
            if forge.find_check_run(head, CHECK, str(run.id)) is None:
                forge.create_check_run(
                    head=head,
                    name=CHECK,
                    external_id=str(run.id),
                    conclusion="success" if outcome is Outcome.FIXED else "neutral",
                    title=outcome.value,
                    summary=texts.check_summary(verdict=verdict, evidence=result.evidence, footer=result.footer),
                )
        except ForgeRefused as refused:
            log.info("no_check_run", extra={"why": str(refused)})

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
            left = after_the_end(forge, self.store, run) if run.outcome in WITH_PULL_REQUEST else []
            set_status(forge, run.issue_number, ended(result, left), comment_id=run.status_comment_id)
            self._label_end(forge, run, None if run.state is RunState.CANCELLED else Label.FAILED)
        except (Transient, Permanent) as error:
            log.warning("status_comment_failed", extra={"why": str(error)})
        self.repositories.drop_run_dir(str(run.id))

    def _label_end(self, forge: Forge, run: Run, label: Label | None) -> None:
        """After the run's end: the trigger label goes too, and by then there is nothing that this would end."""
        if self.labels is not None:
            self.labels.show(forge, run.issue_number, label, ended=True)

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
            set_status(forge, run.issue_number, body, comment_id=run.status_comment_id)
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
