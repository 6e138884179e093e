"""How a model's window is divided, so that an answer always has room, and when a conversation has to begin anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.types import Limits

APPROXIMATE = 0.85  # of a window whose tokens are counted by another vocabulary than the model's own
SHARES = (1.0, 0.5, 0.25, 0.1)  # of the usual room that the parts of an opening are tried at
_LEAST = 64  # bytes of one result that are kept in any case


@dataclass(frozen=True)
class Window:
    """Parts of a window, in tokens but for `results`."""

    tokens: int
    answer: int  #: kept free for each answer
    notes: int  #: for the model's own notes, before its conversation begins anew
    request: int  #: for what asks for them
    opening: int  #: system prompt, tools and task, at most
    recap: int  #: the same with what was done so far
    results: int  #: bytes of all results of one answer

    @classmethod
    def of(cls, limits: Limits, max_tokens: int, *, approximate: bool = False) -> Window:
        """`max_tokens`: of an answer. `approximate`: tokens are counted by another vocabulary than the model's own."""
        whole = limits.context_tokens
        tokens = int(whole * APPROXIMATE) if approximate else whole
        return cls(
            tokens=tokens,
            answer=min(max_tokens, tokens // 5),
            notes=min(1024, tokens // 16),
            request=min(400, tokens // 32),
            opening=tokens * 3 // 8,
            recap=tokens // 2,
            results=tokens // 2,  # an eighth of the window at four bytes a token, a quarter at two
        )

    def full(self, used: int) -> bool:
        """With the next answer there might be no room left for notes."""
        return used > self.tokens - self.answer - self.notes - self.request

    def over(self, used: int) -> bool:
        """There is no room for notes any more."""
        return used > self.tokens - self.notes - self.request


def share_out(sizes: Sequence[int], total: int) -> list[int]:
    """How much of `total` each gets: small ones all they need, the rest the same each."""
    given = [0] * len(sizes)
    left = total
    for place, index in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        given[index] = min(sizes[index], max(_LEAST, left // (len(sizes) - place)))
        left -= given[index]
    return given
