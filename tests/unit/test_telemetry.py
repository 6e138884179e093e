"""What a trajectory tells of its harness."""

from __future__ import annotations

from agent.telemetry import telemetry
from agent.types import Action, ExitStatus, Step, ToolCall, Usage


def acted(tool: str, **kind: bool) -> Action:
    values = {"ok": not kind, **kind}
    return Action(call=ToolCall(id="call00000", name=tool, arguments="{}"), observation="", seconds=0, **values)


def step(index: int, *actions: Action, **more: object) -> Step:
    values = {"thought": "", "usage": Usage(), "usd": 0, "model_seconds": 0, **more}
    return Step.model_validate({"index": index, "actions": actions, **values})


def test_counts_are_by_tool_and_misses_are_no_malformed_calls():
    told = telemetry(
        [
            step(0, acted("bash", timed_out=True), acted("grep")),
            step(1, acted("search_replace", ok=False), acted("search_replace", ok=False, malformed=True)),
            step(2, acted("search_replace"), tree="1" * 40, repairs=("old_list",)),
            step(3, compacted="again"),
            step(4, acted("bash"), tree="2" * 40),
        ],
        ExitStatus.STUCK,
    )
    assert told.calls == {"bash": 2, "grep": 1, "search_replace": 3}
    assert told.failed == {"bash": 1, "search_replace": 2}
    assert (told.malformed, told.timed_out) == ({"search_replace": 1}, {"bash": 1})
    assert (told.missed_edits, told.first_edit, told.compactions, told.repaired) == (1, 3, 1, 1)
    assert told.stuck


def test_one_without_steps_tells_nothing():
    assert telemetry([]).first_edit is None
