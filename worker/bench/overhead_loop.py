"""What the agent's loop costs beside the model and the commands: one trajectory with a long history, taken over from
recorded steps, on an engine and a workspace that cost nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Event

from agent.generated import GeneratedIds
from agent.loop import Agent
from agent.outcome import Patch
from agent.protocols import Captured, Conversation, ExecResult, ExecStatus, Session
from agent.resume import Progress
from agent.tokens import TokenCounter
from agent.types import (
    Action,
    AssistantMessage,
    Completion,
    ExitStatus,
    Input,
    Limits,
    Price,
    Sampling,
    Step,
    Task,
    ToolSpec,
    Usage,
)
from worker.adapters.engine.conversation import EngineModel
from worker.bench.overhead_steps import GENERATED, OBSERVED, OWN, SHARED, WINDOW, Desk, desk


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Seconds that passed in one step. `loop`: between two calls, without the workspace's commands and snapshots.
    `call`: in the call, on an engine that answers at once."""

    loop: float
    call: float


@dataclass
class Clock:
    """When calls began and ended, and what commands took in between; `time.monotonic()`."""

    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    commands: list[float] = field(default_factory=list)  #: seconds after each call

    def turns(self) -> list[Turn]:
        """Of the whole ones: the last has no next call."""
        ends = zip(self.began, self.ended, self.began[1:], self.commands, strict=False)
        return [
            Turn(loop=following - ended - commands, call=ended - began) for began, ended, following, commands in ends
        ]


class TimedTalk:
    """A conversation whose calls are timed; see `agent.protocols.Conversation`."""

    def __init__(self, talk: Conversation, clock: Clock) -> None:
        self._talk = talk
        self._clock = clock

    @property
    def tokens(self) -> int:
        return self._talk.tokens

    def add(self, messages: Sequence[Input]) -> None:
        self._talk.add(messages)

    def restore(self, answer: AssistantMessage, generated: GeneratedIds | None = None) -> None:
        self._talk.restore(answer, generated)

    def complete(self, sampling: Sampling, *, deadline: float, cancel: Event) -> Completion:
        self._clock.began.append(time.monotonic())
        completion = self._talk.complete(sampling, deadline=deadline, cancel=cancel)
        self._clock.commands.append(0.0)
        self._clock.ended.append(time.monotonic())
        return completion

    def close(self) -> None:
        self._talk.close()


class TimedModel:
    """See `agent.protocols.Model`."""

    alive = True

    def __init__(self, model: EngineModel, clock: Clock) -> None:
        self._model = model
        self._clock = clock
        self.label, self.tokenizer, self.identity, self.window = (
            model.label,
            model.tokenizer,
            model.identity,
            model.window,
        )

    def open(self, system: str, tools: Sequence[ToolSpec]) -> Conversation:
        return TimedTalk(self._model.open(system, tools), self._clock)


class Still(Session):
    """A workspace whose commands print what they are told to and whose snapshots are another tree each; `cancel` is set
    with the last of `commands` commands."""

    def __init__(self, texts: Sequence[str], clock: Clock, *, commands: int, cancel: Event) -> None:
        self._texts = texts
        self._clock = clock
        self._left = commands
        self._cancel = cancel
        self._trees = 0

    def exec(
        self,
        argv: Sequence[str],  # noqa: ARG002 - the port's
        *,
        cwd: str = ".",  # noqa: ARG002
        env: Mapping[str, str] | None = None,  # noqa: ARG002
        timeout: float,  # noqa: ARG002
        max_output: int = 1 << 20,  # noqa: ARG002
        cancel: Event | None = None,  # noqa: ARG002
    ) -> ExecResult:
        began = time.monotonic()
        text = self.printed()
        out = Captured(text=text, total_bytes=len(text))
        done = ExecResult(status=ExecStatus.EXIT, returncode=0, stdout=out, stderr=Captured(), seconds=0.0)
        self._clock.commands[-1] += time.monotonic() - began
        return done

    def printed(self) -> str:
        self._left -= 1
        if self._left <= 0:
            self._cancel.set()
        return self._texts[self._left % len(self._texts)]

    def snapshot(self) -> str:
        self._trees += 1
        return f"{self._trees:040x}"

    def reset(self, tree: str) -> None:
        """It holds nothing."""

    def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:  # noqa: ARG002
        raise FileNotFoundError(path)

    def write(self, path: str, data: bytes) -> None:
        """It holds nothing."""

    def close(self) -> None:
        """It holds nothing."""


class Unwritten:
    """A journal that keeps nothing."""

    def checkpoint(self) -> None:
        """Nobody takes it over."""

    def reserve(self, call: int, prompt_tokens: int, max_tokens: int) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def spend(self, call: int, usage: Usage, usd: float, seconds: float) -> None:
        """See `step`."""

    def step(self, step: Step) -> None:
        """What a store makes of it is the store's."""


class Unasked:
    """Changes that nobody asks for: there is no review, and the window is never used up."""

    def patch(self, tree: str) -> Patch:
        raise AssertionError(f"the bench asks for no change, and was asked for {tree}")

    def objections(self, patch: Patch) -> Sequence[str]:  # noqa: ARG002
        return ()


def turns(counter: TokenCounter, *, context: int, steps: int) -> list[Turn]:
    """`steps` of one trajectory that is taken over with `context` tokens of history. Raises TokenizerUnusable."""
    clock, cancel = Clock(), Event()
    limits = Limits(steps=10**6, tokens=10**12, context_tokens=WINDOW, usd=10**6)
    with desk(counter, kv_tokens=2 * WINDOW) as opened:
        agent = Agent(
            TimedModel(opened.model, clock),
            Still(opened.observed, clock, commands=steps + 1, cancel=cancel),
            Unwritten(),
            _task(opened),
            limits=limits,
            price=Price(),
            sampling=Sampling(),
            cancel=cancel,
            changes=Unasked(),
            review=False,
            progress=Progress(steps=recorded(opened, context)),
        )
        result = agent.run()
    if result.exit_status is not ExitStatus.CANCELLED or len(found := clock.turns()) < steps:
        raise AssertionError(f"the trajectory ended otherwise: {result.exit_status}, {result.reason}")
    return found


def _task(opened: Desk) -> Task:
    return Task(
        repository="bench/bench",
        issue_number=1,
        title="bench",
        body=opened.corpus.text(OWN, "issue"),
        base_commit="0" * 40,
        instructions=opened.corpus.text(SHARED // 2, "instructions"),
    )


def recorded(opened: Desk, context: int) -> tuple[Step, ...]:
    """Steps that make about so many tokens of history, with the ids that were generated."""
    corpus, made = opened.corpus, []
    for number in range((context - SHARED) // (GENERATED + OBSERVED)):
        call = corpus.call(number, GENERATED, number, "call")
        answer = corpus.answer(GENERATED, number, "call")
        action = Action(call=call, observation=corpus.text(OBSERVED, number), ok=True, seconds=0.0)
        made.append(
            Step(
                index=number,
                thought="",
                actions=(action,),
                usage=Usage(),
                usd=0.0,
                model_seconds=0.0,
                answer=AssistantMessage(tool_calls=(call,)),
                generated=GeneratedIds.of(answer, opened.model.vocabulary),
                finish_reason="tool_calls",
            )
        )
    return tuple(made)
