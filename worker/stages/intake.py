"""From a stored delivery to what it asks for: a run, an end, a word. Runs on the `default` worker, the only one that
holds GitHub's credentials."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from worker import logs
from worker.errors import ForgeUnavailable, Permanent, ShuttingDown, Transient
from worker.heartbeat import Heartbeat
from worker.holding import Work
from worker.observe import Watch
from worker.runs import requests
from worker.runs.asked import (
    Asked,
    ChecksRequest,
    CommandRequest,
    IssueRequest,
    PullRequestEvent,
    RemovedRequest,
    ReviewRequest,
    StopRequest,
    WaitingRequest,
    stored_request,
)
from worker.stages import commanding, fates, revising, starting, stopping, texts
from worker.stages.desk import Desk
from worker.stages.entitlement import Refused
from worker.store import queries
from worker.store.models import Delivery, DeliveryState

log = logging.getLogger(__name__)

CLAIM_SECONDS = 180.0
PATIENCE_SECONDS = 24 * 3600.0
SHORTEST_PAUSE, LONGEST_PAUSE = 5.0, 900.0
MAX_CRASHES = 5


@dataclass(frozen=True, kw_only=True)
class Intake(Desk):
    """The task body of `intake`."""

    heartbeat: Heartbeat
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
            self.finish(delivery, DeliveryState.IGNORED, "nothing was asked for")
            return
        request = stored_request(delivery.request)
        try:
            self._ask(delivery, request, work, traceparent)
        except Refused as refused:
            self.finish(delivery, DeliveryState.IGNORED, str(refused))
            if refused.tell and isinstance(request, IssueRequest | CommandRequest | ReviewRequest):
                self.tell(request, f"not started: {refused}")
        except ShuttingDown as error:
            with self.store.transaction() as session:
                requests.postpone_delivery(session, delivery.id, reason=str(error), seconds=0)
        except Transient as error:
            self._again_or_fail(delivery, error)
        except Permanent as error:
            self.finish(delivery, DeliveryState.IGNORED, str(error))
            if isinstance(request, IssueRequest | CommandRequest):
                self.tell(request, f"not started: {texts.inline(str(error))}")
        except Exception as error:
            log.exception("intake_crashed")
            self._crashed(delivery, f"internal error: {type(error).__name__}: {error}")

    def _ask(self, delivery: Delivery, request: Asked, work: Work, traceparent: str | None) -> None:
        match request:
            case IssueRequest():
                starting.start(self, delivery, request, work, traceparent)
            case CommandRequest():
                commanding.obey(self, delivery, request, work, traceparent)
            case StopRequest():
                stopping.stop(self, delivery, request)
            case RemovedRequest():
                stopping.remove(self, delivery, request)
            case PullRequestEvent():
                fates.record(self, delivery, request)
            case ReviewRequest():
                revising.review(self, delivery, request, work, traceparent)
            case ChecksRequest():
                revising.checks(self, delivery, request, work, traceparent)
            case WaitingRequest():
                revising.waiting(self, delivery, request, work, traceparent)

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
        self.finish(delivery, DeliveryState.FAILED, f"given up after a day: {error}")

    def _crashed(self, delivery: Delivery, reason: str) -> None:
        """Our own error: a few more tries, in case it passes; then it is ours to look at, and no longer in the way."""
        if delivery.attempt >= MAX_CRASHES:
            self.finish(delivery, DeliveryState.FAILED, reason)
            return
        with self.store.transaction() as session:
            requests.postpone_delivery(
                session, delivery.id, reason=reason, seconds=SHORTEST_PAUSE * 2**delivery.attempt
            )
