"""Our own trajectories (`agent.trajectory`, JSON lines) as recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.imports.shape import NotRecorded, arguments
from agent.recording import Act, Call, Harness, Moment, Observed, Recording, Tokens, Totals
from agent.tools.text import WORKSPACE
from agent.trajectory import FORMAT, Trajectory, TrajectoryError, from_values
from agent.types import Step, Usage


def fits(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "header" and value.get("format") == FORMAT


def read_lines(values: Sequence[Any], name: str) -> list[Recording]:
    try:
        return [recording(from_values(values, name))]
    except TrajectoryError as error:
        raise NotRecorded(str(error)) from error


def recording(trajectory: Trajectory) -> Recording:
    """A step of ours is an answer; here each of its actions is a step, and they point to the same call."""
    head, end = trajectory.header, trajectory.end
    steps: list[Moment] = []
    for step in trajectory.steps:
        steps += moments(step, len(steps))
    calls = tuple(
        Call(id=str(line.call), tokens=tokens(line.usage), usd=line.usd, seconds=line.seconds)
        for line in trajectory.spends
    )
    usage = trajectory.usage
    return Recording(
        harness=Harness.OURS,
        version=head.format,
        task=head.prompt,
        system=head.system,
        repository=head.task.repository,
        base_commit=head.task.base_commit,
        root=WORKSPACE,
        model=head.model,
        prompt_hash=head.prompt_hash,
        limits=head.limits,
        steps=tuple(steps),
        calls=calls,
        totals=Totals(
            calls=len(calls),
            tokens=tokens(usage),
            usd=trajectory.usd,
            seconds=end.result.seconds if end else None,
        ),
        exit_status=end.result.exit_status.value if end else None,
        reason=end.result.reason if end else None,
        patch=end.patch.diff if end and end.patch and not end.patch.empty else None,
        notes=() if end else ("it has no end: it is unfinished, or its process died",),
    )


def moments(step: Step, first: int) -> list[Moment]:
    """An answer without a call is one step, too: it submitted, or could not be understood."""
    if not step.actions:
        # A note beside no action is why the answer was not the end; without one it was, unless it was notes.
        act = Act(tool="submit")
        if step.note or step.compacted is not None:
            act = Act(tool="answer", problem=step.note or "notes, since its window was used up")
        return [Moment(index=first, thought=step.thought, act=act, call=step.index)]
    done = []
    for number, action in enumerate(step.actions):
        given, problem = arguments(action.call.arguments)
        done.append(
            Moment(
                index=first + number,
                thought=step.thought if number == 0 else "",
                act=Act(
                    tool=action.call.name,
                    arguments=given,
                    problem=(problem or "it could not be run as it was written") if action.malformed else None,
                ),
                observed=Observed(text=action.observation, refused=action.malformed),
                call=step.index,
            )
        )
    return done


def tokens(usage: Usage) -> Tokens:
    return Tokens(
        prompt=usage.prompt,
        cached=None if usage.cache_untold else usage.cached,
        completion=usage.completion,
    )
