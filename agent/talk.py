"""A trajectory's exchange with its model: one conversation at a time, begun anew when its window is used up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event

from agent.errors import LimitsExceeded
from agent.generated import GeneratedIds
from agent.protocols import Conversation, Model
from agent.types import AssistantMessage, Completion, Input, Sampling, ToolSpec, UserMessage
from agent.window import SHARES


class Talk:
    """`close()` it. Between two beginnings it only grows."""

    def __init__(self, model: Model, system: str, tools: Sequence[ToolSpec]) -> None:
        self._model = model
        self._system = system
        self._tools = tools
        self._now: Conversation | None = None

    def begin(self, text: Callable[[float], str], most: int) -> str:
        """Begin anew with the first user message `text(share)`, at the largest share of its usual size at which the
        opening takes at most `most` tokens; the message. Raises LimitsExceeded when none does."""
        for share in SHARES:
            self.restart(told := text(share))
            if self.tokens <= most:
                return told
        raise LimitsExceeded(f"context window: an opening of {self.tokens} tokens, cut to the least, of {most}")

    def restart(self, told: str) -> None:
        """Begin anew with this first user message, as it is."""
        self.close()
        self._now = self._model.open(self._system, self._tools)
        self._now.add([UserMessage(content=told)])

    @property
    def _open(self) -> Conversation:
        assert self._now is not None, "it has not begun"
        return self._now

    @property
    def tokens(self) -> int:
        return self._open.tokens

    def add(self, messages: Sequence[Input]) -> None:
        self._open.add(messages)

    def restore(self, answer: AssistantMessage, generated: GeneratedIds | None = None) -> None:
        self._open.restore(answer, generated)

    def complete(self, sampling: Sampling, *, deadline: float, cancel: Event) -> Completion:
        return self._open.complete(sampling, deadline=deadline, cancel=cancel)

    def close(self) -> None:
        if self._now is not None:
            self._now.close()
            self._now = None
