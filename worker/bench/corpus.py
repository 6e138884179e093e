"""Text and answers as an agent's steps have them, cut from this project's own source code."""

from __future__ import annotations

import json
import random
from array import array
from pathlib import Path
from typing import Any

from agent.tokens import TokenCounter
from agent.types import AssistantMessage, ToolCall, UserMessage

_ROOT = Path(__file__).resolve().parents[1] / "adapters"


class Corpus:
    """About as many tokens as asked for: a cut need not be encoded as it was in its place."""

    def __init__(self, counter: TokenCounter) -> None:
        """Raises TokenizerUnusable."""
        self._counter = counter
        self._tekken: Any = counter.load().tokenizer
        text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(_ROOT.rglob("*.py")))
        self._ids = self._tekken.encode(text, False, False)

    def ids(self, tokens: int) -> list[int]:
        """The first of them."""
        return list(self._ids[:tokens])

    def text(self, tokens: int, *key: object) -> str:
        """Another one for another key."""
        start = random.Random(":".join(map(str, key))).randrange(len(self._ids) - tokens)  # noqa: S311 - no secret
        return str(self._tekken.decode(self._ids[start : start + tokens]))

    def call(self, number: int, tokens: int, *key: object) -> ToolCall:
        """Of bash, with a command of that size."""
        arguments = json.dumps({"command": self.text(tokens, *key).replace("\0", "")}, ensure_ascii=False)
        return ToolCall(id=f"call{number:05d}", name="bash", arguments=arguments)

    def answer(self, tokens: int, *key: object) -> array[int]:
        """The token ids of an answer that calls a tool, as a model generates them."""
        history = self._counter.open("", ())
        history.add(UserMessage(content="."))
        start = len(history)
        history.add(AssistantMessage(tool_calls=(self.call(0, tokens, *key),)))
        return history.ids[start:]
