"""`bench agents --simulated`: the plans of `bench agents` through the real admission code, over a simulated engine in
virtual time. Compares rules; measures nothing."""

from __future__ import annotations

import asyncio
import itertools
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.adapters.engine.admission import Capacity, KvAdmission, Seat
from worker.adapters.engine.port import EngineFacts, Request
from worker.adapters.engine.turns import Call as Turn
from worker.bench import virtual_time
from worker.bench.agents_trajectory import Call
from worker.bench.agents_window import RAMP_STEPS, Sample, Window, age
from worker.bench.virtual_engine import SPEED, Speed, VirtualBackend
from worker.bench.workloads import Plan, Workload, plan
from worker.gates import Load

MODES = ("plain", "admitted")
OVERHEAD = 0.004  # seconds a step that our own part took beside the engine
TICK = 0.25
FACTS = EngineFacts(
    engine="simulated",
    architecture="none",
    kv_tokens=641_344,
    block_size=64,
    max_model_len=131_072,
    max_num_seqs=256,
    start_seconds=0.0,
    host_kv_tokens=1_048_576,
)
"""As the engine of call 11 was: one H100, the 24B shape, FP8 KV cache, 80 GiB behind it."""


@dataclass(kw_only=True)
class Simulation:
    """Points on simulated engines of one kind, each point on a new one."""

    workload: Workload
    facts: EngineFacts = FACTS
    speed: Speed = SPEED
    seed: int = 0
    ramp: float = 240.0
    window: float = 600.0
    together: bool = False  #: all begin at their first step, as after a worker's start; else at mixed ages
    expected: int
    make: Callable[..., KvAdmission] = KvAdmission

    def point(self, mode: str, in_flight: int) -> Window:
        """The same for the same arguments."""
        if mode not in MODES:
            raise ValueError(f"{mode!r} is none of {MODES}")
        return virtual_time.run(lambda loop: _Scene(self, mode, in_flight, loop).play())


@dataclass
class _Gate:
    """First come, first served; like `agents_modes.Gated`, for tasks."""

    admission: KvAdmission | None
    clock: Callable[[], float]
    queue: deque[asyncio.Event] = field(default_factory=deque)
    holding: int = 0
    waited: int = 0
    waited_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.admission is not None:
            self.admission.when_room(self._wake)

    async def admit(self) -> float:
        if self.admission is None:
            return 0.0
        if not self.queue and self.admission.enter():
            return 0.0
        began, woken = self.clock(), asyncio.Event()
        self.queue.append(woken)
        while self.queue[0] is not woken or not self.admission.enter():
            woken.clear()
            await woken.wait()
        self.queue.popleft()
        waited = self.clock() - began
        self.waited, self.waited_seconds = self.waited + 1, self.waited_seconds + waited
        self._wake()
        return waited

    def load(self) -> Load:
        return Load(
            holding=self.holding, waiting=len(self.queue), waited=self.waited, waited_seconds=self.waited_seconds
        )

    def _wake(self) -> None:
        if self.queue:
            self.queue[0].set()


class _Scene:
    def __init__(self, given: Simulation, mode: str, in_flight: int, loop: virtual_time.VirtualLoop) -> None:
        self.given, self.loop = given, loop
        self.backend = VirtualBackend(given.facts, given.speed, loop)
        self.admission = None
        if mode == "admitted":
            capacity = Capacity(
                gpu=given.facts.kv_tokens, context=given.facts.max_model_len, host=given.facts.host_kv_tokens
            )
            self.admission = given.make(capacity, expected=given.expected, clock=loop.time)
        self.gate = _Gate(self.admission, loop.time)
        self.calls: list[Call] = []
        self._in_flight = in_flight
        self._numbers, self._names = itertools.count(), itertools.count()
        self._tokens = 0
        self._turns: dict[Turn, asyncio.Event] = {}
        self._ramping: dict[int, int] = {}  # place: calls that its first trajectory has yet to make
        self._opened = 0

    async def play(self) -> Window:
        given, loop = self.given, self.loop
        places = [loop.create_task(self._place(place)) for place in range(self._in_flight)]
        watched = [*places, self.backend.steps]
        await asyncio.sleep(0)
        while not (ramped := self._ramped()) and loop.time() < given.ramp:
            await self._pass(TICK, watched)
        begin, before, samples = loop.time(), self.gate.load(), []
        while loop.time() < begin + given.window - 1e-9:
            samples.append(self._sample())
            await self._pass(min(TICK, begin + given.window - loop.time()), watched)
        for task in watched:
            task.cancel()
        return Window(
            seconds=given.window,
            ramp_seconds=begin,
            ramped=ramped,
            calls=[call for call in self.calls if begin <= call.ended < loop.time()],
            samples=samples,
            failures=Counter(),
            gate_before=before,
            gate_after=self.gate.load(),
        )

    async def _pass(self, seconds: float, watched: list[asyncio.Task[None]]) -> None:
        ended, _ = await asyncio.wait(watched, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()  # they end by an error only

    def _ramped(self) -> bool:
        decided = self._opened + len(self.gate.queue) >= self._in_flight
        return decided and not any(self._ramping.values())

    def _sample(self) -> Sample:
        engine, gate = self.backend.load(), self.gate.load()
        return Sample(
            kv_used=engine.kv_used,
            running=engine.running,
            waiting=engine.waiting,
            resident=gate.holding,
            at_gate=gate.waiting,
        )

    async def _place(self, place: int) -> None:
        workload, first = self.given.workload, True
        while True:
            planned = plan(workload, self.given.seed, next(self._numbers))
            waited = await self.gate.admit()
            mixed = first and not waited and not self.given.together
            begun = age(place, workload.steps) if mixed else 0
            if first:
                self._opened += 1
                if not waited:
                    self._ramping[place] = min(RAMP_STEPS, workload.steps - begun)
            first = False
            self.gate.holding += 1
            seat = None if self.admission is None else self.admission.seat()
            if seat is not None:
                seat.restored = begun > 0
            await self._trajectory(place, planned, begun, seat)
            if seat is not None:
                seat.close()
                self._look()
            self.gate.holding -= 1
            if self.admission is not None:
                self.admission.leave()

    async def _trajectory(self, place: int, planned: Plan, begun: int, seat: Seat | None) -> None:
        ids = array("i", range(-planned.shared, 0)) + self._new(planned.own)
        for step in planned.steps[:begun]:
            ids += self._new(step.generated + step.observed)
        known, block = planned.shared, self.given.facts.block_size
        for index, step in enumerate(planned.steps[begun:], begun):
            if len(ids) + step.generated > self.given.facts.max_model_len:
                return
            await asyncio.sleep(OVERHEAD)
            asked = self.loop.time()
            turn = await self._turn(seat, ids, step.generated)
            began = self.loop.time()
            got = await self.backend.run(str(next(self._names)), Request(ids=ids, max_tokens=step.generated))
            ended = self.loop.time()
            if seat is not None and turn is not None and self.admission is not None:
                self.admission.turns.end(turn)
                self._look()
                cacheable = max(0, known - 1) // block * block if index > begun else 0
                seat.answered(prompt=got.prompt, cached=got.cached, cacheable=cacheable, completion=len(got.ids))
            self.calls.append(
                Call(
                    trajectory=planned.trajectory,
                    step=index,
                    ended=ended,
                    prompt=got.prompt,
                    cached=got.cached,
                    known=known,
                    cacheable=(known - (index > begun)) // block * block,
                    generated=len(got.ids),
                    queued=got.queued,
                    first=got.first,
                    decode=got.decode,
                    engine_seconds=ended - began,
                    turn=began - asked,
                    overhead=OVERHEAD,
                    gpu_seconds=0.0,
                )
            )
            self._ramping[place] = max(0, self._ramping.get(place, 0) - 1)
            known = got.prompt + len(got.ids)
            ids = ids + got.ids + self._new(step.observed)
            await asyncio.sleep(step.tool_seconds)

    def _new(self, tokens: int) -> array[int]:
        """That nobody else has: texts that no cache knows."""
        self._tokens += tokens
        return array("i", range(self._tokens - tokens, self._tokens))

    async def _turn(self, seat: Seat | None, ids: array[int], answer: int) -> Turn | None:
        if seat is None or self.admission is None:
            return None
        turn = self.admission.call(seat, ids, answer)
        self._turns[turn] = woken = asyncio.Event()
        self.admission.turns.ask(turn)
        self._look()
        await woken.wait()
        return turn

    def _look(self) -> None:
        """Whose turn has come?"""
        for turn in [turn for turn in self._turns if turn.woken.is_set()]:
            self._turns.pop(turn).set()
