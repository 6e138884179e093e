"""Our words to the chat-completions protocol and back: messages, tools, tool-call text, ids, finish reasons, usage."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agent.types import AssistantMessage, Message, ToolMessage, ToolSpec, Usage
from agent.wire import wire_arguments, wire_content
from worker.adapters.models.dialects import cached_tokens

Finish = Literal["stop", "tool_calls", "length", "abort"]

_MARK = "[TOOL_CALLS]"
_NAME = re.compile(r"\s*([A-Za-z0-9_.-]{1,64})\s*(?:\[CALL_ID\]\s*\w*\s*)?\[ARGS\]\s*")


def clean(text: str) -> str:
    """`text` without surrogates, which JSON escapes can hold and UTF-8 can't: pairs joined, single ones replaced."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def request_message(message: Message) -> dict[str, Any]:
    """One message of a request. Fields that only some servers know (a tool message's name) are left out."""
    if isinstance(message, ToolMessage):
        return {"role": "tool", "tool_call_id": message.tool_call_id, "content": clean(message.content)}
    if not isinstance(message, AssistantMessage):
        return {"role": "user", "content": clean(message.content)}
    data: dict[str, Any] = {"role": "assistant", "content": clean(wire_content(message))}
    if message.tool_calls:
        data["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": clean(call.name), "arguments": clean(wire_arguments(call.arguments))},
            }
            for call in message.tool_calls
        ]
    return data


def request_tools(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in tools
    ]


def tool_calls_in_text(text: str) -> tuple[str, list[tuple[str, str]]] | None:
    """The text before the first call, and (name, arguments) of each call a server left unparsed in its text.

    Reads `[TOOL_CALLS]name[ARGS]{json}`, repeated, and the older `[TOOL_CALLS][{"name": …, "arguments": …}]`. None
    when there is no call, or when anything after the first mark is something else: half a call is not a call.
    """
    before, mark, rest = text.partition(_MARK)
    if not mark:
        return None
    decoder = json.JSONDecoder()
    calls: list[tuple[str, str]] = []
    at, end = 0, len(rest.rstrip())
    try:
        while True:
            named = _NAME.match(rest, at)
            start = named.end() if named else at + len(rest[at:]) - len(rest[at:].lstrip())
            value, at = decoder.raw_decode(rest, start)
            calls += [(named[1], rest[start:at])] if named else [_old_call(item) for item in _listed(value)]
            if at >= end:
                return before.strip(), calls
            following = rest[at:].lstrip()
            if not following.startswith(_MARK):
                return None
            at = len(rest) - len(following) + len(_MARK)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError("a tool call without a name")
    return value


def _old_call(item: Any) -> tuple[str, str]:
    arguments = item["arguments"]
    return str(item["name"]), arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def finish_reason(given: str | None, *, calls: bool) -> Finish:
    """Ours for a server's; some end a message of tool calls with `stop`."""
    if given in ("length", "model_length", "max_tokens"):
        return "length"
    if given == "abort":
        return "abort"
    return "tool_calls" if calls else "stop"


def usage_of(body: Mapping[str, Any]) -> Usage | None:
    """The usage in an answer's body; None when it has none that can be used."""
    data = body.get("usage")
    if not isinstance(data, dict):
        return None
    prompt, completion = data.get("prompt_tokens"), data.get("completion_tokens")
    if not isinstance(prompt, int) or prompt <= 0 or not isinstance(completion, int | None):
        return None
    cached = cached_tokens(body)
    known = {"cache_untold": prompt} if cached is None else {"cached": min(cached, prompt)}
    return Usage(prompt=prompt, completion=max(completion or 0, 0), **known)
