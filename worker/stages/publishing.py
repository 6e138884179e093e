"""A change on GitHub: its commit on the branch, its pull request, its check run. Each is looked up before it is
made."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.evidence import Verdict
from agent.outcome import Outcome, Patch
from worker.errors import ForgeRefused, ForgeUnavailable, RepositoryRefused
from worker.holding import Holding
from worker.runs import caps, states
from worker.runs.caps import Caps
from worker.runs.states import Lease
from worker.stages import pull_request_text, texts
from worker.stages.forge import Forge, PullRequestRef
from worker.stages.ports import Repositories
from worker.stages.result import Result
from worker.store import queries
from worker.store.session import Store

log = logging.getLogger(__name__)

CHECK = "devstral-fix"
SUBJECTS = 30  # of the base's newest commits, by which its titles are known


@dataclass(frozen=True, kw_only=True)
class Published:
    pull_request: PullRequestRef
    head: str


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Of one run's change, by whoever holds its lease. OverCap where there is no place for another pull request."""

    store: Store
    repositories: Repositories
    forge: Forge
    lease: Lease
    holding: Holding
    git_dir: Path
    result: Result
    patch: Patch
    outcome: Outcome
    check_runs: bool
    caps: Caps
    author: str  #: `Name <address>`

    def __call__(self) -> Published:
        head = self._push()
        self.holding.check()
        pull_request = self._pull_request()
        self.holding.check()
        self._check_run(head)
        self.holding.check()
        return Published(pull_request=pull_request, head=head)

    def _push(self) -> str:
        """The commit on the run's branch; pushed unless it is there already. People's commits are never replaced: a fix
        replaces what the service itself made, a revision stands on what it began with."""
        run, repositories = self.result.run, self.repositories
        name, _, address = self.author.removesuffix(">").rpartition(" <")
        tree = repositories.apply(self.git_dir, self.patch.base_commit, self.patch.diff)
        # Dated by the run, not by the clock, so that a second try makes the very same commit.
        commit = repositories.commit(
            self.git_dir,
            tree=tree,
            parent=run.head_commit or self.patch.base_commit,
            message=texts.commit_message(
                issue_title=run.issue_title,
                issue_number=run.issue_number,
                run_id=run.id,
                co_author=texts.co_author(run.requested_by, run.requested_by_id),
                revises=run.head_commit is not None,
            ),
            author=name,
            email=address,
            date=run.concluded_at or run.queued_at,
        )
        token = self.forge.git_token("write")
        url = run.clone_url
        there = repositories.remote_branch(url, run.branch, token)
        if there == commit:
            return commit
        if run.head_commit is not None and there != run.head_commit:
            raise RepositoryRefused(
                f"the branch {run.branch} moved while its change was revised, and nothing there is replaced; ask again"
            )
        if run.head_commit is None and there is not None and there not in self.result.known_heads:
            raise RepositoryRefused(
                f"the branch {run.branch} holds commits that are not from this service; delete it and ask again"
            )
        self.holding.check()
        with self.store.transaction() as session:  # before the push: whatever becomes of this run, it is known as ours
            states.write(session, self.lease, lease_owner=self.lease.owner)
            caps.take_place(session, run, self.caps)
            queries.note_push(session, run_id=run.id, repository=run.repository, branch=run.branch, commit=commit)
        repositories.push(self.git_dir, url=url, commit=commit, branch=run.branch, expected=there, token=token)
        return commit

    def _pull_request(self) -> PullRequestRef:
        """Ready for review only where the evidence shows a fix; one that is open already stays as it is."""
        run, base = self.result.run, self.patch.base_commit
        title = pull_request_text.title(
            run.issue_title, run.issue_number, self.repositories.subjects(self.git_dir, base, SUBJECTS)
        )
        body = partial(
            pull_request_text.body,
            run_id=run.id,
            issue_number=run.issue_number,
            requested_by=run.requested_by,
            said=run.summary or "",
            verdict=Verdict(outcome=self.outcome, reason=run.reason or ""),
            evidence=self.result.evidence,
            tries=self.result.tries,
            verified_on=self._verified_on(),
            patch=self.patch,
            footer=self.result.footer,
            template=self._template(),
        )
        found = self.forge.find_pull_request(run.branch)
        if found is not None and found.state == "open":
            # Its title may be people's by now.
            title = title if run.head_commit is None else found.title
            return self.forge.edit_pull_request(found.number, title=title, body=body())
        draft = self.outcome is not Outcome.FIXED
        made = self.forge.open_pull_request(
            title=title, body=body(), head=run.branch, base=run.base_branch, draft=draft
        )
        if draft and not made.draft:
            made = self.forge.edit_pull_request(made.number, title=title, body=body(no_drafts=True))
        self._ask_for_review(made)
        return made

    def _ask_for_review(self, made: PullRequestRef) -> None:
        """Of who asked for it, who may have left by now, or be the service's own account."""
        try:
            self.forge.request_review(made.number, self.result.run.requested_by)
        except (ForgeRefused, ForgeUnavailable) as error:
            log.info("no_review_request", extra={"why": str(error)})

    def _template(self) -> str | None:
        """The repository's own, as it was at the base."""
        for path in pull_request_text.TEMPLATES:
            found = self.repositories.read_file(
                self.git_dir, self.patch.base_commit, path, max_bytes=pull_request_text.TEMPLATE_BYTES
            )
            if found is not None:
                return found.decode("utf-8", "replace")
        return None

    def _verified_on(self) -> str:
        """The evidence is of the commit that the run began on, and so is the branch; where the base branch went on
        meanwhile, that is said."""
        run, token = self.result.run, self.forge.git_token("read")
        now = self.repositories.remote_branch(run.clone_url, run.base_branch, token)
        return texts.verified_on(self.patch.base_commit, run.base_branch, now)

    def _check_run(self, head: str) -> None:
        """The evidence on the commit itself: as a check run, or as a commit status for who may make none. Nothing
        depends on it."""
        if not self.check_runs:
            return
        run = self.result.run
        verdict = Verdict(outcome=self.outcome, reason=run.reason or "")
        summary = texts.check_summary(verdict=verdict, evidence=self.result.evidence, footer=self.result.footer)
        try:
            if self.forge.find_check_run(head, CHECK, str(run.id)) is None:
                self.forge.create_check_run(
                    head=head,
                    name=CHECK,
                    external_id=str(run.id),
                    conclusion="success" if self.outcome is Outcome.FIXED else "neutral",
                    title=self.outcome.value,
                    summary=summary,
                )
        except ForgeRefused as refused:
            log.info("no_check_run", extra={"why": str(refused)})
            if self.outcome is Outcome.FIXED:  # a status has no neutral end: what is not shown to be right has none
                self._status(head)

    def _status(self, head: str) -> None:
        try:
            self.forge.set_status(head, context=CHECK, description=self.result.run.reason or self.outcome.value)
        except ForgeRefused as refused:
            log.info("no_commit_status", extra={"why": str(refused)})
