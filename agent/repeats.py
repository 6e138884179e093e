"""Steps that lead nowhere: the same calls with the same results on the same files, or calls that all fail.

Each pattern is named to the model once and remembered; a relapse into a named one ends the trajectory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.types import Action

PERIODS = (1, 2, 3)  # steps that a circle of steps may have
ROUNDS = 3  # of a circle, until it is named
RELAPSES = 2  # rounds of a named circle, until it ends
FAILING = 6  # steps in a row in which every call failed and no file changed

_PASSING = re.compile(r"\d+\.\d+|\d+:\d\d(:\d\d)?|0x[0-9a-fA-F]+")  # times and addresses: new each time, and no news

Signature = bytes


@dataclass(frozen=True)
class Repeat:
    """A pattern of `steps` steps that was seen; `again`: it had been named before. `failing`: calls that all failed."""

    actions: tuple[Action, ...]
    steps: int
    again: bool
    failing: bool = False


@dataclass
class Repeats:
    """Of one trajectory. The same steps give the same answers, so that a takeover remembers what was named."""

    _seen: deque[tuple[Signature, tuple[Action, ...]]] = field(
        default_factory=lambda: deque(maxlen=max(PERIODS) * ROUNDS)
    )
    _named: dict[Signature, list[int]] = field(default_factory=dict)  # to the steps left until its circle ends it
    _tree: str | None = None
    _failed = 0
    _failing_named = False

    def see(self, actions: Sequence[Action], tree: str | None) -> Repeat | None:
        """After a step: the pattern to name, or to end for. `tree`: the new one, where it changed."""
        if not actions:
            return None
        if tree is not None:
            self._tree = tree
        found = self._circle(tuple(actions))
        failing = self._failures(tuple(actions), changed=tree is not None)
        return found or failing

    def anew(self) -> None:
        """The model has forgotten what it saw: looking again is no repetition, but what was named stays named."""
        self._seen.clear()
        for left in self._named.values():
            left[0] = max(left[0], RELAPSES)

    def _circle(self, actions: tuple[Action, ...]) -> Repeat | None:
        signature = self._signature(actions)
        self._seen.append((signature, actions))
        if (left := self._named.get(signature)) is not None:
            left[0] -= 1
            return Repeat(actions, 1, again=True) if left[0] <= 0 else None
        seen = [one for one, _ in self._seen]
        for period in PERIODS:
            circle = seen[-period:]
            if len(seen) >= period * ROUNDS and seen[-period * ROUNDS :] == circle * ROUNDS:
                shared = [RELAPSES * period]
                self._named.update(dict.fromkeys(circle, shared))
                return Repeat(tuple(a for _, done in list(self._seen)[-period:] for a in done), period, again=False)
        return None

    def _failures(self, actions: tuple[Action, ...], *, changed: bool) -> Repeat | None:
        self._failed = 0 if changed or any(action.ok for action in actions) else self._failed + 1
        if self._failed < FAILING:
            return None
        self._failed, again, self._failing_named = 0, self._failing_named, True
        return Repeat(actions, FAILING, again=again, failing=True)

    def _signature(self, actions: Sequence[Action]) -> Signature:
        told = [(a.call.name, _canonical(a.call.arguments), _PASSING.sub("#", a.observation)) for a in actions]
        return hashlib.sha256(json.dumps([self._tree, told]).encode()).digest()


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments, strict=False), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments
