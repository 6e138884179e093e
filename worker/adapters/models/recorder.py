"""Writing scripts: a recorder stands between the agent and any model and notes what was asked and answered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Self

from agent.generated import GeneratedIds
from agent.protocols import Conversation, Model
from agent.tokens import TokenCounter
from agent.types import AssistantMessage, Completion, Input, Sampling, ToolCall, ToolSpec, UserMessage
from agent.wire import tool_call_id
from worker.adapters.models.script import (
    NO_MODEL,
    Expected,
    ExpectedTool,
    ExpectedUser,
    Script,
    ScriptedCall,
    ScriptedReply,
    Turn,
    save_script,
    text_sha256,
    tools_sha256,
)
from worker.adapters.models.scripted import ScriptedModel
from worker.errors import ScriptMismatch


class ScriptRecorder:
    """Wraps a model for one conversation and makes a script of it. Not for several threads."""

    def __init__(self, model: Model, *, label: str | None = None) -> None:
        """`label`: of the script to write; by default it says which model was recorded."""
        self._model = model
        self._label = label or f"recorded from {model.label}; {NO_MODEL}"
        self._source = model.script if isinstance(model, ScriptedModel) else None
        self._hashes: tuple[str, str] | None = None
        self.turns: list[Turn] = []

    @classmethod
    def of_file(cls, path: Path, counter: TokenCounter) -> Self:
        """A recorder that plays the replies of an existing script whatever is asked, to fill in its expectations.

        Raises SettingsError when the file can't be read or is no script.
        """
        model = ScriptedModel.from_file(path, counter, check=False)
        return cls(model, label=model.label)

    @property
    def label(self) -> str:
        return self._model.label

    @property
    def tokenizer(self) -> str:
        return self._model.tokenizer

    @property
    def identity(self) -> str:
        return self._model.identity

    @property
    def alive(self) -> bool:
        return self._model.alive

    @property
    def window(self) -> int | None:
        return self._model.window

    def open(self, system: str, tools: Sequence[ToolSpec]) -> Conversation:
        """Raises ScriptMismatch for a second conversation: a script holds one."""
        if self._hashes is not None:
            raise ScriptMismatch("a script holds one conversation, and a second one was opened while recording")
        conversation = self._model.open(system, tools)
        self._hashes = text_sha256(system), tools_sha256(tools)
        return _RecordedConversation(self, conversation)

    def close(self) -> None:
        """The wrapped model belongs to whoever opened it."""

    def script(self) -> Script:
        """What was recorded. Raises ScriptMismatch when that is nothing, or less than the replies it was given."""
        if self._hashes is None or not self.turns:
            raise ScriptMismatch("nothing was recorded: the model was never asked")
        if self._source is not None and len(self.turns) != len(self._source.turns):
            raise ScriptMismatch(
                f"the agent ended after {len(self.turns)} of {len(self._source.turns)} scripted turns; nothing is saved"
            )
        system_sha256, tools = self._hashes
        return Script(label=self._label, system_sha256=system_sha256, tools_sha256=tools, turns=tuple(self.turns))

    def save(self, path: Path) -> None:
        """Write the script; raises as `script` does, before the file is touched, and OSError."""
        save_script(self.script(), path)

    def note(self, asked: Sequence[Expected], completion: Completion) -> None:
        if self._source is not None:  # keep what a person wrote as it was written
            self.turns.append(self._source.turns[len(self.turns)].model_copy(update={"expect": tuple(asked)}))
            return
        reply = ScriptedReply(
            content=completion.message.content,
            tool_calls=tuple(_scripted(call) for call in completion.message.tool_calls),
        )
        usual = "tool_calls" if reply.tool_calls else "stop"
        reason = completion.finish_reason
        self.turns.append(
            Turn(
                expect=tuple(asked),
                reply=reply,
                usage=completion.usage,
                finish_reason=None if reason in (usual, "abort") else reason,
            )
        )


class _RecordedConversation:
    def __init__(self, recorder: ScriptRecorder, inner: Conversation) -> None:
        self._recorder = recorder
        self._inner = inner
        self._asked: list[Expected] = []
        self._ids: dict[str, str] = {}  # a server's call ids to the ones a script gives

    @property
    def tokens(self) -> int:
        return self._inner.tokens

    def add(self, messages: Sequence[Input]) -> None:
        self._inner.add(messages)
        self._asked += [self._expected(message) for message in messages]

    def restore(self, _answer: AssistantMessage, generated: GeneratedIds | None = None) -> None:  # noqa: ARG002
        """Raises ScriptMismatch: of an answer that was given before, its usage is not known any more."""
        raise ScriptMismatch(
            "a script is recorded from its first turn on, and this conversation goes on from a later one"
        )

    def complete(self, sampling: Sampling, *, deadline: float, cancel: Event) -> Completion:
        completion = self._inner.complete(sampling, deadline=deadline, cancel=cancel)
        if completion.finish_reason != "abort":  # an aborted call is not part of the history
            self._recorder.note(self._asked, completion)
            self._asked = []
            self._number(completion.message)
        return completion

    def close(self) -> None:
        self._inner.close()

    def _expected(self, message: Input) -> Expected:
        if isinstance(message, UserMessage):
            return ExpectedUser(content=message.content)
        known = self._ids.get(message.tool_call_id, message.tool_call_id)
        return ExpectedTool(tool_call_id=known, name=message.name, content=message.content)

    def _number(self, message: AssistantMessage) -> None:
        for call in message.tool_calls:
            self._ids[call.id] = tool_call_id(len(self._ids))


def _scripted(call: ToolCall) -> ScriptedCall:
    """Arguments as an object where that gives the same text again, else the text itself."""
    try:
        value = json.loads(call.arguments)
    except (ValueError, RecursionError):
        value = None
    parsed = ScriptedCall(name=call.name, arguments=value) if isinstance(value, dict) else None
    return (
        parsed if parsed and parsed.text == call.arguments else ScriptedCall(name=call.name, arguments=call.arguments)
    )
