"""A change that waits for a place among a repository's pull requests: looked at again, and said on its issue."""

from __future__ import annotations

import logging
from uuid import UUID

from worker.errors import Permanent, Transient
from worker.runs import caps, pull_requests, states
from worker.runs.caps import Caps, OverCap
from worker.runs.pull_requests import Fate
from worker.runs.states import Lease
from worker.stages.forge import Forge, Forges
from worker.stages.status import set_status, shown
from worker.store import queries
from worker.store.models import Run, RunState
from worker.store.session import Store

log = logging.getLogger(__name__)

MOST_LOOKED_AT = 50


def look_again(store: Store, forges: Forges, run_id: UUID, limits: Caps) -> None:
    """Of a run that is held: read anew which of our pull requests are open, and let those go that there is a place for
    now. An event that never came costs a wait, not a place for ever."""
    with store.transaction() as session:
        run = queries.run(session, run_id)
    if run is None or run.state is not RunState.CONCLUDED or run.held_reason not in caps.HELD:
        return
    try:
        refresh(store, forges.open(run.repository, run.installation_id), run.repository)
    except (Transient, Permanent) as error:
        log.warning("open_pull_requests_unknown", extra={"why": str(error)})
        return
    with store.transaction() as session:
        caps.release(session, run.repository, limits)


def hold(store: Store, forge: Forge, lease: Lease, run: Run, over: OverCap) -> None:
    """No attempt is counted and no lease kept. What we took for open may have been closed without a word to us: then it
    is tried again at once. LeaseLost."""
    try:
        room = refresh(store, forge, run.repository)
    except (Transient, Permanent) as error:
        log.warning("open_pull_requests_unknown", extra={"why": str(error)})
        room = False
    log.info("delivery_held", extra={"cap": over.cap, "again": room})
    with store.transaction() as session:
        if room:
            states.hand_back_stage(session, lease, reason=over.cap, wait=0.0, counts=False)
        else:
            states.hold_stage(session, lease, held_reason=over.cap)
    if not room:
        _tell(store, forge, run.id)


def refresh(store: Store, forge: Forge, repository: str) -> bool:
    """Whether one that was taken for open is not."""
    with store.transaction() as session:
        known = caps.open_ones(session, repository)[:MOST_LOOKED_AT]
    changed = False
    for row in known:
        now = forge.find_pull_request(row.branch)
        if now is None or now.number != row.number:  # gone, or the branch has another one by now
            fate = Fate(state="closed", draft=row.draft, head=row.head_commit)
        else:
            fate = Fate(state="merged" if now.merged else now.state, draft=now.draft, head=now.head_commit)
        if fate.state != "open":
            changed = True
            with store.transaction() as session:
                pull_requests.became(session, row.id, fate)
    return changed


def _tell(store: Store, forge: Forge, run_id: UUID) -> None:
    with store.transaction() as session:
        run = session.get_one(Run, run_id)
        body = shown(session, run)
    try:
        set_status(forge, run.place, body, comment_id=run.status_comment_id)
    except (Transient, Permanent) as error:
        log.warning("status_comment_failed", extra={"why": str(error)})
