"""What the loop knows of the steps before, the same whether they were made here or are recorded ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent import prompts
from agent.repeats import Repeat, Repeats
from agent.types import Action

RECENT = 8  # actions that are told when a conversation begins anew


@dataclass
class Memory:
    """`remarked`: remarks of the loop that are made once. `unusable`: answers in a row. `recent`: the last actions."""

    steps: int = 0
    unusable: int = 0
    remarked: set[str] = field(default_factory=set)
    repeats: Repeats = field(default_factory=Repeats)
    recent: deque[Action] = field(default_factory=lambda: deque(maxlen=RECENT))

    def first(self, remark: str) -> bool:
        """Whether this remark is made for the first time; from now on it was."""
        new = remark not in self.remarked
        self.remarked.add(remark)
        return new

    def acted(self, actions: Iterable[Action], tree: str | None) -> Repeat | None:
        """After a step's calls, `tree` being the new one where it changed: the pattern that they complete."""
        actions = tuple(actions)
        self.recent.extend(actions)
        return self.repeats.see(actions, tree)

    def anew(self) -> None:
        """The conversation begins anew."""
        self.unusable = 0
        self.repeats.anew()

    def told(self, note: str) -> None:
        """A recorded step's note: which remarks it holds."""
        self.remarked |= {name for name in ONCE if prompts.remarks(note, name)}


ONCE = ("nothing_changed", "review", "wrap_up")
