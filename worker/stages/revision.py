"""What a run that goes on from a pull request, or answers a question, means for the agent and for its verdict."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session

from agent.evidence import Verdict
from agent.outcome import Outcome, Patch
from agent.types import ExitStatus, Remark, Revision, Task
from worker.runs import remarks
from worker.stages.ports import Repositories
from worker.store.models import Run, RunKind


def revised(session: Session, repositories: Repositories, git_dir: Path, run: Run, task: Task) -> Task:
    """The task with what was there before, for a run that goes on from it; any other as it is."""
    if run.head_commit is None:
        return task
    said = remarks.of(session, run.id)
    patch = repositories.patch(git_dir, run.base_commit, run.head_commit)
    explains = run.kind is RunKind.EXPLAIN
    listed = (
        ()
        if explains
        else tuple(
            Remark(number=number, author=one.author, body=one.body, path=one.path, line=one.line, hunk=one.hunk)
            for number, one in enumerate(said, 1)
        )
    )
    revision = Revision(
        starts_at=run.head_commit,
        diff=patch.diff,
        files=len(patch.files),
        remarks=listed,
        question="\n\n".join(one.body for one in said) if explains else None,
    )
    return task.model_copy(update={"revision": revision})


def in_words(
    repositories: Repositories, git_dir: Path, run: Run, patch: Patch, exit_status: ExitStatus
) -> Verdict | None:
    """The verdict on a run that was to answer, or that left the pull request as it was; None where its change is to be
    judged. Nothing is executed for words, and they are shown as the agent's own."""
    if run.head_commit is None:
        return None
    explains = run.kind is RunKind.EXPLAIN
    if not explains and not repositories.patch(git_dir, run.head_commit, patch.tree).empty:
        return None
    if exit_status is not ExitStatus.SUBMITTED or not (run.summary or "").strip():
        return Verdict(outcome=Outcome.UNSOLVED, reason=f"no answer was given (the agent ended: {exit_status})")
    what = "answered in words" if explains else "the change was left as it is; the remarks are answered in words"
    return Verdict(outcome=Outcome.ANSWERED, reason=what)
