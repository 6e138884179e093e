"""The one status comment of an issue: what it says of a run in each state, how it is found, edited in place, or made.

What it says follows from the store alone, so that anybody may show it again at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy.orm import Session

from worker import money
from worker.errors import ForgeRefused
from worker.runs import budget_words, caps, pausing, progress, queue_position
from worker.runs.caps import WITH_PULL_REQUEST
from worker.stages import result, texts
from worker.stages.forge import Comment, Forge
from worker.stages.result import Result
from worker.store import queries
from worker.store.models import Run, RunState


def set_status(
    forge: Forge, issue_number: int, body: str, *, comment_id: int | None = None, uncommented: bool = False
) -> Comment:
    """Show `body` in the status comment. A lost answer to an earlier try doubles nothing: the comment is looked up
    before one is made, but where it is known that there is no comment at all (`uncommented`)."""
    if comment_id is not None:
        with suppress(ForgeRefused):  # deleted by a person: find another, or make one
            return forge.edit_comment(comment_id, body)
    found = None if uncommented else forge.find_comment(issue_number, texts.status_marker(issue_number))
    return forge.edit_comment(found.id, body) if found else forge.create_comment(issue_number, body)


def shown(session: Session, run: Run, notes: Sequence[str] = ()) -> str:
    """What the comment says of a run as it is now; `notes` stand at its end."""
    if run.state is RunState.QUEUED:
        return queued(session, run, notes)
    if run.state is RunState.RUNNING:
        return _working(session, run, notes)
    if run.state is RunState.CONCLUDED:
        return _checking(run, notes)
    read = result.of(session, run.id)
    if run.state is not RunState.DELIVERED:
        return ended(read, notes)
    known = queries.pull_request(session, run.repository, run.branch)
    delivered_one = known is not None and known.run_id == run.id and run.outcome in WITH_PULL_REQUEST
    return delivered(read, known.url if known is not None and delivered_one else None, notes)


def queued(session: Session, run: Run, details: Sequence[str]) -> str:
    """What the comment says of a run in the queue: what holds it, else its place."""
    paused = [texts.paused(pause) for pause in pausing.pauses(session, repository=run.repository)]
    held = budget_words.held(session, run)
    wait = queue_position.told(session, run) if held is None and not paused else None
    queue = [held] if held is not None else [f"In the queue: {wait}."] if wait is not None else []
    headline = f"queued for {run.profile}, asked for by @{run.requested_by}."
    return texts.status(run.place, run.id, headline, [*paused, *queue, *details, texts.HOW_TO_STOP])


def _working(session: Session, run: Run, notes: Sequence[str]) -> str:
    since = queue_position.spoken(progress.seconds_at_work(session, run))
    spent = f", {money.usd(run.usd)} so far" if run.usd else ""
    steps = f"step {run.calls}, " if run.calls else ""
    headline = f"working on it ({steps}for {since}{spent}), asked for by @{run.requested_by}."
    return texts.status(run.place, run.id, headline, [*notes, texts.HOW_TO_STOP])


def _checking(run: Run, notes: Sequence[str]) -> str:
    if run.held_reason is not None and run.outcome is not None:
        headline = f"{run.outcome.value}; the change waits."
        return texts.status(run.place, run.id, headline, [caps.words(run.held_reason), *notes, texts.HOW_TO_STOP])
    headline = f"the agent has ended ({run.exit_status or 'without a word'}); what it left is being checked."
    return texts.status(run.place, run.id, headline, [*notes, texts.HOW_TO_STOP])


def delivered(read: Result, pull_request_url: str | None, notes: Sequence[str] = ()) -> str:
    """The final word, with its evidence and what it cost."""
    run = read.run
    assert run.outcome is not None
    told = texts.answer(
        run.outcome,
        run.reason or "",
        branch=run.branch if pull_request_url else None,
        summary=run.summary or "",
        evidence=read.evidence,
    )
    log = [texts.fenced(run.setup_log)] if run.setup_log else []
    headline = texts.headline(run.outcome, pull_request_url)
    return texts.status(run.place, run.id, headline, [*told, *log, *notes, read.footer])


def ended(read: Result, notes: Sequence[str] = ()) -> str:
    """Of a run that failed or was cancelled."""
    run = read.run
    headline = f"{run.state.value}: {texts.inline(run.reason or '')}"
    return texts.status(run.place, run.id, headline, [*notes, read.footer])
