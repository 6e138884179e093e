"""Labels whose webhook never came: GitHub delivers each once, and not again by itself. Runs on the `default` worker.

Who asked is who put the label on, by the issue's own events; where they don't tell, nothing is started. Each event is
asked about once, whatever comes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from worker import wakes
from worker.errors import ForgeRefused, ForgeUnavailable
from worker.runs import missed
from worker.runs.asked import IssueRequest
from worker.stages.forge import Forge, Forges, Issue
from worker.store.session import Store

log = logging.getLogger(__name__)

#: A webhook may be on its way for so long; and the hook of one that failed may be mended by its owner.
GRACE = timedelta(minutes=2)
TITLE_CHARS, BODY_CHARS = 1_000, 100_000


@dataclass(frozen=True, kw_only=True)
class Reconcile:
    """The task body of `reconcile`."""

    store: Store
    forges: Forges
    send: Callable[[wakes.Wake], None]
    label: str

    def __call__(self) -> None:
        with self.store.transaction() as session:
            places = missed.places(session)
        try:
            places |= dict(self.forges.installed())
        except (ForgeRefused, ForgeUnavailable) as error:
            log.warning("installations_unknown", extra={"why": str(error)})
        asked = 0
        for repository, installation_id in sorted(places.items()):
            try:
                asked += self._look(repository, installation_id)
            except ForgeRefused as refused:  # not ours to see any more
                log.info("not_reconciled", extra={"repository": repository, "why": str(refused)})
            except ForgeUnavailable as error:
                log.warning("not_reconciled", extra={"repository": repository, "why": str(error)})
                return  # the others would fare no better; the next round begins with them all again
        if asked:
            log.warning("webhooks_were_missed", extra={"count": asked})
            self.send(wakes.intake())

    def _look(self, repository: str, installation_id: int | None) -> int:
        forge = self.forges.open(repository, installation_id)
        issues = [issue for issue in forge.labelled(self.label) if issue.state == "open" and not issue.locked]
        with self.store.transaction() as session:
            fresh = missed.unknown(session, repository, [issue.number for issue in issues])
        return sum(self._ask(forge, repository, installation_id, issue) for issue in issues if issue.number in fresh)

    def _ask(self, forge: Forge, repository: str, installation_id: int | None, issue: Issue) -> bool:
        event = forge.labelled_by(issue.number, self.label)
        if event is None or event.is_bot:
            return False
        request = IssueRequest(
            repository=repository,
            installation_id=installation_id,
            issue_number=issue.number,
            title=issue.title[:TITLE_CHARS],
            body=issue.body[:BODY_CHARS],
            issue_url=issue.url,
            sender=event.actor,
            sender_type="User",
            sender_id=event.actor_id,
            label=self.label,
            asked_at=event.at,
            discussed=True,
        )
        with self.store.transaction() as session:
            return missed.ask(session, request, event_id=event.id, at=event.at, grace=GRACE)
