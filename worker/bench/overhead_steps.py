"""What a step costs beside the model: many conversations with long histories, through the service's own code (encoder,
admission, turns, the engine's host, reading of answers, accounting), on an engine that costs nothing."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from agent.tokens import TokenCounter
from agent.tools import default_tools
from agent.tools.base import spec
from agent.types import AssistantMessage, Limits, Sampling, ToolCall, ToolMessage, UserMessage
from worker.adapters.engine.admission import Capacity, KvAdmission
from worker.adapters.engine.conversation import EngineModel
from worker.adapters.engine.host import EngineHost
from worker.bench.corpus import Corpus
from worker.bench.instant import InstantBackend, facts, hosted
from worker.observe.metrics import Metrics

SHARED, OWN = 6000, 2000  # tokens that a history begins with, as in W2
GENERATED, OBSERVED = 300, 700  # tokens of a step, about W2's means
TOOL_SECONDS, TOOL_LONGEST = 1.5, 20.0  # between an answer and the next call: mean and most, as in W2
WINDOW = 262_144
CALL_SECONDS = 600.0
_TEXTS = 64  # different answers and observations


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds. `encode` and `call` are CPU time of the calling thread; `wall` is what passed in both without the
    engine's answer and the wait for a turn, and `ready` how long the thread waited for a core from the step's begin to
    its end."""

    encode: float
    call: float
    wall: float
    ready: float


@dataclass(frozen=True, kw_only=True)
class Phase:
    """`cpu`: seconds a step, of all threads of the process, without what pretending to be an engine took."""

    steps: Sequence[Step]
    seconds: float
    cpu: float
    context: float  #: tokens of the prompts, on average


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A model on an instant engine, and texts for it."""

    corpus: Corpus
    observed: Sequence[str]
    backend: InstantBackend
    host: EngineHost
    model: EngineModel


@contextmanager
def desk(counter: TokenCounter, *, kv_tokens: int, admission: KvAdmission | None = None) -> Iterator[Desk]:
    """Raises TokenizerUnusable."""
    corpus = Corpus(counter)
    answers = [corpus.answer(GENERATED, "answer", number) for number in range(_TEXTS)]
    backend = InstantBackend(answers, facts(kv_tokens=kv_tokens, max_model_len=WINDOW))
    host = hosted(backend)
    try:
        model = EngineModel(host, counter, "instant", admission=admission, told=Metrics().generated)
        observed = [corpus.text(OBSERVED, "observed", number) for number in range(_TEXTS)]
        yield Desk(corpus=corpus, observed=observed, backend=backend, host=host, model=model)
    finally:
        host.shutdown()


def _ready() -> float:
    """Seconds that this thread could have run and had no core, as Linux counts them; 0 where it does not."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except OSError:
        return 0.0


class Trajectory:
    """One conversation, with a history as a takeover makes it of recorded steps. Used by one thread at a time."""

    def __init__(self, desk: Desk, number: int, *, context: int) -> None:
        """`context`: tokens of its history. Its first call is made here: the engine knows it from then on."""
        self._desk = desk
        self._random = random.Random(number)  # noqa: S311 - no secret
        corpus = desk.corpus
        specs = tuple(spec(tool) for tool in default_tools(Limits()))
        self.talk = desk.model.open(corpus.text(SHARED, "system"), specs)
        self.talk.add([UserMessage(content=corpus.text(OWN, number))])
        self._calls: tuple[ToolCall, ...] = ()
        made = 0
        while self.talk.tokens < context:
            self._calls = (corpus.call(made, GENERATED, number, made, "call"),)
            self.talk.restore(AssistantMessage(tool_calls=self._calls))
            self._observe(corpus.text(OBSERVED, number, made))
            made += 1
        self._complete()

    def step(self) -> tuple[Step, int]:
        """One step, and the tokens of its prompt."""
        text = self._random.choice(self._desk.observed)
        ready, wall, cpu = _ready(), time.monotonic(), time.thread_time()
        self._observe(text)
        encoded = time.thread_time()
        self._complete()
        called, passed = time.thread_time(), time.monotonic() - wall
        last = self.talk.last
        assert last is not None, "it was answered"
        ours = passed - self.talk.waited - last.first - last.decode
        return Step(encode=encoded - cpu, call=called - encoded, wall=ours, ready=_ready() - ready), last.prompt

    def tool(self, mean: float) -> float:
        """Seconds that its tool runs."""
        return min(TOOL_LONGEST, self._random.expovariate(1 / mean))

    def close(self) -> None:
        self.talk.close()

    def _observe(self, text: str) -> None:
        self.talk.add([ToolMessage(tool_call_id=call.id, name=call.name, content=text) for call in self._calls])

    def _complete(self) -> None:
        answer = self.talk.complete(Sampling(), deadline=time.monotonic() + CALL_SECONDS, cancel=Event())
        self._calls = answer.message.tool_calls
        assert self._calls, "an answer that calls no tool ends a trajectory"


class Fleet:
    """Trajectories in flight, on memory that holds them all, while others wait for room: so admission looks at each
    step whether there is some. Each phase goes on where the one before ended."""

    def __init__(self, desk: Desk, admission: KvAdmission, *, trajectories: int, context: int) -> None:
        self._desk = desk
        while admission.enter():
            pass
        self._all = [Trajectory(desk, number, context=context) for number in range(trajectories)]

    def flat_out(self, steps: int) -> Phase:
        """So many steps of each, all as fast as they can: `seconds` for all steps is what the process can do."""
        self._desk.backend.answer_seconds = 0.0
        return self._phase(lambda done, _: done < steps, lambda _: None)

    def paced(self, seconds: float, *, answer_seconds: float, tool_seconds: float = TOOL_SECONDS) -> Phase:
        """Each answer and each tool takes its time, as on a real engine; no step begins after `seconds`, but for each
        one's first. `tool_seconds`: on average."""
        self._desk.backend.answer_seconds = answer_seconds
        return self._phase(
            lambda done, passed: done == 0 or passed < seconds,
            lambda trajectory: time.sleep(trajectory.tool(tool_seconds)),
        )

    def close(self) -> None:
        for trajectory in self._all:
            trajectory.close()

    def _phase(self, more: Callable[[int, float], bool], pause: Callable[[Trajectory], None]) -> Phase:
        """`more(steps done, seconds passed)`: whether a trajectory goes on. `pause` comes before each step."""
        backend, found, failed = self._desk.backend, list[tuple[Step, int]](), list[BaseException]()

        def run(trajectory: Trajectory) -> None:
            try:
                done = 0
                while more(done, time.monotonic() - started):
                    pause(trajectory)
                    found.append(trajectory.step())
                    done += 1
            except BaseException as error:  # noqa: BLE001 - raised by the one who waits
                failed.append(error)

        threads = [threading.Thread(target=run, args=(one,), daemon=True) for one in self._all]
        pretended, cpu, started = backend.cpu, time.process_time(), time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started
        if failed:
            raise failed[0]
        cpu = time.process_time() - cpu - (backend.cpu - pretended)
        return Phase(
            steps=[step for step, _ in found],
            seconds=seconds,
            cpu=cpu / len(found),
            context=sum(prompt for _, prompt in found) / len(found),
        )


@contextmanager
def fleet(counter: TokenCounter, *, trajectories: int, context: int) -> Iterator[Fleet]:
    room = trajectories * (context + 64 * (GENERATED + OBSERVED))
    admission = KvAdmission(Capacity(gpu=room, context=WINDOW), expected=context)
    with desk(counter, kv_tokens=room, admission=admission) as opened:
        running = Fleet(opened, admission, trajectories=trajectories, context=context)
        try:
            yield running
        finally:
            running.close()
