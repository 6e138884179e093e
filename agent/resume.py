"""Going on after recorded steps: the conversation and what the loop remembers are rebuilt, and nothing is executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from agent import prompts
from agent.actions import Turn, recall, understand, unusable
from agent.errors import ended
from agent.memory import Memory
from agent.talk import Talk
from agent.tools import default_tools
from agent.tools.base import Tool, spec
from agent.types import Completion, ExitStatus, Frozen, Limits, Step, Task, Used


class Progress(Frozen):
    """How far a trajectory is. Each step has its answer; `used` also counts what led to no step."""

    steps: tuple[Step, ...] = ()
    used: Used = Used()

    @property
    def tree(self) -> str | None:
        """The workspace's last recorded tree; None while nothing was changed."""
        return next((step.tree for step in reversed(self.steps) if step.tree), None)


def opening(task: Task, limits: Limits) -> str:
    """sha256 of all that a model is told before its first answer. Steps are gone on from only where it is the same."""
    offered = [spec(tool).model_dump(mode="json") for tool in default_tools(limits)]
    told = json.dumps([prompts.system(), offered, prompts.task(task, limits)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def replay(talk: Talk, progress: Progress, tools: Sequence[Tool]) -> Memory:
    """Tell a `talk` that has just begun the recorded turns. Raises the AgentEnd that the last one recorded, but for a
    cancelled one: a run that may go on is not cancelled."""
    memory = Memory()
    anew = max((n for n, step in enumerate(progress.steps) if step.compacted is not None), default=-1)
    for number, step in enumerate(progress.steps):
        assert step.answer is not None, "a step without its answer can't be gone on from"
        memory.steps += 1
        memory.told(step.note)
        memory.acted(step.actions, step.tree)
        if step.finish_reason != "abort":  # an aborted answer is no part of the history
            completion = Completion(
                message=step.answer, usage=step.usage, finish_reason=step.finish_reason, seconds=step.model_seconds
            )
            calls = understand(completion, tools)
            recall(calls, step.actions)
            problem = unusable(completion, calls)
            memory.unusable = memory.unusable + 1 if problem else 0
            if number > anew:
                talk.restore(step.answer, step.generated)
                if messages := Turn(step.actions, step.note).messages():
                    talk.add(messages)
        if step.compacted is not None:
            memory.anew()
            if number == anew:
                talk.restart(step.compacted)
        if step.exit_status is not None and step.exit_status is not ExitStatus.CANCELLED:
            raise ended(step.exit_status, step.exit_reason)
    return memory
