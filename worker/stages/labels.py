"""State as labels on the issue, beside the trigger label: which one a run in each state has, and how it is shown.

The trigger label stays while a run is live, so that taking it off ends the run, and goes at its end, so that putting it
on again asks for another try. Labels are for people's filters: nothing here depends on them, and a failure is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.outcome import Outcome
from worker.errors import Permanent, Transient
from worker.stages.forge import Forge
from worker.store.models import LIVE, Run, RunState

log = logging.getLogger(__name__)


class Label(StrEnum):
    """What stands behind the trigger label's name: `devstral-fix: queued`."""

    QUEUED = "queued"
    WORKING = "working"
    NEEDS_INFO = "needs-info"
    DONE = "done"
    FAILED = "failed"


_OF_OUTCOME: Mapping[Outcome, Label] = {
    Outcome.QUESTION: Label.NEEDS_INFO,
    Outcome.NOT_REPRODUCIBLE: Label.NEEDS_INFO,
    Outcome.UNSOLVED: Label.FAILED,
    Outcome.REFUSED: Label.FAILED,
    Outcome.SETUP_FAILED: Label.FAILED,
}


def of(run: Run) -> Label | None:
    """None for one that people ended."""
    if run.state is RunState.QUEUED:
        return Label.QUEUED
    if run.state in LIVE:
        return Label.WORKING if run.outcome is None else of_outcome(run.outcome)
    if run.state is RunState.DELIVERED:
        return of_outcome(run.outcome)
    return Label.FAILED if run.state is RunState.FAILED else None


def of_outcome(outcome: Outcome | None) -> Label:
    return Label.DONE if outcome is None else _OF_OUTCOME.get(outcome, Label.DONE)


@dataclass(frozen=True, kw_only=True)
class StateLabels:
    """`prefix`: the trigger label. Switched off, it shows nothing and still takes the trigger label off at the end."""

    prefix: str
    on: bool = True

    def show(
        self,
        forge: Forge,
        issue_number: int,
        label: Label | None,
        *,
        ended: bool = False,
        there: Sequence[str] | None = None,
    ) -> None:
        """Of our labels just this one; at the end without the trigger label, too. `there`: the labels that the issue
        has, where that was asked just now."""
        try:
            self._show(forge, issue_number, label, ended=ended, there=there)
        except (Transient, Permanent) as error:
            log.info("no_state_label", extra={"issue": issue_number, "why": str(error)})

    def _show(
        self, forge: Forge, issue_number: int, label: Label | None, *, ended: bool, there: Sequence[str] | None
    ) -> None:
        if not (self.on or ended):
            return
        wanted = self._name(label) if self.on and label is not None else None
        ours = {self._name(one).casefold() for one in Label} if self.on else set()
        if ended:
            ours.add(self.prefix.strip().casefold())
        there = forge.issue(issue_number).labels if there is None else there
        for name in there:
            if name.strip().casefold() in ours and name != wanted:
                forge.remove_label(issue_number, name)
        if wanted is not None and wanted not in there:
            forge.add_label(issue_number, wanted)

    def _name(self, label: Label) -> str:
        return f"{self.prefix}: {label.value}"
