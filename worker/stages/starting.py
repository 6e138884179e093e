"""From a wish to a queued run: is the sender entitled, is the issue still ours to touch, and freeze it."""

from __future__ import annotations

import logging

from worker import wakes
from worker.holding import Work
from worker.runs import missed, quarantine, requests, setups
from worker.runs.asked import IssueRequest
from worker.stages import config, large_files, policies
from worker.stages.desk import Desk
from worker.stages.discussion import frozen
from worker.stages.entitlement import Refused, entitled, touchable
from worker.stages.layer import needed
from worker.store.models import Delivery, DeliveryState
from worker.store.session import after_commit

log = logging.getLogger(__name__)


class Changed(Exception):
    """The issue was closed, or the like, while we looked at it."""


def start(desk: Desk, delivery: Delivery, request: IssueRequest, work: Work, traceparent: str | None) -> None:
    """Start it, or look again where somebody closed the issue (or the like) as we looked at it."""
    for _ in range(2):
        try:
            _start(desk, delivery, request, work, traceparent)
        except Changed:
            continue
        return
    _start(desk, delivery, request, work, traceparent)


def _start(desk: Desk, delivery: Delivery, request: IssueRequest, work: Work, traceparent: str | None) -> None:
    with desk.store.transaction() as session:
        if not delivery.key.startswith("sweep:") and missed.late(session, request):
            raise Refused("its run was begun before this came")
        began = requests.newest_stop(session, request.repository, request.issue_number)
    forge = desk.forges.open(request.repository, request.installation_id)
    repository = forge.repository()
    entitled(forge, request)
    issue = forge.issue(request.issue_number)
    touchable(repository, issue)
    with desk.store.transaction() as session:
        kept = quarantine.standing(session, request.repository, request.issue_number)
    if kept is not None:
        raise Refused(quarantine.words(kept), tell=True)
    desk.react(forge, request, "eyes")
    comments = forge.comments(request.issue_number) if request.discussed else ()
    work.check()
    mirror = desk.repositories.fetch(request.repository, repository.clone_url, forge.git_token("read"))
    commit = desk.repositories.resolve(mirror, repository.default_branch)
    try:
        settings = config.parse(desk.repositories.read_file(mirror, commit, config.PATH))
    except config.ConfigError as error:
        raise Refused(str(error), tell=True) from error
    if (
        why := policies.forbidden(
            settings, lambda path: desk.repositories.read_file(mirror, commit, path, max_bytes=policies.GUIDE_BYTES)
        )
    ) is not None:
        raise Refused(why, tell=True)
    pointers = large_files.kept_outside(desk.repositories, mirror, commit)
    held = setups.HELD if needed(desk.repositories, mirror, commit, settings) else None
    work.check()
    with desk.store.transaction() as session:
        # A stop that arrived since found no run to stop. The lock orders us before it, or after.
        requests.lock_issue(session, request.repository, request.issue_number)
        if requests.newest_stop(session, request.repository, request.issue_number) != began:
            raise Changed
        run_id, created = requests.start(
            session,
            request.model_copy(update={"body": frozen(request, comments)}),
            clone_url=repository.clone_url,
            base_branch=repository.default_branch,
            base_commit=commit,
            profile=desk.profile,
            max_attempts=desk.max_attempts,
            repository_config=settings.model_dump(mode="json"),
            held_reason=held,
            traceparent=traceparent,
        )
        reason = None if created else "a run for this issue is already under way"
        state = DeliveryState.HANDLED if created else DeliveryState.IGNORED
        requests.finish_delivery(session, delivery.id, state, reason=reason, run_id=run_id)
        if created:
            after_commit(session, lambda: desk.send(wakes.setup(run_id) if held else wakes.permit(desk.profile)))
    log.info("run_queued" if created else "run_joined", extra={"run_id": run_id, "lfs_pointers": pointers})
    if created:
        details = [large_files.POINTERS] if pointers else []
        first = delivery.attempt <= 1 and request.asked_at is not None and not request.discussed
        desk.acknowledge(forge, run_id, details, issue=issue, uncommented=first)
