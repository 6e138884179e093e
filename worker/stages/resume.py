"""Where a claimed run's trajectory begins: after its recorded steps, or anew when they can't be used.

Nothing of it is executed here; what the workspace has to be made of is looked up before anything depends on it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from agent.resume import Progress
from agent.types import Step, Used
from worker.errors import LeaseLost
from worker.runs import attempts, ledger, states, tries
from worker.runs.states import Lease
from worker.stages.ports import Repositories
from worker.store import trajectories
from worker.store import tries as rows_of_tries
from worker.store.session import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """One try of a claimed run, about to be worked on by the model called `identity`. `number`: among its profile's."""

    store: Store
    repositories: Repositories
    lease: Lease
    git_dir: Path
    base_commit: str
    identity: str
    profile: str = ""
    sample: int = 0
    number: int = 0
    temperature: float = 0.0

    def __call__(self, opening: str) -> Progress:
        """How far the run is, for a trajectory with this `opening`; the run's history says what was decided.

        Tokens and money count from the try's first call, whatever becomes of its steps: they are its budget. Calls and
        time are the trajectory's. LeaseLost when the run is in other hands.
        """
        run_id, sample = self.lease.run_id, self.sample
        with self.store.transaction() as session:
            rows = trajectories.steps(session, run_id, sample=sample)
            calls = trajectories.call_count(session, run_id, sample=sample)
            before = trajectories.recorded_with(session, run_id, sample=sample)
            cost = rows_of_tries.costs(session, run_id).get(sample)
        spent = Used() if cost is None else Used(usage=cost.usage, usd=float(cost.usd))
        steps = [step for step in map(ledger.stored_step, rows) if step is not None]
        why = self._unusable(steps, len(rows), before, opening) if rows else None
        if steps and why is None:
            progress = Progress(
                steps=tuple(steps), used=spent.model_copy(update={"calls": calls, "seconds": steps[-1].elapsed})
            )
            note = f"goes on after step {len(steps)}"
            log.info("run_resumed", extra={"steps": len(steps)})
        else:
            progress, note = Progress(used=spent), None
            if why is not None:
                note = f"began anew: {why}"
                log.warning("run_restarted", extra={"steps": len(rows), "why": why})
        self._written(opening, len(progress.steps), note, failed=why is not None)
        return progress

    def _written(self, opening: str, first_step: int, note: str | None, *, failed: bool) -> None:
        run_id, token = self.lease.run_id, self.lease.token
        told = f"try {self.number + 1}: {note or 'begins'}" if self.number else note
        with self.store.transaction() as session:
            states.write(session, self.lease, reason=told if failed else None)
            if self.sample:
                known = attempts.noted(session, run_id, token, told)
            else:
                known = attempts.goes_on(
                    session, run_id, token, first_step=first_step, model=self.identity, opening=opening, note=told
                )
            if not known:
                raise LeaseLost(f"run {run_id}: the attempt with token {token} has ended")
            tries.begin(
                session,
                self.lease,
                self.sample,
                profile=self.profile,
                temperature=self.temperature,
                model=self.identity,
                opening=opening,
                anew=first_step == 0,
            )

    def _unusable(self, steps: list[Step], recorded: int, before: tuple[str, str] | None, opening: str) -> str | None:
        """Why the recorded steps can't be gone on from; None when they can."""
        if before is None or [step.index for step in steps] != list(range(recorded)):
            return "the steps before were not recorded as a whole"
        model, told = before
        if model != self.identity:
            return f"the steps before were made by another model ({model})"
        if told != opening:
            return "the model is told something else now (prompts, tools or limits have changed)"
        tree = Progress(steps=tuple(steps)).tree
        if tree is not None and not self.repositories.holds(self.git_dir, tree, self.base_commit):
            return "the workspace of the steps before is not on this machine"
        return None
