"""A point of `bench agents`: N trajectories kept in flight, a ramp, and a window in which everything is counted."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

from worker.adapters.engine.conversation import EngineModel
from worker.adapters.engine.port import Engine
from worker.bench.agents_modes import Admission, Pace
from worker.bench.agents_trajectory import Call, Place, Scene
from worker.bench.filler import Filler
from worker.bench.workloads import Workload
from worker.errors import ModelUnavailable
from worker.gates import Load

TICK = 0.25  # seconds between two looks at the engine
RAMP_STEPS = 2
JOIN_SECONDS = 120.0
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, kw_only=True)
class Sample:
    kv_used: float  #: of 1; what running sequences hold, not what the cache keeps of others
    running: int
    waiting: int
    resident: int
    at_gate: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """What was seen. `calls` are those that ended inside it."""

    seconds: float
    ramp_seconds: float
    ramped: bool  #: each trajectory that was resident from the start had done two steps, or ended
    calls: Sequence[Call]
    samples: Sequence[Sample]
    failures: Counter[str]  #: since the start of the ramp
    gate_before: Load
    gate_after: Load


def age(place: int, steps: int) -> int:
    """Steps that the first trajectory of a place has behind it: all ages alike often, however many of the places are
    admitted at once (multiples of the golden ratio, which leave no gaps)."""
    return int(steps * ((0.5 + place * _GOLDEN) % 1.0))


def measure(
    *,
    engine: Engine,
    model: EngineModel,
    filler: Filler,
    workload: Workload,
    seed: int,
    salt: str,
    in_flight: int,
    admission: Admission,
    pace: Pace,
    ramp: float,
    window: float,
    tick: float = TICK,
) -> Window:
    """`ramp`, `window`: seconds; `ramp` at most. Raises ModelUnavailable when the engine dies."""
    numbers, over = itertools.count(), Event()
    scene = Scene(
        workload=workload,
        seed=seed,
        salt=salt,
        engine=engine,
        model=model,
        filler=filler,
        admission=admission,
        pace=pace,
        over=over,
        next_number=numbers.__next__,
    )
    places = [Place(scene, age=age(i, workload.steps)) for i in range(in_flight)]
    threads = [threading.Thread(target=place.run, name=f"place-{i}", daemon=True) for i, place in enumerate(places)]
    samples: list[Sample] = []
    try:
        start = time.monotonic()
        for thread in threads:
            thread.start()
        while not (ramped := _ramped(places, admission)) and time.monotonic() < start + ramp:
            _check(engine, places)
            over.wait(tick)
        begin, before = time.monotonic(), admission.load()
        while (left := begin + window - time.monotonic()) > 0:
            _check(engine, places)
            samples.append(_sample(engine, admission))
            over.wait(min(tick, left))
        end, after = time.monotonic(), admission.load()
    finally:
        over.set()
        admission.close()
        pace.close()
        _join(threads)
    _check(engine, places)
    return Window(
        seconds=end - begin,
        ramp_seconds=begin - start,
        ramped=ramped,
        calls=[call for place in places for call in place.calls if begin <= call.ended < end],
        samples=samples,
        failures=sum((place.failures for place in places), Counter[str]()),
        gate_before=before,
        gate_after=after,
    )


def _ramped(places: Sequence[Place], admission: Admission) -> bool:
    opened = [place for place in places if place.opened]
    decided = len(opened) + admission.load().waiting >= len(places)
    return decided and all(place.steps_done(RAMP_STEPS) for place in opened if place.from_start)


def _sample(engine: Engine, admission: Admission) -> Sample:
    load, gate = engine.load(), admission.load()
    return Sample(
        kv_used=load.kv_used,
        running=load.running,
        waiting=load.waiting,
        resident=gate.holding,
        at_gate=gate.waiting,
    )


def _check(engine: Engine, places: Sequence[Place]) -> None:
    for place in places:
        if place.crash is not None:
            raise place.crash
    if not engine.alive:
        raise ModelUnavailable("the engine died during the measurement")


def _join(threads: Sequence[threading.Thread]) -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
    if left := sum(thread.is_alive() for thread in threads):
        raise ModelUnavailable(f"{left} calls did not end within {JOIN_SECONDS:g} s of the window's end")
