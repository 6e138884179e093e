"""Answers to what people said: in its thread where it was said at lines of a change, else in one comment. Each is
looked up before it is posted, so that a delivery which is tried again answers once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from agent.outcome import Outcome, Patch
from agent.replies import replies
from worker.runs import remarks
from worker.stages import texts
from worker.stages.forge import Forge
from worker.store.models import Run, RunKind
from worker.store.remarks import RemarkRow, RemarkSource
from worker.store.session import Store

#: Outcomes whose change, if there is one, is on the branch.
_DONE = frozenset({Outcome.FIXED, Outcome.PARTIAL, Outcome.ANSWERED})


def answer(store: Store, forge: Forge, run: Run, *, changed: Patch | None, head: str | None) -> None:
    """Answer all that this run was to see to. `changed`: what it changed of the pull request, and `head`: its commit,
    where it was pushed."""
    with store.transaction() as session:
        said = remarks.of(session, run.id)
    if not said:
        return
    words = _words(run, said)
    at_lines = [one for one in said if one.source is RemarkSource.REVIEW_COMMENT]
    for one in at_lines:
        marker = texts.answer_marker(one.id)
        if not any(marker in there.body for there in forge.thread(run.place, one.source_id)):
            forge.reply(run.place, one.source_id, f"{marker}\n\n{words[one.id]}")
    others = [one for one in said if one.source is not RemarkSource.REVIEW_COMMENT]
    if others and forge.find_comment(run.place, texts.answer_marker(run.id)) is None:
        body = texts.answers(run.id, [(one.author, one.body, words[one.id]) for one in others], head=head)
        forge.create_comment(run.place, body)
    if changed is not None and run.outcome is Outcome.FIXED:
        touched = {file.path for file in changed.files}
        shown = [one.source_id for one in at_lines if one.path in touched]
        if shown:
            forge.resolve_threads(run.place, shown)
    with store.transaction() as session:
        remarks.answer(session, words)


def _words(run: Run, said: Sequence[RemarkRow]) -> Mapping[UUID, str]:
    """What is said to each, in the agent's own words, marked as such."""
    summary = run.summary or ""
    if run.outcome not in _DONE:
        why = texts.inline(run.reason or "", 1000)
        nothing = "No answer was found" if run.kind is RunKind.EXPLAIN else "Nothing was changed"
        return {one.id: f"{nothing}: {why}" for one in said}
    if run.kind is RunKind.EXPLAIN or len(said) == 1:
        own = replies(summary, 1).get(1) if run.kind is not RunKind.EXPLAIN else None
        return {one.id: texts.own_words(own or summary) for one in said}
    found = replies(summary, len(said))
    without = "The agent gave no answer of its own to this; see its summary in the pull request."
    return {
        one.id: texts.own_words(found[number]) if number in found else without for number, one in enumerate(said, 1)
    }
