"""The change so far of a run that ends where its agent can't tell it: by a crash, a refusal, or used-up tries."""

from __future__ import annotations

import logging
from uuid import UUID

from agent.outcome import Patch
from worker.errors import ServiceError
from worker.stages.ports import Repositories
from worker.store import trajectories
from worker.store.models import Run
from worker.store.session import Store

log = logging.getLogger(__name__)


def change_so_far(store: Store, repositories: Repositories, run_id: UUID) -> Patch | None:
    """The last recorded tree against the base; None where no step left one, or it can't be read here any more."""
    with store.transaction() as session:
        run = session.get_one(Run, run_id)
        steps = [step for step in trajectories.steps(session, run_id) if step.tree is not None]
    last = max(steps, key=lambda step: (step.lease_token, step.index), default=None)
    if last is None or last.tree is None:
        return None
    try:
        git_dir = repositories.run_dir(str(run.id), repositories.mirror(run.repository))
        return repositories.patch(git_dir, run.base_commit, last.tree)
    except ServiceError as error:
        log.warning("change_not_kept", extra={"why": str(error)})
        return None
