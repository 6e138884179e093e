"""What ends runs from outside: an issue that is closed or the like, a person's word, repositories that are gone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from sqlalchemy.orm import Session

from worker import wakes
from worker.errors import ForgeRefused
from worker.runs import requests
from worker.runs.asked import RemovedRequest, StopRequest
from worker.stages.desk import Desk
from worker.stages.entitlement import ended
from worker.store.models import Delivery, DeliveryState, RunState
from worker.store.session import after_commit

log = logging.getLogger(__name__)


def stop(desk: Desk, delivery: Delivery, request: StopRequest) -> None:
    ended(desk.forges.open(request.repository, request.installation_id), request)
    with desk.store.transaction() as session:
        requests.lock_issue(session, request.repository, request.issue_number)
        finish(desk, session, delivery, requests.stop(session, request))


def remove(desk: Desk, delivery: Delivery, request: RemovedRequest) -> None:
    """End what is live in repositories that are gone. One that can be read all the same, under its old name, is none of
    these: events come late, and an App may be installed again by then."""
    with desk.store.transaction() as session:
        named = requests.with_live_runs(session, request.installation_id, request.repositories)
    gone = [repository for repository in named if not _there(desk, repository, request.installation_id)]
    with desk.store.transaction() as session:
        finish(desk, session, delivery, requests.stop_all(session, gone, request))


def _there(desk: Desk, repository: str, installation_id: int | None) -> bool:
    try:
        found = desk.forges.open(repository, installation_id).repository()
    except ForgeRefused:
        return False
    return found.full_name.lower() == repository.lower() and not (found.archived or found.disabled)


def finish(
    desk: Desk,
    session: Session,
    delivery: Delivery,
    stopped: Sequence[tuple[UUID, RunState]],
    *,
    otherwise: str | None = None,
) -> None:
    """The delivery is done with; `otherwise`: what came of it where nothing was under way, if that is something."""
    state = DeliveryState.HANDLED if stopped or otherwise else DeliveryState.IGNORED
    reason = None if stopped else otherwise or "no run is under way"
    run_id = stopped[0][0] if stopped else None
    requests.finish_delivery(session, delivery.id, state, reason=reason, run_id=run_id)
    for wake in (wakes.deliver(one) for one, now in stopped if now is RunState.CANCELLED):
        after_commit(session, partial(desk.send, wake))
    log.info("runs_stopped", extra={"count": len(stopped)})
