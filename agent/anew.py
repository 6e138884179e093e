"""When a window is used up: the conversation begins anew with what the next steps need, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agent import prompts
from agent.memory import Memory
from agent.prompts import later
from agent.protocols import Changes
from agent.talk import Talk
from agent.tools.base import Tool
from agent.types import Limits, Task
from agent.window import Window
from agent.workspace import Workspace


@runtime_checkable
class Planning(Protocol):
    """A tool that holds the model's plan."""

    def plan(self) -> str:
        """As short text; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class Anew:
    """What survives: the task, the model's own notes, its plan, the change so far, the last calls and what the last
    one gave. All but the notes is looked up here, so that it is there also when no answer can be had any more."""

    task: Task
    limits: Limits
    window: Window
    workspace: Workspace
    changes: Changes
    tools: Sequence[Tool]

    def begin(self, talk: Talk, memory: Memory, notes: str = "") -> str:
        """The message that the conversation now begins with. Raises LimitsExceeded where not even the least fits."""
        memory.anew()
        tree = None if self.workspace.unchanged else self.workspace.tree
        patch = self.changes.patch(tree) if tree else None
        plan = next((tool.plan() for tool in self.tools if isinstance(tool, Planning)), "")

        def told(share: float) -> str:
            task = prompts.task(self.task, self.limits, share / 2, files=False)
            room = int(self.window.results * share)
            recent = list(memory.recent)
            return f"{task}\n\n{later.recap(notes=notes, plan=plan, patch=patch, recent=recent, room=room)}"

        return talk.begin(told, self.window.recap)
