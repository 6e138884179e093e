"""Admission by KV tokens: who may start, whose call is next, and what computed-again tokens change."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from worker.adapters.engine.admission import LOWEST, Capacity, KvAdmission, Seat


def admission(gpu: int = 10_000, *, host: int = 0, expected: int = 1000) -> KvAdmission:
    return KvAdmission(Capacity(gpu=gpu, context=50_000, host=host), expected=expected)


def soon() -> float:
    return time.monotonic() + 20


def waiting(gate: KvAdmission, count: int) -> None:
    until = soon()
    while gate.load().waiting != count:
        assert time.monotonic() < until
        time.sleep(0.005)  # a gate tells its load only when asked


def entered(gate: KvAdmission) -> int:
    count = 0
    while gate.enter():
        count += 1
    return count


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({}, 9),  # 92 % of 10,000, at 1,000 each
        ({"expected": 100_000}, 1),  # one always may
        ({"host": 100_000}, 16),  # 1.65 of the GPU's
        ({"host": 13_000}, 11),  # 90 % of the host's
        ({"host": 2_000}, 9),  # a tier smaller than the GPU's adds nothing
    ],
)
def test_as_many_enter_as_will_fit_at_the_mean(given: dict[str, int], count: int) -> None:
    assert entered(admission(**given)) == count


def test_what_all_contexts_begin_with_is_held_once() -> None:
    gate = admission()
    assert gate.enter()
    gate.seat(shared=500)
    assert entered(gate) == 16  # and itself: (9,200 - 500) / 500


def test_contexts_that_turn_out_shorter_bring_room_and_it_is_told() -> None:
    gate, told = admission(gpu=100_000, expected=30_000), Event()
    gate.when_room(told.set)
    assert entered(gate) == 3
    gate.learn(29_900, again=0, completion=0)
    assert not told.is_set()
    for _ in range(100):
        gate.learn(9_000, again=0, completion=1_000)
    assert told.is_set()
    assert gate.room()


def test_a_trajectory_longer_than_the_mean_counts_as_long_as_it_is() -> None:
    gate = admission()
    assert gate.enter()
    seat = gate.seat()
    with seat.turn(5_000, 10, deadline=soon(), cancel=None):
        pass
    assert entered(gate) == 4  # and itself: 5,000 + 4 x 1,000


def test_who_leaves_makes_room_and_tells() -> None:
    gate, told = admission(expected=9_000), Event()
    gate.when_room(told.set)
    assert gate.enter()
    assert not gate.enter()
    assert not gate.room()
    gate.leave()
    assert told.is_set()
    assert gate.room()


@pytest.mark.parametrize(
    ("patience", "order"),
    [(10.0, ["newer", "older"]), (0.0, ["older", "newer"])],
    ids=["the context that was used last is cached", "nobody waits beyond patience for that"],
)
def test_calls_wait_for_room_on_the_gpu(monkeypatch: pytest.MonkeyPatch, patience: float, order: list[str]) -> None:
    monkeypatch.setattr("worker.adapters.engine.admission.PATIENCE", patience)
    gate = admission()
    first, older, newer = gate.seat(), gate.seat(), gate.seat()
    older.left_at, newer.left_at = 1.0, 2.0
    went: list[str] = []

    def call(name: str, seat: Seat) -> None:
        with seat.turn(5_000, 10, deadline=soon(), cancel=None) as waited:
            went.append(name)
            assert waited is not None

    with ThreadPoolExecutor(2) as pool:
        with first.turn(9_000, 10, deadline=soon(), cancel=None):
            calls = [pool.submit(call, "older", older)]
            waiting(gate, 1)
            calls.append(pool.submit(call, "newer", newer))
            waiting(gate, 2)
        for done in calls:
            done.result(10)
    assert went == order
    assert gate.load().waited == 2


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_call_that_nobody_wants_any_more_stops_waiting(how: str) -> None:
    gate, cancel = admission(), threading.Event()
    first, second = gate.seat(), gate.seat()
    with first.turn(9_000, 10, deadline=soon(), cancel=None):
        if how == "cancel":
            threading.Timer(0.1, cancel.set).start()
        until = soon() if how == "cancel" else time.monotonic() + 0.1
        with second.turn(5_000, 10, deadline=until, cancel=cancel) as waited:
            assert waited is None
    with second.turn(5_000, 10, deadline=soon(), cancel=None) as waited:
        assert waited is not None  # nothing of the one that gave up is held


def test_a_context_larger_than_the_gpu_goes_alone() -> None:
    gate = admission()
    with gate.seat().turn(40_000, 10, deadline=soon(), cancel=None) as waited:
        assert waited is not None


def test_contexts_computed_again_lower_the_limit_and_quiet_raises_it_again() -> None:
    gate = admission()
    before = entered(gate)
    for _ in range(200):
        gate.learn(1000, again=400, completion=0)
    assert gate.pressure == LOWEST
    for _ in range(before):
        gate.leave()
    assert entered(gate) == before // 2
    for _ in range(2000):
        gate.learn(1000, again=0, completion=0)
    assert gate.pressure == 1.0


def test_the_mean_is_learnt() -> None:
    gate = admission(gpu=100_000, expected=30_000)
    assert entered(gate) == 3
    for _ in range(500):
        gate.learn(9_000, again=0, completion=1_000)
    assert entered(gate) == 6  # 92,000 hold nine of 10,000
