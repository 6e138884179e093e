"""Asking the questions of a model, one after the other, and what people and programs are told of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from threading import Event
from typing import Any

from agent.errors import LimitsExceeded
from agent.protocols import CallsForced, Conversation, Model
from agent.types import AssistantMessage, Completion, Sampling, ToolMessage, Usage, UserMessage
from worker.errors import ModelRejected, ScriptMismatch
from worker.sanity.checks import tool_call
from worker.sanity.questions import FILLED, LIMIT, QUESTIONS, SYSTEM, Question, haystack

CALL_SECONDS = 300.0  # half a window is read for the long one, on a CPU, too
SHOWN = 160  # characters of an output


class Verdict(StrEnum):
    PASSED = "pass"
    FAILED = "fail"
    NOT_AVAILABLE = "n/a"


@dataclass(frozen=True, kw_only=True)
class Result:
    """`output`: the model's last answer, whole, its calls as `name(arguments)`. Seconds and tokens are those of
    all its calls."""

    name: str
    verdict: Verdict
    why: str = ""
    output: str = ""
    seconds: float = 0.0
    prompt: int = 0
    completion: int = 0


class _Wrong(Exception):
    """An answer that ends a question early; the text says what is wrong with it."""


class _Exchange:
    """One conversation about one question, and what it has used so far."""

    def __init__(self, conversation: Conversation, question: Question) -> None:
        self.conversation = conversation
        self.question = question
        self.output = ""
        self.usage = Usage()
        self.seconds = 0.0

    def say(self, text: str) -> AssistantMessage:
        self.conversation.add([UserMessage(content=text)])
        return self.answer()

    def answer(self) -> AssistantMessage:
        """Raises _Wrong where it did not end by itself."""
        question = self.question
        generate = self.conversation.complete
        if question.tool is not None and question.tool.forced:
            assert isinstance(self.conversation, CallsForced)
            generate = self.conversation.complete_call
        sampling = Sampling(temperature=0.0, max_tokens=LIMIT)
        done: Completion = generate(sampling, deadline=time.monotonic() + CALL_SECONDS, cancel=Event())
        self.usage += done.usage
        self.seconds += done.seconds
        self.output = shown(done.message)
        if done.finish_reason == "abort":
            raise _Wrong(f"no whole answer within {CALL_SECONDS:g} s")
        if done.finish_reason == "length":
            raise _Wrong(f"the answer did not end within {LIMIT} tokens")
        if done.usage.completion > question.most:
            raise _Wrong(f"the answer took {done.usage.completion} tokens, expected at most {question.most}")
        return done.message


def ask(model: Model, question: Question, *, window: int) -> Result:
    """`window`: tokens of the model's context. A request that is refused is that question's failure; raises
    ModelUnavailable."""
    tool = question.tool
    exchange: _Exchange | None = None
    try:
        with closing(model.open(SYSTEM, () if tool is None else (tool.spec,))) as conversation:
            if tool is not None and tool.forced and not isinstance(conversation, CallsForced):
                why = "not available with this server"
                return Result(name=question.name, verdict=Verdict.NOT_AVAILABLE, why=why)
            exchange = _Exchange(conversation, question)
            why = _judge(exchange, model, window)
    except (_Wrong, LimitsExceeded, ModelRejected, ScriptMismatch) as error:
        why = str(error)
    verdict = Verdict.FAILED if why else Verdict.PASSED
    if exchange is None:
        return Result(name=question.name, verdict=verdict, why=why)
    return Result(
        name=question.name,
        verdict=verdict,
        why=why,
        output=exchange.output,
        seconds=round(exchange.seconds, 3),
        prompt=exchange.usage.prompt,
        completion=exchange.usage.completion,
    )


def _judge(exchange: _Exchange, model: Model, window: int) -> str:
    """What is wrong with the last answer; empty where nothing is."""
    question, tool = exchange.question, exchange.question.tool
    *before, last = question.turns
    for turn in before:
        _plain(exchange.say(turn))
    if question.hidden:
        filler = haystack(question.hidden, int(FILLED * window), lambda text: _tokens(model, text))
        last = f"{filler}\n\n{last}"
    message = exchange.say(last)
    if tool is not None:
        why = tool_call(message, tool.spec.name, tool.arguments)
        if why or not tool.result:
            return why
        (call,) = message.tool_calls
        exchange.conversation.add([ToolMessage(tool_call_id=call.id, name=call.name, content=tool.result)])
        message = exchange.answer()
    _plain(message)
    return "" if question.check is None else question.check(message.content)


def _plain(message: AssistantMessage) -> None:
    """Raises _Wrong for a call where words are due."""
    if message.tool_calls:
        raise _Wrong("expected words, not a tool call")


def _tokens(model: Model, text: str) -> int:
    """Of `text` in a message, as this model counts."""
    with closing(model.open("", ())) as conversation:
        empty = conversation.tokens
        conversation.add([UserMessage(content=text)])
        return conversation.tokens - empty


def shown(message: AssistantMessage) -> str:
    calls = (f"{call.name}({call.arguments})" for call in message.tool_calls)
    return " ".join(filter(None, (message.content, *calls)))


def examine(model: Model, *, window: int, told: Callable[[Result], None] = lambda _: None) -> list[Result]:
    """All questions, in order; `told` hears each as it was judged. Raises ModelUnavailable."""
    results = []
    for question in QUESTIONS:
        results.append(ask(model, question, window=window))
        told(results[-1])
    return results


def sane(results: Sequence[Result]) -> bool:
    return all(result.verdict is not Verdict.FAILED for result in results)


def lines(result: Result) -> Iterator[str]:
    """For people; control characters are the printer's business."""
    spent = f"{result.seconds:.1f} s, {result.prompt} + {result.completion} tokens"
    if result.verdict is Verdict.NOT_AVAILABLE:
        yield f"{result.verdict.value:8}{result.name}: {result.why}"
        return
    output = _short(result.output) if result.prompt else "no answer"
    yield f"{result.verdict.value:8}{result.name} ({spent}): {output}"
    if result.why:
        yield f"        {result.why}"


def summary(results: Sequence[Result]) -> str:
    passed, absent = (sum(r.verdict is v for r in results) for v in (Verdict.PASSED, Verdict.NOT_AVAILABLE))
    said = f"{passed} of {len(results) - absent} pass"
    return f"{said}; {absent} not available with this server" if absent else said


def record(model: Model, results: Sequence[Result]) -> dict[str, Any]:
    """For programs."""
    return {"model": model.label, "sane": sane(results), "questions": [asdict(result) for result in results]}


def _short(text: str) -> str:
    if not text:
        return "(empty)"
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]} […{len(text) - 2 * half} characters…] {text[-half:]}"
