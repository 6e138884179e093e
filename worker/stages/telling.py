"""How a run gets on, shown at its issue while it is live. Runs on the `default` worker, woken by the sweep.

Several may show one run at once, and the slower may show what is no longer so: each looks at the run again afterwards,
until it was still as shown.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from worker import logs
from worker.errors import Permanent, Transient
from worker.runs import progress
from worker.runs.asked import CommandRequest
from worker.stages import labels, status, texts
from worker.stages.forge import Forge, Forges
from worker.store.models import LIVE, Run
from worker.store.session import Store

log = logging.getLogger(__name__)

MOST_LOOKS = 3  # what changes more often than that is shown by the sweep's next message


@dataclass(frozen=True, kw_only=True)
class Tell:
    """The task body of `tell`."""

    store: Store
    forges: Forges
    labels: labels.StateLabels

    def __call__(self, run_id: UUID) -> None:
        with logs.bound(run_id=run_id):
            try:
                self._tell(run_id)
            except (Transient, Permanent) as error:
                # Also of a refusal, say a locked conversation: what can't be shown now is tried at its next change.
                log.warning("status_comment_failed", extra={"why": str(error)})

    def _tell(self, run_id: UUID) -> None:
        shown: progress.Phase | None = None
        for _ in range(MOST_LOOKS):
            with self.store.transaction() as session:
                run = session.get(Run, run_id)
                if run is None or (run.state not in LIVE and shown is None):
                    return  # its end is told by who ended it
                before, shown = run.told_phase, progress.noted(session, run)
                body = status.shown(session, run)
            forge = self.forges.open(run.repository, run.installation_id)
            comment_id = _show(forge, run, body)
            if before != shown:  # else it has its label
                self.labels.show(forge, run.place, labels.of(run))
            with self.store.transaction() as session:
                now = progress.found(session, run_id, comment_id)
            if now == shown:
                return


def show(store: Store, forges: Forges, request: CommandRequest, run_id: UUID | None, notes: Sequence[str]) -> None:
    """The status comment as it is now, with notes, because somebody asked for it. What the forge raises."""
    forge = forges.open(request.repository, request.installation_id)
    if run_id is None:
        headline = "nothing was asked for at this issue yet."
        status.set_status(forge, request.issue_number, texts.status(request.issue_number, None, headline, notes))
        return
    with store.transaction() as session:
        run = session.get_one(Run, run_id)
        body = status.shown(session, run, notes)
    _show(forge, run, body)


def _show(forge: Forge, run: Run, body: str) -> int:
    return status.set_status(forge, run.place, body, comment_id=run.status_comment_id).id
