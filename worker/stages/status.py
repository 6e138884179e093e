"""The one status comment of an issue: found by its marker, edited in place, made when it is missing."""

from __future__ import annotations

from contextlib import suppress

from worker.errors import ForgeRefused
from worker.stages import texts
from worker.stages.ports import Comment, Forge


def set_status(forge: Forge, issue_number: int, body: str, *, comment_id: int | None = None) -> Comment:
    """Show `body` in the status comment. A lost answer to an earlier try doubles nothing: the comment is looked up
    before one is made."""
    if comment_id is not None:
        with suppress(ForgeRefused):  # deleted by a person: find another, or make one
            return forge.edit_comment(comment_id, body)
    found = forge.find_comment(issue_number, texts.status_marker(issue_number))
    return forge.edit_comment(found.id, body) if found else forge.create_comment(issue_number, body)
