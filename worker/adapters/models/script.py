"""The script file of a `scripted:` model: what it is asked, word for word, and what it answers.

    {"format": "devstral-fix-script-1",
     "label": "scripted by hand; no language model ran",
     "system_sha256": "…",                        or "system": the text itself
     "tools_sha256": "…",                         of the tool specs as canonical JSON
     "turns": [
       {"expect": [{"role": "user", "content": "Fix it."}],
        "reply": {"content": "I look.", "tool_calls": [{"name": "bash", "arguments": {"command": "ls"}}]}},
       {"expect": [{"role": "tool", "tool_call_id": "call00000", "name": "bash", "content": ["a.py", "b.py", ""]}],
        "reply": {"content": "Done."},
        "usage": {"prompt": 10, "cached": 0, "completion": 3}}]}

`expect` lists the messages added since the turn before, all of them and exactly. A text may be a string or a list of
lines, which are joined with newlines and nothing else. `arguments` is an object, or a string for the exact text a
model wrote (malformed, say). Calls get the ids call00000, call00001, … in the order of the script. `usage` is counted
where it is left out. An `expect`, `system_sha256` or `tools_sha256` of null waits for a recording and can't be played.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from agent.types import AssistantMessage, Frozen, Input, ToolCall, ToolMessage, ToolSpec, Usage, UserMessage
from agent.wire import tool_call_id
from worker.errors import SettingsError

NO_MODEL = "no language model ran"
FORMAT: Final = "devstral-fix-script-1"


def _joined(value: Any) -> Any:
    """A list of lines as one text; anything else is left to the field's own check."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value


def _honest(label: str) -> str:
    return label if NO_MODEL in label else f"{label}; {NO_MODEL}"


Text = Annotated[str, BeforeValidator(_joined)]


class ScriptedCall(Frozen):
    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)

    @property
    def text(self) -> str:
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(self.arguments, ensure_ascii=False)


class ScriptedReply(Frozen):
    content: Text = ""
    tool_calls: tuple[ScriptedCall, ...] = ()

    def message(self, first_call: int) -> AssistantMessage:
        """The answer, its calls numbered from `first_call`."""
        calls = tuple(
            ToolCall(id=tool_call_id(first_call + i), name=call.name, arguments=call.text)
            for i, call in enumerate(self.tool_calls)
        )
        return AssistantMessage(content=self.content, tool_calls=calls)


class ExpectedUser(Frozen):
    role: Literal["user"] = "user"
    content: Text

    def message(self) -> UserMessage:
        return UserMessage(content=self.content)


class ExpectedTool(Frozen):
    role: Literal["tool"] = "tool"
    tool_call_id: str
    name: str
    content: Text

    def message(self) -> ToolMessage:
        return ToolMessage(tool_call_id=self.tool_call_id, name=self.name, content=self.content)


Expected = Annotated[ExpectedUser | ExpectedTool, Field(discriminator="role")]


class Turn(Frozen):
    expect: tuple[Expected, ...] | None = None
    reply: ScriptedReply
    usage: Usage | None = None
    finish_reason: Literal["stop", "tool_calls", "length"] | None = None


class Script(Frozen):
    format: Literal["devstral-fix-script-1"] = FORMAT
    label: Annotated[str, AfterValidator(_honest)] = f"scripted by hand; {NO_MODEL}"
    system: Text | None = None
    system_sha256: str | None = None
    tools_sha256: str | None = None
    turns: tuple[Turn, ...] = Field(min_length=1)

    @property
    def unrecorded(self) -> str:
        """What is still null, or an empty string when the script can be played."""
        missing = [] if self.system is not None or self.system_sha256 else ["the system prompt"]
        missing += [] if self.tools_sha256 else ["the tools"]
        missing += [f"turn {i}" for i, turn in enumerate(self.turns, 1) if turn.expect is None]
        return ", ".join(missing)


def load_script(path: Path) -> Script:
    """Read a script; raises SettingsError naming the file and the first things wrong with it."""
    try:
        return Script.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"script {path}: {error.strerror}; example: scripted:demo/script.json") from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:3])
        raise SettingsError(f"script {path}: {found}") from error


def save_script(script: Script, path: Path) -> None:
    """Write a script as people edit it: texts of several lines as lists of lines, defaults left out."""
    data: dict[str, Any] = {
        "format": script.format,
        "label": script.label,
        **script.model_dump(mode="json", exclude_defaults=True),
    }
    data["turns"] = [_turn(turn) for turn in script.turns]
    if script.system is not None:
        data["system"] = _lines(script.system)
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _turn(turn: Turn) -> dict[str, Any]:
    data: dict[str, Any] = turn.model_dump(mode="json", exclude_defaults=True)
    data["expect"] = None if turn.expect is None else [_message(message.message()) for message in turn.expect]
    if turn.reply.content:
        data["reply"]["content"] = _lines(turn.reply.content)
    return {"expect": data.pop("expect"), **data}


def _message(message: Input) -> dict[str, Any]:
    return {**message.model_dump(mode="json"), "content": _lines(message.content)}


def _lines(text: str) -> str | list[str]:
    return text.split("\n") if "\n" in text.rstrip("\n") else text


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def tools_sha256(tools: Sequence[ToolSpec]) -> str:
    """Of the specs in their order, as JSON with sorted keys."""
    return text_sha256(json.dumps([tool.model_dump(mode="json") for tool in tools], sort_keys=True))
