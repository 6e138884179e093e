"""KV memory of a simulated engine: blocks on the GPU with a prefix cache, and a tier behind it in the host's memory."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

Name = int
"""Of a block's tokens and everything before them."""


def names(ids: array[int], size: int) -> list[Name]:
    """A name for each whole block of a context."""
    found, name = [], 0
    for start in range(0, len(ids) - size + 1, size):
        name = hash((name, ids[start : start + size].tobytes()))
        found.append(name)
    return found


@dataclass(eq=False)
class Holding:
    """One sequence's blocks: those with a name, which others may share, and those that are not full yet."""

    named: list[Name] = field(default_factory=list)
    loose: int = 0

    @property
    def blocks(self) -> int:
        return len(self.named) + self.loose


class Memory:
    """Blocks that no sequence holds stay cached until their room is needed, those not used for longest first; of a
    sequence, its last ones first. The host's tier gets a copy of every full block, and forgets by the same rule."""

    def __init__(self, *, gpu: int, host: int) -> None:
        """Blocks."""
        self.total = gpu
        self._empty = gpu
        self._host_total = host
        self._users: dict[Name, int] = {}
        self._idle: OrderedDict[Name, None] = OrderedDict()
        self._host: OrderedDict[Name, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks that no sequence holds, cached or not."""
        return self._empty + len(self._idle)

    @property
    def used(self) -> float:
        """Of 1."""
        return 1 - self.free / self.total

    def find(self, wanted: Sequence[Name]) -> tuple[int, int]:
        """How many of these, from the first on, the GPU has; and how many more the host's tier."""
        here = next((i for i, name in enumerate(wanted) if name not in self._users and name not in self._idle), None)
        here = len(wanted) if here is None else here
        behind = here
        while behind < len(wanted) and wanted[behind] in self._host:
            behind += 1
        for name in reversed(wanted[:behind]):
            if name in self._host:
                self._host.move_to_end(name)
        return here, behind - here

    def idle(self, wanted: Sequence[Name]) -> int:
        """How many of these are cached and held by nobody: they count as free until they are claimed."""
        return sum(name in self._idle for name in wanted)

    def claim(self, holding: Holding, wanted: Sequence[Name]) -> None:
        """Blocks that `find` found on the GPU."""
        for name in wanted:
            self._idle.pop(name, None)
            self._users[name] = self._users.get(name, 0) + 1
            holding.named.append(name)

    def allocate(self, holding: Holding, blocks: int) -> bool:
        """False, and nothing happens, where there are not so many."""
        if blocks > self.free:
            return False
        for _ in range(blocks - min(blocks, self._empty)):
            self._idle.popitem(last=False)
        self._empty -= min(blocks, self._empty)
        holding.loose += blocks
        return True

    def fill(self, holding: Holding, filled: Sequence[Name]) -> None:
        """So many of the sequence's loose blocks are full now, and may be shared."""
        for name in filled:
            if self._host_total:
                self._host[name] = None
                self._host.move_to_end(name)
            if name not in self._users and name not in self._idle:  # else it is a second copy
                self._users[name] = 1
                holding.loose -= 1
                holding.named.append(name)
        while len(self._host) > self._host_total:
            self._host.popitem(last=False)

    def release(self, holding: Holding) -> None:
        for name in reversed(holding.named):
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]
                self._idle[name] = None
        self._empty += holding.loose
        holding.named.clear()
        holding.loose = 0
