"""A run of the database as a recording, to look at and to do again."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from agent.imports import ours
from agent.recording import Call, Harness, Moment, Recording, Totals
from agent.tools.text import WORKSPACE
from agent.trajectory import FORMAT
from worker.runs import ledger
from worker.store import queries, trajectories


def recording(session: Session, run_id: UUID) -> Recording | None:
    """The run's present trajectory, of several tries the one that was chosen; None when there is no such run. Its calls
    are those of its steps, its totals the ledger's: they also hold what attempts before have used, and its tokens and
    money those of all tries."""
    run = queries.run(session, run_id)
    if run is None:
        return None
    moments: list[Moment] = []
    calls: list[Call] = []
    untold = 0
    for row in trajectories.steps(session, run_id, sample=run.chosen):
        step = ledger.stored_step(row)
        if step is None:
            untold += 1
            continue
        step = step.model_copy(update={"index": len(calls)})
        moments += ours.moments(step, len(moments))
        calls.append(Call(tokens=ours.tokens(step.usage), usd=step.usd, seconds=step.model_seconds))
    patch = queries.patch(session, run_id)
    usage = ledger.usage(run)
    notes = [f"{untold} steps are from before their answers were recorded"] if untold else []
    if run.exit_status is None:
        notes.append(f"the run is {run.state.value}")
    return Recording(
        harness=Harness.OURS,
        version=FORMAT,
        task=f"{run.issue_title}\n\n{run.issue_body}",
        instance_id=str(run.id),
        repository=run.repository,
        base_commit=run.base_commit,
        root=WORKSPACE,
        model=run.model,
        prompt_hash=run.prompt_hash,
        steps=tuple(moments),
        calls=tuple(calls),
        totals=Totals(
            calls=trajectories.call_count(session, run_id, sample=run.chosen),
            tokens=ours.tokens(usage),
            usd=float(run.usd),
        ),
        exit_status=run.exit_status.value if run.exit_status else None,
        reason=run.reason,
        patch=patch.diff.decode("utf-8", "replace") if patch and patch.diff else None,
        notes=tuple(notes),
    )
