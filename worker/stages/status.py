"""The one status comment of an issue: found by its marker, edited in place, made when it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy.orm import Session

from worker.errors import ForgeRefused
from worker.runs import budget_words, pausing, queue_position
from worker.stages import texts
from worker.stages.ports import Comment, Forge
from worker.store.models import Run


def set_status(forge: Forge, issue_number: int, body: str, *, comment_id: int | None = None) -> Comment:
    """Show `body` in the status comment. A lost answer to an earlier try doubles nothing: the comment is looked up
    before one is made."""
    if comment_id is not None:
        with suppress(ForgeRefused):  # deleted by a person: find another, or make one
            return forge.edit_comment(comment_id, body)
    found = forge.find_comment(issue_number, texts.status_marker(issue_number))
    return forge.edit_comment(found.id, body) if found else forge.create_comment(issue_number, body)


def queued(session: Session, run: Run, details: Sequence[str]) -> str:
    """What the comment says of a run in the queue: what holds it, else its place."""
    paused = [texts.paused(pause) for pause in pausing.pauses(session, repository=run.repository)]
    held = budget_words.held(session, run)
    wait = queue_position.told(session, run) if held is None and not paused else None
    queue = [held] if held is not None else [f"In the queue: {wait}."] if wait is not None else []
    headline = f"queued for {run.profile}, asked for by @{run.requested_by}."
    return texts.status(run.issue_number, run.id, headline, [*paused, *queue, *details])
