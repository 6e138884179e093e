"""What a trajectory tells of its harness: calls that were malformed, edits that missed, commands that took too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pydantic import Field

from agent.tools.aliases import EDITS
from agent.types import ExitStatus, Frozen, Step


def missed(failed: Mapping[str, int], malformed: Mapping[str, int]) -> int:
    """Edits whose text was not in the file, of counts by tool."""
    return sum(failed.get(tool, 0) - malformed.get(tool, 0) for tool in EDITS)


class Telemetry(Frozen):
    """Counts of one trajectory, by tool where they are of calls. `first_edit`: the step that first changed a file, from
    1; None where none did. `failed` holds all calls that came to nothing, the malformed ones too."""

    steps: int = Field(default=0, ge=0)
    calls: dict[str, int] = Field(default={})
    malformed: dict[str, int] = Field(default={})
    failed: dict[str, int] = Field(default={})
    timed_out: dict[str, int] = Field(default={})
    repaired: int = Field(default=0, ge=0, description="answers that had to be mended to be understood")
    first_edit: int | None = None
    compactions: int = Field(default=0, ge=0, description="new beginnings, since the window was used up")
    stuck: bool = False

    @property
    def missed_edits(self) -> int:
        return missed(self.failed, self.malformed)


def telemetry(steps: Iterable[Step], exit_status: ExitStatus | None = None) -> Telemetry:
    steps = tuple(steps)
    actions = [action for step in steps for action in step.actions]
    return Telemetry(
        steps=len(steps),
        calls=Counter(action.call.name for action in actions),
        malformed=Counter(action.call.name for action in actions if action.malformed),
        failed=Counter(action.call.name for action in actions if not action.ok),
        timed_out=Counter(action.call.name for action in actions if action.timed_out),
        repaired=sum(bool(step.repairs) for step in steps),
        first_edit=next((step.index + 1 for step in steps if step.tree is not None), None),
        compactions=sum(step.compacted is not None for step in steps),
        stuck=exit_status is ExitStatus.STUCK,
    )
