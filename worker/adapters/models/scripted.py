"""The `scripted:` model: replays a script, and refuses when it is asked anything else than the script expects.

No language model runs, and its label says so. What makes it worth trusting is the comparison: the system prompt, the
tools, every user message and every tool result are compared byte for byte before a reply is given, so a changed
prompt, a tool that prints something else or a broken sandbox can't end in a green demo.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Self

from agent.generated import GeneratedIds
from agent.tokens import TokenCounter
from agent.types import AssistantMessage, Completion, Input, Sampling, ToolSpec, Usage
from worker.adapters.models.difference import first_difference
from worker.adapters.models.history import open_history
from worker.adapters.models.script import Script, Turn, load_script, text_sha256, tools_sha256
from worker.errors import ScriptMismatch, SettingsError


class ScriptedModel:
    """A model that plays `script` once per conversation. Safe for threads; a conversation belongs to one thread."""

    def __init__(self, script: Script, counter: TokenCounter, *, name: str = "script", check: bool = True) -> None:
        """`name` is the script's, for messages. `check=False` plays the replies whatever is asked: for recording only.

        Raises SettingsError when the script has parts that still wait for a recording.
        """
        if check and script.unrecorded:
            raise SettingsError(f"script {name} has no expectations for {script.unrecorded}; record it first")
        self.script = script
        self.name = name
        self.check = check
        self._counter = counter
        self._lock = threading.Lock()
        self._opened = self._played = 0

    @classmethod
    def from_file(cls, path: Path, counter: TokenCounter, *, check: bool = True) -> Self:
        """Raises SettingsError when the file can't be read, is no script, or was not recorded."""
        return cls(load_script(path), counter, name=str(path), check=check)

    @property
    def label(self) -> str:
        return self.script.label

    @property
    def tokenizer(self) -> str:
        return self._counter.label

    @property
    def identity(self) -> str:
        return f"scripted:{text_sha256(self.script.model_dump_json())}"

    @property
    def alive(self) -> bool:
        return True

    @property
    def window(self) -> None:
        """A script has none."""

    @property
    def lacking(self) -> tuple[str, ...]:
        return ()

    @property
    def finished(self) -> bool:
        """At least one conversation was opened, and every one that was has played the whole script."""
        with self._lock:
            return 0 < self._opened == self._played

    def require_finished(self) -> None:
        """Raises ScriptMismatch unless `finished`: for the caller that expects the whole script to be played."""
        if not self.finished:
            raise ScriptMismatch(
                f"script {self.name}: {self._played} of {self._opened} conversations played all of its "
                f"{len(self.script.turns)} turns; the agent ended before the script did"
            )

    def open(self, system: str, tools: Sequence[ToolSpec]) -> ScriptedConversation:
        """Raises ScriptMismatch when the system prompt or the tools are not what the script expects."""
        if self.check:
            self._compare_opening(system, tools)
        with self._lock:
            self._opened += 1
        return ScriptedConversation(self, system, tools, self._counter)

    def close(self) -> None:
        """Nothing is held; here because a model is closed by whoever opened it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def played(self) -> None:
        """A conversation has used the last turn."""
        with self._lock:
            self._played += 1

    def _compare_opening(self, system: str, tools: Sequence[ToolSpec]) -> None:
        script = self.script
        if script.system is not None and system != script.system:
            raise self.mismatch("the system prompt", first_difference(script.system, system))
        if script.system_sha256 and text_sha256(system) != script.system_sha256:
            raise self.mismatch("the system prompt", _hashes(script.system_sha256, text_sha256(system)))
        if script.tools_sha256 != tools_sha256(tools):
            raise self.mismatch("the tools", _hashes(script.tools_sha256, tools_sha256(tools)))

    def mismatch(self, where: str, what: str) -> ScriptMismatch:
        return ScriptMismatch(f"script {self.name}: {where} differs from what the script expects; {what}")


class ScriptedConversation:
    def __init__(self, model: ScriptedModel, system: str, tools: Sequence[ToolSpec], counter: TokenCounter) -> None:
        self._model = model
        self._history = open_history(counter, system, tools)
        self._pending: list[Input] = []
        self._turn = self._calls = 0
        self._sent = 0  # the prompt of the call before; an answer follows it, so nothing rewrites it

    @property
    def tokens(self) -> int:
        return len(self._history)

    @property
    def finished(self) -> bool:
        """Every turn of the script has been played."""
        return self._turn == len(self._model.script.turns)

    def add(self, messages: Sequence[Input]) -> None:
        for message in messages:
            self._history.add(message)
            self._pending.append(message)

    def restore(self, answer: AssistantMessage, generated: GeneratedIds | None = None) -> None:  # noqa: ARG002
        """Skip a turn that was played before. What was added, and the answer, are compared as if it were played now."""
        _, reply = self._next()
        if self._model.check and answer != reply:
            what = first_difference(reply.model_dump_json(indent=1), answer.model_dump_json(indent=1))
            raise self._model.mismatch(f"turn {self._turn + 1}, the recorded answer", what)
        self._play(answer)

    def complete(self, _sampling: Sampling, *, deadline: float, cancel: Event) -> Completion:
        """The next scripted reply. Raises ScriptMismatch when anything that was added differs from the script.

        Usage is counted: `cached` is what a prefix cache would hold of the call before. An aborted call plays no turn.
        """
        started = time.monotonic()
        if cancel.is_set() or started >= deadline:
            return Completion(message=AssistantMessage(), usage=Usage(), finish_reason="abort", seconds=0.0)
        turn, reply = self._next()
        usage = Usage(prompt=len(self._history), cached=self._sent, completion=self._history.reply(reply))
        self._play(reply)
        return Completion(
            message=reply,
            usage=turn.usage or usage,
            finish_reason=turn.finish_reason or ("tool_calls" if reply.tool_calls else "stop"),
            seconds=time.monotonic() - started,
        )

    def close(self) -> None:
        """Never raises: whether turns were left is asked with `finished` or `ScriptedModel.require_finished`."""

    def _next(self) -> tuple[Turn, AssistantMessage]:
        """The turn that is due, after what was added was compared with it, and its reply."""
        if self.finished:
            raise self._model.mismatch(
                f"turn {self._turn + 1}", f"the script has {self._turn} turns and the agent asks for one more"
            )
        turn = self._model.script.turns[self._turn]
        if self._model.check:
            self._compare(turn)
        return turn, turn.reply.message(self._calls)

    def _play(self, reply: AssistantMessage) -> None:
        self._sent = len(self._history)
        self._history.add(reply)
        self._pending.clear()
        self._calls += len(reply.tool_calls)
        self._turn += 1
        if self.finished:
            self._model.played()

    def _compare(self, turn: Turn) -> None:
        expected = [message.message() for message in turn.expect or ()]
        where = f"turn {self._turn + 1}"
        for i, (want, got) in enumerate(zip(expected, self._pending, strict=False), 1):
            if want == got:
                continue
            place = f"{where}, message {i}"
            if _head(want) != _head(got):
                raise self._model.mismatch(place, f"expected {_head(want)}, got {_head(got)}")
            raise self._model.mismatch(f"{place} ({_head(want)})", first_difference(want.content, got.content))
        if len(expected) != len(self._pending):
            extra = (expected if len(expected) > len(self._pending) else self._pending)[
                min(len(expected), len(self._pending))
            ]
            raise self._model.mismatch(
                where,
                f"expected {len(expected)} messages, got {len(self._pending)}; the first one too "
                f"{'few' if len(expected) > len(self._pending) else 'many'} is {_head(extra)}",
            )


def _head(message: Input) -> str:
    """A message without its text."""
    return message.role if message.role == "user" else f"tool {message.name!r} for {message.tool_call_id!r}"


def _hashes(expected: str | None, actual: str) -> str:
    return f"sha256 {expected} was recorded, it is {actual} now; record the script again if the change is meant"
