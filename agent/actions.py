"""From a model's answer to its results: each tool call is understood or refused in words that say how to repair it,
and run."""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from agent import prompts
from agent.errors import AgentEnd, CommandTimedOut, ToolFailure
from agent.protocols import Session
from agent.tools import aliases
from agent.tools.base import Parameters, Recalls, Tool, signature
from agent.tools.text import clean, elide
from agent.types import Action, Completion, Input, Step, ToolCall, ToolMessage, UserMessage
from agent.window import share_out


@dataclass(frozen=True)
class Ready:
    """A call that can be run."""

    call: ToolCall
    tool: Tool
    params: Parameters


@dataclass(frozen=True)
class Refused:
    """A call that can't be run; `problem` is its result."""

    call: ToolCall
    problem: str


@dataclass(frozen=True)
class Turn:
    """What one answer led to: the results of its calls, words beside them, and the end if it is one."""

    actions: tuple[Action, ...] = ()
    note: str = ""
    end: AgentEnd | None = None

    def messages(self) -> list[Input]:
        results: list[Input] = [
            ToolMessage(tool_call_id=action.call.id, name=action.call.name, content=action.observation)
            for action in self.actions
        ]
        return [*results, UserMessage(content=self.note)] if self.note else results

    def noted(self, note: str) -> Turn:
        """The same with this said, too."""
        return replace(self, note="\n\n".join(filter(None, (self.note, note))))

    def ended(self, end: AgentEnd) -> Turn:
        return replace(self, end=end)

    def fitted(self, room: int) -> Turn:
        """The same with results of at most about `room` bytes in all; what is cut keeps its head and its tail."""
        sizes = [len(action.observation.encode(errors="replace")) for action in self.actions]
        if sum(sizes) <= room:
            return self
        kept = tuple(
            action.model_copy(update={"observation": elide(action.observation, given)})
            for action, given in zip(self.actions, share_out(sizes, room), strict=True)
        )
        return replace(self, actions=kept)

    def step(
        self,
        index: int,
        completion: Completion,
        usd: float,
        tree: str | None,
        elapsed: float,
        compacted: str | None = None,
    ) -> Step:
        return Step(
            index=index,
            thought=clean(completion.message.content),
            actions=self.actions,
            usage=completion.usage,
            usd=usd,
            model_seconds=completion.seconds,
            times=completion.times,
            repairs=completion.repairs,
            tree=tree,
            note=self.note,
            answer=completion.message,
            generated=completion.generated,
            finish_reason=completion.finish_reason,
            elapsed=elapsed,
            exit_status=self.end.exit_status if self.end else None,
            exit_reason=clean(self.end.reason) if self.end else "",
            compacted=compacted,
        )


def run(call: Ready, session: Session) -> Action:
    """The call's result. What the tool can't do is a result too; the session's own errors pass through."""
    started = time.monotonic()
    failed = None
    try:
        observation = call.tool.run(session, call.params)
    except ToolFailure as failure:
        failed, observation = failure, _failed(call.call, str(failure))
    return Action(
        call=call.call,
        observation=clean(observation),
        ok=failed is None,
        timed_out=isinstance(failed, CommandTimedOut),
        seconds=time.monotonic() - started,
    )


def refuse(call: ToolCall, problem: str, *, malformed: bool = False) -> Action:
    """The result of a call that is not run."""
    return Action(call=call, observation=clean(_failed(call, problem)), ok=False, malformed=malformed, seconds=0.0)


def recall(calls: Sequence[Ready | Refused], actions: Sequence[Action]) -> None:
    """Restore what recorded calls left in their tools; nothing is executed. Which call had which result is the order
    of both: each call has exactly one."""
    for call, action in zip(calls, actions, strict=False):
        if action.ok and isinstance(call, Ready) and isinstance(call.tool, Recalls):
            call.tool.recall(call.params)


def understand(completion: Completion, tools: Sequence[Tool]) -> list[Ready | Refused]:
    """The answer's calls, in order. In an answer that was cut off, arguments that end too early are named as that."""
    understood: list[Ready | Refused] = []
    for call in completion.message.tool_calls:
        try:
            understood.append(parse(call, tools, cut=completion.finish_reason == "length"))
        except ToolFailure as failure:
            understood.append(Refused(call, str(failure)))
    return understood


def unusable(completion: Completion, calls: Sequence[Ready | Refused]) -> str | None:
    """Why nothing in an answer can be used, in words for the model; None for an answer that can."""
    message = completion.message
    if any(isinstance(call, Ready) for call in calls):
        return None
    if calls:
        return prompts.nudge("calls_refused")
    if message.raw is not None:
        return prompts.nudge("unparsed")
    if completion.finish_reason == "length":
        return prompts.nudge("cut_off")
    if completion.finish_reason == "tool_calls" or not message.content.strip():
        return prompts.nudge("empty")
    return None


def parse(call: ToolCall, tools: Sequence[Tool], *, cut: bool = False) -> Ready:
    """The call with validated parameters. Raises ToolFailure."""
    arguments = _arguments(call, tools, cut=cut)
    found = aliases.meant(call.name, arguments, tools)
    if found is None:
        raise ToolFailure(_unknown(call.name, tools))
    tool, arguments = found
    try:
        return Ready(call, tool, tool.parameters.model_validate(arguments))
    except ValidationError as error:
        raise ToolFailure(f"{_invalid(error, tool)}; expected: {signature(tool)}") from None


def _arguments(call: ToolCall, tools: Sequence[Tool], *, cut: bool) -> dict[str, Any]:
    named = next((tool for tool in tools if tool.name == call.name), None)
    expected = f"; expected: {signature(named)}" if named else ""
    try:
        # strict=False: line breaks inside strings that the model forgot to escape mean what they look like.
        arguments = json.loads(call.arguments.strip() or "{}", strict=False)
    except (ValueError, RecursionError) as error:
        if named is None and not aliases.known(call.name):
            raise ToolFailure(_unknown(call.name, tools)) from None
        if cut:
            raise ToolFailure(prompts.nudge("cut_off")) from None
        raise ToolFailure(f"the arguments are not valid JSON ({_where(error)}){expected}") from None
    if not isinstance(arguments, dict):
        raise ToolFailure(f"the arguments must be one JSON object{expected}")
    for name, value in arguments.items():
        if _SURROGATE.search(f"{name}{value}"):
            raise ToolFailure(f"{clean(name)} holds a lone surrogate (like \\ud800); write the character itself")
    return arguments


def _failed(call: ToolCall, problem: str) -> str:
    return f"<tool_error>{call.name} failed: {problem}</tool_error>"


_SURROGATE = re.compile("[\ud800-\udfff]")  # text with one can't be encoded, so neither written nor stored


def _unknown(name: str, tools: Sequence[Tool]) -> str:
    names = [tool.name for tool in tools]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"there is no such tool.{hint} The tools are: {', '.join(names)}"


def _where(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return (
            f"{error.msg} at character {error.pos} of {len(error.doc)}: ...{error.doc[max(error.pos - 30, 0) :][:60]}"
        )
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _invalid(error: ValidationError, tool: Tool) -> str:
    known = list(tool.parameters.model_fields)
    problems = []
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        name = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "missing":
            problems.append(f"parameter {name} is missing")
        elif detail["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            problems.append(f"there is no parameter {name}" + (f" (did you mean {close[0]}?)" if close else ""))
        else:
            problems.append(f"parameter {name}: {detail['msg']}")
    return "; ".join(problems)
