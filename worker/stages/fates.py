"""What becomes of a pull request of ours: merged, closed, changed by people. Recorded as GitHub has it now, since
events come late and out of order."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

from agent.survival import survived
from worker.errors import Permanent, RepositoryRefused
from worker.runs import ledger, pull_requests, requests
from worker.runs.asked import PullRequestEvent
from worker.runs.pull_requests import Fate
from worker.stages import stopping
from worker.stages.desk import Desk
from worker.stages.entitlement import Refused
from worker.stages.forge import Forge, PullRequestRef
from worker.store import queries
from worker.store.models import Delivery, PullRequest

log = logging.getLogger(__name__)


def record(desk: Desk, delivery: Delivery, request: PullRequestEvent) -> None:
    with desk.store.transaction() as session:
        known = pull_requests.known(session, request.repository, request.issue_number)
    if known is None:
        raise Refused("the pull request is not from this service")
    forge = desk.forges.open(request.repository, request.installation_id)
    now = forge.pull_request(request.issue_number)
    fate = Fate(state="merged" if now.merged else now.state, draft=now.draft, head=now.head_commit, at=request.at)
    if now.merged:
        fate = replace(fate, merge_commit=now.merge_commit, survived=_survived(desk, forge, known, request, now))
    with desk.store.transaction() as session:
        pull_requests.became(session, known.id, fate)
        requests.lock_issue(session, request.repository, known.issue_number)
        ended = (
            []
            if now.state == "open"
            else requests.stop_branch(session, known.repository, known.branch, by=_who(request, fate))
        )
        stopping.finish(desk, session, delivery, ended, otherwise=fate.state)
    log.info("pull_request_became", extra={"number": known.number, "state": fate.state})


def _who(request: PullRequestEvent, fate: Fate) -> str:
    return f"{request.sender}, who {'merged' if fate.state == 'merged' else 'closed'} the pull request"


def _survived(
    desk: Desk, forge: Forge, known: PullRequest, request: PullRequestEvent, now: PullRequestRef
) -> float | None:
    """How much of what we delivered last is in what was merged; None where that can't be told."""
    with desk.store.transaction() as session:
        row = queries.patch(session, known.run_id)
    if row is None:
        return None
    ours = ledger.stored_patch(row)
    try:
        mirror = desk.repositories.fetch(request.repository, forge.repository().clone_url, forge.git_token("read"))
        # The branch may be gone by now; what was merged is on the base branch then.
        ends = [end for end in (now.merge_commit, now.head_commit) if end is not None]
        for end in ends:
            with suppress(RepositoryRefused):
                there = desk.repositories.resolve(mirror, end)
                return survived(ours, desk.repositories.patch(mirror, ours.base_commit, there))
    except Permanent as error:
        log.warning("survival_unknown", extra={"why": str(error)})
    return None
