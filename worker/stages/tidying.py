"""What people are told of a run that ended without delivery, and what becomes of a pull request it had opened."""

from __future__ import annotations

from worker.stages import texts
from worker.stages.forge import Forge, PullRequestRef
from worker.store import queries
from worker.store.models import Run, RunState
from worker.store.session import Store


def after_the_end(forge: Forge, store: Store, run: Run) -> list[str]:
    """Lines for the status comment of a failed or cancelled run.

    A delivery that was stopped half-way may have left a pull request. One that this run opened is closed when people
    cancelled it, and named when we failed; one that an earlier run opened stays open and is named. It is found by its
    branch and this run's marker, so doing this twice is the same as once.
    """
    found = forge.find_pull_request(run.branch)
    if found is None or texts.run_marker(run.id) not in found.body:
        return []
    if run.state is not RunState.CANCELLED or found.merged:
        return [f"It had got as far as this pull request: {found.url}"]
    with store.transaction() as session:
        known = queries.pull_request(session, run.repository, run.branch)
    if known is not None and known.number == found.number:
        return [f"{found.url} is of an earlier run and stays open; it may show this run's change."]
    if found.state == "open":
        _close(forge, found, run)
    return [f"Its pull request {found.url} was closed."]


def _close(forge: Forge, found: PullRequestRef, run: Run) -> None:
    why = f"**Closed: {texts.inline(run.reason or 'cancelled')}**"
    forge.close_pull_request(found.number, body=texts.noted(found.body, why))
