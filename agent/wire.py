"""What Devstral's wire format asks of a history: tool-call ids, arguments and texts that every server takes back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from agent.types import AssistantMessage, ToolCall

_CALL_IDS = 100_000
_SAFE_ID = re.compile(r"[A-Za-z0-9]{9}")


def tool_call_id(n: int) -> str:
    """The id of the n-th tool call of a conversation: 9 alphanumeric characters, as mistral-common asks for.

    Raises ValueError from 100,000 on; a conversation has far fewer calls.
    """
    if not 0 <= n < _CALL_IDS:
        raise ValueError(f"tool call number {n} is outside 0..{_CALL_IDS - 1}")
    return f"call{n:05d}"


def wire_arguments(text: str) -> str:
    """A call's arguments as servers accept them in a history: the text itself where it is a JSON object.

    Servers and chat templates parse the arguments of past calls and refuse the whole request when that fails, so text
    that isn't a JSON object is wrapped in one, readable for the model; no text at all is no arguments.
    """
    if not text.strip():
        return "{}"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # ValueError also for a number of more digits than int() takes
        value = None
    return text if isinstance(value, dict) else json.dumps({"unparsed": text}, ensure_ascii=False)


def wire_content(message: AssistantMessage) -> str:
    """An answer's text as servers accept it in a history: an answer of nothing at all becomes one space.

    mistral-common refuses an assistant message with neither text nor calls; it strips the space again when encoding,
    so the tokens are those of the empty answer.
    """
    return message.content if message.content or message.tool_calls else " "


class CallIds:
    """Ids of one conversation: a server's own where every server would take it back, else ours."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._next = 0

    def known(self, calls: Iterable[ToolCall]) -> None:
        """Calls that were numbered before: new ones get other ids."""
        self._used.update(call.id for call in calls)

    def number(self, calls: Iterable[tuple[str, str, str]]) -> tuple[ToolCall, ...]:
        """(id, name, arguments) of one answer as calls whose ids are valid and new in this conversation."""
        numbered = []
        for given, name, arguments in calls:
            own = given
            while not _SAFE_ID.fullmatch(own) or own in self._used:
                own, self._next = tool_call_id(self._next), self._next + 1
            self._used.add(own)
            numbered.append(ToolCall(id=own, name=name, arguments=arguments))
        return tuple(numbered)
