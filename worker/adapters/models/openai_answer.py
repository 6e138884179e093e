"""One answer as it arrives: deltas of a stream, or a whole body, gathered into text, tool calls and usage."""

from __future__ import annotations

import json
from typing import Any

from agent.types import AssistantMessage, Usage
from agent.wire import CallIds
from worker.adapters.models.openai_wire import clean, tool_calls_in_text, usage_of

CALLS_IN_TEXT = "calls_in_text"
"""The one repair here: calls that a server left in the text, taken from there."""


class BrokenAnswer(Exception):
    """The server sent something that is no chat completion. `status` is the HTTP status it names, where it does."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Answer:
    """What has arrived so far. Filled by one thread; another may read `text` of an answer that was cut off."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: list[dict[str, str]] = []
        self._slots: dict[int, dict[str, str]] = {}  # a stream's index to the call it is filling
        self.finish: str | None = None
        self.usage: Usage | None = None
        self.done = False

    @property
    def text(self) -> str:
        return clean("".join(self._text))

    @property
    def complete(self) -> bool:
        """The server said that this is all: a stream without that was cut off."""
        return self.done or self.finish is not None

    def event(self, line: bytes) -> None:
        """One line of a server-sent event stream. Raises BrokenAnswer."""
        name, _, data = line.partition(b":")
        if name != b"data":
            return
        if data.strip() == b"[DONE]":
            self.done = True
            return
        self.body(data)

    def body(self, body: bytes) -> None:
        """A chunk of a stream, or a whole answer. Raises BrokenAnswer."""
        try:
            data = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BrokenAnswer(f"no JSON in the answer: {error}") from error
        if not isinstance(data, dict):
            raise BrokenAnswer("the answer is no JSON object")
        if failed := data.get("error"):
            code = failed.get("code") if isinstance(failed, dict) else None
            text = failed.get("message") if isinstance(failed, dict) else None
            raise BrokenAnswer(str(text or failed), status=code if isinstance(code, int) else None)
        self.usage = usage_of(data) or self.usage
        for choice in data.get("choices") or ():
            self._choice(choice)

    def message(self, ids: CallIds) -> AssistantMessage:
        """The answer as the agent knows it. Calls left in the text are taken from there, and `raw` says so."""
        text = self.text
        calls = [(call["id"], call["name"], clean(call["arguments"])) for call in self._calls if call["name"]]
        if calls or "[TOOL_CALLS]" not in text:
            return AssistantMessage(content=text, tool_calls=ids.number(calls))
        repaired = tool_calls_in_text(text)
        if repaired is None:
            return AssistantMessage(content=text, raw=text)
        before, found = repaired
        return AssistantMessage(content=before, tool_calls=ids.number(("", *call) for call in found), raw=text)

    def _choice(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            raise BrokenAnswer("a choice is no JSON object")
        part = choice.get("delta") or choice.get("message") or {}
        if not isinstance(part, dict):
            raise BrokenAnswer("a message is no JSON object")
        self._text.append(_text(part.get("content")))
        for position, call in enumerate(part.get("tool_calls") or ()):
            if isinstance(call, dict):
                # A whole message's calls carry no index; neither do some servers' deltas.
                index = call.get("index")
                whole = "delta" not in choice
                self._call(call, position if whole or not isinstance(index, int) else index, new=whole)
        self.finish = choice.get("finish_reason") or self.finish

    def _call(self, delta: dict[str, Any], index: int, *, new: bool) -> None:
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        given, name = str(delta.get("id") or ""), str(function.get("name") or "")
        slot = self._slots.get(index)
        arguments = function.get("arguments")
        # Some servers send several calls under one index, or under one id: what names a tool starts a call of its own
        # where the id is another one, or where the arguments so far are whole and these are more.
        another = given and slot and slot["id"] and given != slot["id"]
        if new or slot is None or (name and (another or (arguments and _is_object(slot["arguments"])))):
            slot = self._slots[index] = {"id": given, "name": name, "arguments": ""}
            self._calls.append(slot)
        slot["id"], slot["name"] = slot["id"] or given, slot["name"] or name
        slot["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _text(content: Any) -> str:
    """Text of a content that is a string, or a list of parts of which only the text ones are the answer."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
