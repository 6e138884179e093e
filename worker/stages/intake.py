"""From a stored delivery to a queued run: is the sender entitled, is the issue still ours to touch, and freeze it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from worker import logs, wakes
from worker.errors import ForgeRefused, ForgeUnavailable, Permanent, ShuttingDown, Transient
from worker.heartbeat import Heartbeat
from worker.holding import Work
from worker.observe import Watch
from worker.runs import quarantine, requests, setups
from worker.runs.asked import IssueRequest, StopRequest, stored_request
from worker.stages import config, large_files, texts
from worker.stages.layer import needed
from worker.stages.ports import Forge, Forges, Issue, Repositories, RepositoryInfo
from worker.stages.status import queued, set_status
from worker.store import queries
from worker.store.models import Delivery, DeliveryState, Run, RunState
from worker.store.session import Store, after_commit

log = logging.getLogger(__name__)

ENTITLED = frozenset({"admin", "maintain", "write"})
CLAIM_SECONDS = 180.0
PATIENCE_SECONDS = 24 * 3600.0
SHORTEST_PAUSE, LONGEST_PAUSE = 5.0, 900.0
MAX_CRASHES = 5


class Refused(Exception):
    """This delivery becomes nothing. `tell`: the reason goes to the issue too, since its sender may mend it."""

    def __init__(self, reason: str, *, tell: bool = False) -> None:
        super().__init__(reason)
        self.tell = tell


class Changed(Exception):
    """The issue was closed, or the like, while we looked at it."""


def entitled(forge: Forge, request: IssueRequest) -> None:
    """Only people who can write to the repository start runs. Any doubt refuses."""
    if request.sender_type == "Bot":
        raise Refused("bots never trigger")
    permission = forge.permission(request.sender)
    if permission not in ENTITLED:
        raise Refused(f"{request.sender} has {permission} permission here; starting a run needs write")


def ended(forge: Forge, request: StopRequest) -> None:
    """What the event said has to be so now: an issue that was opened again, or a label that is back, stops nothing."""
    if request.ending == "unlabeled" and (
        request.sender_type == "Bot" or request.sender.casefold() == forge.login().casefold()
    ):
        raise Refused("bots stop nothing by taking the label off")
    try:
        issue = forge.issue(request.issue_number)
    except ForgeRefused:
        return  # deleted, transferred, or no longer ours to see
    there = {name.strip().casefold() for name in issue.labels}
    still = {
        "closed": issue.state == "open",
        "locked": not issue.locked,
        "unlabeled": request.label.strip().casefold() in there,
        "deleted": True,
        "transferred": True,
    }
    if still[request.ending]:
        raise Refused(f"the issue is no longer {request.ending}")


def touchable(repository: RepositoryInfo, issue: Issue) -> None:
    """What may have changed since the event: state, lock, archive; and a pull request is no issue."""
    if repository.archived or repository.disabled:
        raise Refused("the repository is archived or disabled")
    if issue.is_pull_request:
        raise Refused("this is a pull request, not an issue")
    if issue.state != "open":
        raise Refused("the issue is closed")
    if issue.locked:
        raise Refused("the issue is locked")


@dataclass(frozen=True, kw_only=True)
class Intake:
    """The task body of `intake`. Runs on the `default` worker, the only one that holds GitHub's credentials."""

    store: Store
    heartbeat: Heartbeat
    forges: Forges
    repositories: Repositories
    send: Callable[[wakes.Wake], None]
    profile: str
    max_attempts: int
    watch: Watch = field(default_factory=Watch)

    def __call__(self) -> None:
        """Handle received deliveries until none is left; several workers may do so side by side."""
        with self.heartbeat.watch("intake", seconds=CLAIM_SECONDS) as work:
            while not work.cancel.is_set():
                with self.store.transaction() as session:
                    delivery = requests.claim_delivery(session, seconds=CLAIM_SECONDS)
                if delivery is None:
                    return
                work.restart(CLAIM_SECONDS)
                trace = self.watch.tracing.span("intake", parent=delivery.traceparent, delivery_id=str(delivery.id))
                with logs.bound(delivery_id=delivery.id), trace as recording:
                    self._handle(delivery, work, delivery.traceparent or recording.traceparent)

    def _handle(self, delivery: Delivery, work: Work, traceparent: str | None) -> None:
        if delivery.request is None:
            self._finish(delivery, DeliveryState.IGNORED, "nothing was asked for")
            return
        request = stored_request(delivery.request)
        try:
            if isinstance(request, StopRequest):
                self._stop(delivery, request)
            else:
                self._start_as_it_is(delivery, request, work, traceparent)
        except Refused as refused:
            self._finish(delivery, DeliveryState.IGNORED, str(refused))
            if refused.tell:
                self._tell(request, f"not started: {refused}")
        except ShuttingDown as error:
            with self.store.transaction() as session:
                requests.postpone_delivery(session, delivery.id, reason=str(error), seconds=0)
        except Transient as error:
            self._again_or_fail(delivery, error)
        except Permanent as error:
            self._finish(delivery, DeliveryState.IGNORED, str(error))
            if isinstance(request, IssueRequest):
                self._tell(request, f"not started: {texts.inline(str(error))}")
        except Exception as error:
            log.exception("intake_crashed")
            self._crashed(delivery, f"internal error: {type(error).__name__}: {error}")

    def _stop(self, delivery: Delivery, request: StopRequest) -> None:
        ended(self.forges.open(request.repository, request.installation_id), request)
        with self.store.transaction() as session:
            requests.lock_issue(session, request.repository, request.issue_number)
            stopped = requests.stop(session, request)
            state = DeliveryState.HANDLED if stopped else DeliveryState.IGNORED
            reason = None if stopped else "no run is under way"
            run_id = stopped[0][0] if stopped else None
            requests.finish_delivery(session, delivery.id, state, reason=reason, run_id=run_id)
            for wake in (wakes.deliver(one) for one, now in stopped if now is RunState.CANCELLED):
                after_commit(session, partial(self.send, wake))
        log.info("runs_stopped", extra={"count": len(stopped), "ending": request.ending})

    def _start_as_it_is(self, delivery: Delivery, request: IssueRequest, work: Work, traceparent: str | None) -> None:
        """Start it, or look again where somebody closed the issue (or the like) as we looked at it."""
        for _ in range(2):
            try:
                self._start(delivery, request, work, traceparent)
            except Changed:
                continue
            return
        self._start(delivery, request, work, traceparent)

    def _start(self, delivery: Delivery, request: IssueRequest, work: Work, traceparent: str | None) -> None:
        with self.store.transaction() as session:
            began = requests.newest_stop(session, request.repository, request.issue_number)
        forge = self.forges.open(request.repository, request.installation_id)
        repository = forge.repository()
        entitled(forge, request)
        touchable(repository, forge.issue(request.issue_number))
        with self.store.transaction() as session:
            kept = quarantine.standing(session, request.repository, request.issue_number)
        if kept is not None:
            raise Refused(quarantine.words(kept), tell=True)
        work.check()
        mirror = self.repositories.fetch(request.repository, repository.clone_url, forge.git_token("read"))
        commit = self.repositories.resolve(mirror, repository.default_branch)
        try:
            settings = config.parse(self.repositories.read_file(mirror, commit, config.PATH))
        except config.ConfigError as error:
            raise Refused(str(error), tell=True) from error
        pointers = large_files.kept_outside(self.repositories, mirror, commit)
        held = setups.HELD if needed(self.repositories, mirror, commit, settings) else None
        work.check()
        with self.store.transaction() as session:
            # A stop that arrived since found no run to stop. The lock orders us before it, or after.
            requests.lock_issue(session, request.repository, request.issue_number)
            if requests.newest_stop(session, request.repository, request.issue_number) != began:
                raise Changed
            run_id, created = requests.start(
                session,
                request,
                clone_url=repository.clone_url,
                base_branch=repository.default_branch,
                base_commit=commit,
                profile=self.profile,
                max_attempts=self.max_attempts,
                repository_config=settings.model_dump(mode="json"),
                held_reason=held,
                traceparent=traceparent,
            )
            reason = None if created else "a run for this issue is already under way"
            state = DeliveryState.HANDLED if created else DeliveryState.IGNORED
            requests.finish_delivery(session, delivery.id, state, reason=reason, run_id=run_id)
            if created:
                after_commit(session, lambda: self.send(wakes.setup(run_id) if held else wakes.permit(self.profile)))
        log.info("run_queued" if created else "run_joined", extra={"run_id": run_id, "lfs_pointers": pointers})
        if created:
            self._acknowledge(forge, request, run_id, [large_files.POINTERS] if pointers else [])

    def _acknowledge(self, forge: Forge, request: IssueRequest, run_id: UUID, details: Sequence[str]) -> None:
        """The run exists either way; `deliver` finds or makes the comment, should this fail."""
        with self.store.transaction() as session:
            body = queued(session, session.get_one(Run, run_id), details)
        try:
            comment = set_status(forge, request.issue_number, body)
        except (Transient, Permanent) as error:
            log.warning("status_comment_failed", extra={"run_id": run_id, "why": str(error)})
            return
        with self.store.transaction() as session:
            still = session.get(Run, run_id)
            if still is not None:
                still.status_comment_id = comment.id

    def _tell(self, request: IssueRequest | StopRequest, headline: str) -> None:
        try:
            forge = self.forges.open(request.repository, request.installation_id)
            set_status(forge, request.issue_number, texts.status(request.issue_number, None, headline))
        except (Transient, Permanent) as error:
            log.warning("status_comment_failed", extra={"repository": request.repository, "why": str(error)})

    def _again_or_fail(self, delivery: Delivery, error: Transient) -> None:
        """GitHub may be away for hours, and what people asked for is worth the wait: each pause is a quarter of the
        time waited so far, and only after a day it is given up."""
        asked = error.retry_after if isinstance(error, ForgeUnavailable) else None
        with self.store.transaction() as session:
            waited = queries.seconds_since_receipt(session, delivery.id)
            if waited < PATIENCE_SECONDS:
                wait = max(asked or 0.0, SHORTEST_PAUSE, min(waited / 4, LONGEST_PAUSE))
                requests.postpone_delivery(session, delivery.id, reason=str(error), seconds=wait)
                log.warning("intake_postponed", extra={"why": str(error), "seconds": wait})
                return
        self._finish(delivery, DeliveryState.FAILED, f"given up after a day: {error}")

    def _crashed(self, delivery: Delivery, reason: str) -> None:
        """Our own error: a few more tries, in case it passes; then it is ours to look at, and no longer in the way."""
        if delivery.attempt >= MAX_CRASHES:
            self._finish(delivery, DeliveryState.FAILED, reason)
            return
        with self.store.transaction() as session:
            requests.postpone_delivery(
                session, delivery.id, reason=reason, seconds=SHORTEST_PAUSE * 2**delivery.attempt
            )

    def _finish(self, delivery: Delivery, state: DeliveryState, reason: str) -> None:
        log.info("delivery_finished", extra={"to": state.value, "why": reason})
        with self.store.transaction() as session:
            requests.finish_delivery(session, delivery.id, state, reason=reason)
