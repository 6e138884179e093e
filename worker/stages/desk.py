"""What the parts of intake share: the store, GitHub, git, the queue, and how a delivery is finished and told of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from worker import wakes
from worker.errors import Permanent, Transient
from worker.runs import progress, requests
from worker.runs.asked import CommandRequest, IssueRequest, ReviewRequest, StopRequest
from worker.stages import texts
from worker.stages.forge import Forge, Forges, Issue, Reaction
from worker.stages.labels import Label, StateLabels
from worker.stages.ports import Repositories
from worker.stages.status import queued, set_status
from worker.store.models import Delivery, DeliveryState, Run
from worker.store.session import Store

log = logging.getLogger(__name__)

OfAnIssue = IssueRequest | StopRequest | CommandRequest | ReviewRequest


@dataclass(frozen=True, kw_only=True)
class Desk:
    store: Store
    forges: Forges
    repositories: Repositories
    send: Callable[[wakes.Wake], None]
    profile: str
    max_attempts: int
    labels: StateLabels | None = None

    def finish(self, delivery: Delivery, state: DeliveryState, reason: str, *, run_id: UUID | None = None) -> None:
        log.info("delivery_finished", extra={"to": state.value, "why": reason})
        with self.store.transaction() as session:
            requests.finish_delivery(session, delivery.id, state, reason=reason, run_id=run_id)

    def tell(self, request: OfAnIssue, headline: str) -> None:
        """In the status comment. Nothing depends on its being told."""
        try:
            forge = self.forges.open(request.repository, request.installation_id)
            set_status(forge, request.issue_number, texts.status(request.issue_number, None, headline))
        except (Transient, Permanent) as error:
            log.warning("status_comment_failed", extra={"repository": request.repository, "why": str(error)})

    def acknowledge(
        self,
        forge: Forge,
        run_id: UUID,
        details: Sequence[str] = (),
        *,
        issue: Issue | None = None,
        uncommented: bool = False,
    ) -> None:
        """Say that it waits. The run exists either way; whoever tells of it next finds or makes the comment."""
        with self.store.transaction() as session:
            run = session.get_one(Run, run_id)
            body = queued(session, run, details)
        try:
            comment = set_status(forge, run.place, body, uncommented=uncommented)
        except (Transient, Permanent) as error:
            log.warning("status_comment_failed", extra={"run_id": run_id, "why": str(error)})
            return
        if self.labels is not None:
            self.labels.show(forge, run.place, Label.QUEUED, there=None if issue is None else issue.labels)
        with self.store.transaction() as session:
            progress.noted(session, run)
            progress.found(session, run_id, comment.id)

    def react(self, forge: Forge, request: IssueRequest | CommandRequest, reaction: Reaction) -> None:
        """To what asked: a comment, else the issue. The first that people see, and nothing depends on it."""
        try:
            forge.react(request.issue_number, reaction, comment_id=request.comment_id)
        except (Transient, Permanent) as error:
            log.info("no_reaction", extra={"repository": request.repository, "why": str(error)})
