"""One place in flight: plays planned trajectories, one after the other, and records each model call."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Event

from agent.types import AssistantMessage, Input, Sampling, ToolCall, ToolMessage, UserMessage
from worker.adapters.engine.conversation import EngineConversation, EngineModel
from worker.adapters.engine.port import Engine
from worker.bench.agents_modes import Admission, Over, Pace
from worker.bench.filler import Filler
from worker.bench.workloads import Plan, Workload, plan
from worker.errors import ServiceError

CALL_SECONDS = 900.0  # the longest call
PAUSE = 0.5  # seconds after a failed trajectory, so that a broken engine isn't asked in a tight loop
_SYSTEM, _MESSAGE, _ANSWER = 3, 2, 1  # tokens of the wire format around a system prompt, an input, an answer


@dataclass(frozen=True, kw_only=True)
class Call:
    """One answered model call. Seconds; `ended` is time.monotonic()."""

    trajectory: int
    step: int
    ended: float
    prompt: int  #: tokens
    cached: int
    known: int  #: of `prompt`, computed before: the shared part, or everything up to this conversation's last answer
    cacheable: int  #: of `known`, what a cache of whole blocks can give back
    generated: int
    queued: float
    first: float
    decode: float
    engine_seconds: float
    turn: float  #: waited, before the call, until its context had room
    overhead: float  #: ours: encoding what was added before the call, and the call without the engine's and that wait
    gpu_seconds: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What all places of a point share. `salt` makes its texts its own: no point finds another's in the cache."""

    workload: Workload
    seed: int
    salt: str
    engine: Engine
    model: EngineModel
    filler: Filler
    admission: Admission
    pace: Pace
    over: Event
    next_number: Callable[[], int]


class Place:
    """Run by one thread; others may read its fields."""

    def __init__(self, scene: Scene, *, age: int) -> None:
        """`age`: steps that the first trajectory has behind it, where it may start at once."""
        self._scene = scene
        self._age = age
        self.calls: list[Call] = []
        self.failures: Counter[str] = Counter()
        self.opened = False  # its first trajectory was admitted
        self.from_start = False  # without a wait
        self.crash: BaseException | None = None

    def steps_done(self, count: int) -> bool:
        """Whether its first trajectory has made so many calls, or ended with fewer."""
        return len(self.calls) >= min(count, self._scene.workload.steps - self._age)

    def run(self) -> None:
        try:
            while not self._scene.over.is_set():
                self._one()
        except Over:
            pass
        except BaseException as error:  # noqa: BLE001 - the window raises it in its own thread
            self.crash = error
            self._scene.over.set()

    def _one(self) -> None:
        scene = self._scene
        planned = plan(scene.workload, scene.seed, scene.next_number())
        waited = scene.admission.admit(planned.shared + planned.own)
        age = 0
        if not self.opened:
            self.from_start = waited == 0.0
            self.opened = True
            age = self._age if self.from_start else 0
        try:
            self._play(planned, age)
        except ServiceError as error:
            self._failed(type(error).__name__)
        finally:
            scene.admission.leave()

    def _failed(self, kind: str) -> None:
        self.failures[kind] += 1
        self._scene.over.wait(PAUSE)

    def _text(self, tokens: int, *key: object) -> str:
        return self._scene.filler.text(max(1, tokens), self._scene.seed, self._scene.salt, *key)

    def _play(self, planned: Plan, age: int) -> None:
        scene, number = self._scene, planned.trajectory
        block, window = scene.engine.facts.block_size, scene.engine.facts.max_model_len
        system = self._text(planned.shared - _SYSTEM, "shared")
        message = UserMessage(content=self._text(planned.own - _MESSAGE, number))
        began = time.monotonic()
        with closing(scene.model.open(system, ())) as talk:
            talk.add([message])
            spent = time.monotonic() - began
            self._relive(talk, planned, age)
            known = cacheable = planned.shared
            for index in range(age, len(planned.steps)):
                step = planned.steps[index]
                if talk.tokens + step.generated > window:
                    self._failed("context full")
                    return
                with scene.pace.call():
                    began = time.monotonic()
                    answer = talk.complete(
                        Sampling(max_tokens=step.generated),
                        deadline=began + CALL_SECONDS,
                        cancel=scene.over,
                        exactly=True,
                    )
                    ended = time.monotonic()
                got = talk.last
                if scene.over.is_set():
                    raise Over
                if got is None or answer.finish_reason == "abort":
                    self._failed("call took too long")
                    return
                if len(got.ids) != step.generated:
                    self.failures["another length than planned"] += 1
                self.calls.append(
                    Call(
                        trajectory=number,
                        step=index,
                        ended=ended,
                        prompt=got.prompt,
                        cached=got.cached,
                        known=known,
                        cacheable=cacheable // block * block,
                        generated=len(got.ids),
                        queued=got.queued,
                        first=got.first,
                        decode=got.decode,
                        engine_seconds=got.seconds,
                        turn=talk.waited,
                        overhead=spent + ended - began - got.seconds - talk.waited,
                        gpu_seconds=got.gpu_seconds,
                    )
                )
                known = got.prompt + len(got.ids)
                cacheable = known - 1  # an answer's last token was never an input
                if scene.over.wait(step.tool_seconds):
                    raise Over
                if index + 1 < len(planned.steps):
                    seen = observation(answer.message.tool_calls, step.observed, self._text, (number, index))
                    began = time.monotonic()
                    talk.add(seen)
                    spent = time.monotonic() - began

    def _relive(self, talk: EngineConversation, planned: Plan, age: int) -> None:
        """Put the history of `age` steps into the conversation, as a takeover does: nothing is generated."""
        for index, step in enumerate(planned.steps[:age]):
            key = (planned.trajectory, index)
            talk.restore(AssistantMessage(content=self._text(step.generated - _ANSWER, *key, "answer")))
            talk.add([UserMessage(content=self._text(step.observed - _MESSAGE, *key))])


def observation(
    calls: Sequence[ToolCall], tokens: int, text: Callable[..., str], key: tuple[object, ...]
) -> list[Input]:
    """What follows an answer, `tokens` in all: a result for each call in it, the first one's the long one; to an answer
    without a call, what the service would say."""
    if not calls:
        return [UserMessage(content=text(tokens - _MESSAGE, *key))]
    others = len(calls) - 1
    sizes = [tokens - _MESSAGE - others * (_MESSAGE + 1), *[1] * others]
    return [
        ToolMessage(tool_call_id=call.id, name=call.name, content=text(size, *key, place))
        for place, (call, size) in enumerate(zip(calls, sizes, strict=True))
    ]
