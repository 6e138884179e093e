"""Admission by KV tokens: who may start, whose call is next, and what computed-again tokens change."""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from worker.adapters.engine import turns
from worker.adapters.engine.admission import LOWEST, Capacity, KvAdmission, Seat
from worker.adapters.engine.prefixes import CHUNK, Prefixes, chain


def admission(gpu: int = 10_000, *, host: int = 0, expected: int = 1000) -> KvAdmission:
    return KvAdmission(Capacity(gpu=gpu, context=50_000, host=host), expected=expected)


_numbers = itertools.count()


def context(tokens: int, *, shared: int = 0) -> array[int]:
    """Begins as others do that share so many tokens."""
    own = next(_numbers)
    return array("i", [*range(shared), *(1_000_000 + 1_000 * own + i for i in range(tokens - shared))])


def called(gate: KvAdmission, ids: array[int], *, beside: bool = False) -> Seat:
    """A conversation that has made one call."""
    seat = gate.seat(beside=beside)
    with seat.turn(ids, 10, deadline=soon(), cancel=None) as waited:
        assert waited is not None
    return seat


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


def test_what_several_contexts_begin_with_is_held_once() -> None:
    gate = admission(gpu=20 * CHUNK, expected=2 * CHUNK)
    shared = [context(2 * CHUNK, shared=CHUNK) for _ in range(3)]
    for ids in shared:
        assert gate.enter()
        called(gate, ids)
    assert entered(gate) == 14  # with those three and what they share: 18.4 of a chunk each


def test_each_group_of_contexts_has_its_own_beginning() -> None:
    held = Prefixes()
    whole = context(4 * CHUNK)
    alike, other = whole + context(CHUNK), context(8 * CHUNK)
    for ids in (whole, alike, other, other):
        held.add(chain(ids))
    assert held.common == 4 * CHUNK + 8 * CHUNK
    assert [held.overlap(chain(ids)) for ids in (whole, alike, other)] == [4 * CHUNK, 4 * CHUNK, 8 * CHUNK]
    held.remove(chain(other))
    held.remove(chain(alike))
    assert held.common == 0
    assert held.overlap(chain(whole)) == 0


def test_a_beginning_is_shared_only_where_everything_before_it_is() -> None:
    held = Prefixes()
    same = context(CHUNK)
    held.add(chain(context(CHUNK) + same))
    held.add(chain(context(CHUNK) + same))
    assert held.common == 0


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
    called(gate, context(5_000))
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
    monkeypatch.setattr(turns, "PATIENCE", patience)
    gate = admission()
    first, older, newer = gate.seat(), gate.seat(), gate.seat()
    older.used_at, newer.used_at = 1.0, 2.0
    went: list[str] = []

    def call(name: str, seat: Seat) -> None:
        with seat.turn(context(5_000), 10, deadline=soon(), cancel=None) as waited:
            went.append(name)
            assert waited is not None

    with ThreadPoolExecutor(2) as pool:
        with first.turn(context(9_000), 10, deadline=soon(), cancel=None):
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
    with first.turn(context(9_000), 10, deadline=soon(), cancel=None):
        if how == "cancel":
            threading.Timer(0.1, cancel.set).start()
        until = soon() if how == "cancel" else time.monotonic() + 0.1
        with second.turn(context(5_000), 10, deadline=until, cancel=cancel) as waited:
            assert waited is None
    with second.turn(context(5_000), 10, deadline=soon(), cancel=None) as waited:
        assert waited is not None  # nothing of the one that gave up is held


def test_a_context_larger_than_the_gpu_goes_alone() -> None:
    gate = admission()
    with gate.seat().turn(context(40_000), 10, deadline=soon(), cancel=None) as waited:
        assert waited is not None


def test_single_calls_fill_what_trajectories_leave_and_hold_nobody_up() -> None:
    gate = admission(gpu=100_000)
    seat = gate.seat()
    with seat.turn(context(60_000), 10, deadline=soon(), cancel=None):
        called(gate, context(30_000), beside=True)  # there was room
        with gate.seat().turn(context(30_000), 10, deadline=soon(), cancel=None) as waited:
            assert waited == 0.0  # what they left behind is in no trajectory's way
    assert gate.load().holding == 0


def test_single_calls_have_a_share_of_their_own_however_many_trajectories_wait() -> None:
    gate = admission(gpu=100_000)
    with ThreadPoolExecutor(1) as pool:
        with gate.seat().turn(context(94_000), 10, deadline=soon(), cancel=None):
            large = gate.seat(beside=True).turn(context(5_000), 10, deadline=time.monotonic() + 0.1, cancel=None)
            with large as waited:
                assert waited is None  # larger than their share, and nothing is free
            other = pool.submit(called, gate, context(50_000))
            waiting(gate, 1)
            called(gate, context(1_500), beside=True)
            assert not other.done()
        other.result(10)


def test_what_a_single_call_left_in_the_cache_counts_on_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LINGER", 1.0)
    gate = admission(gpu=100_000)
    with gate.seat().turn(context(94_000), 10, deadline=soon(), cancel=None):
        began = time.monotonic()
        called(gate, context(1_500), beside=True)
        called(gate, context(1_500), beside=True)
        assert 1.0 <= time.monotonic() - began < 10


def test_a_single_call_waits_while_it_would_push_contexts_out() -> None:
    gate = admission(gpu=100_000, expected=30_000)
    assert entered(gate) == 3  # 90,000 of 92,000
    running = called(gate, context(10_000))
    with running.turn(context(10_000), 10, deadline=soon(), cancel=None):
        with gate.seat(beside=True).turn(context(20_000), 10, deadline=time.monotonic() + 0.1, cancel=None) as waited:
            assert waited is None
        gate.leave()
        called(gate, context(20_000), beside=True)


def test_single_calls_teach_nothing_about_trajectories() -> None:
    gate = admission()
    seat = gate.seat(beside=True)
    before = entered(gate)
    for _ in range(200):
        seat.answered(prompt=100, cached=0, cacheable=100, completion=5)
    assert gate.pressure == 1.0
    for _ in range(before):
        gate.leave()
    assert entered(gate) == before


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


def test_a_wave_of_young_trajectories_does_not_let_in_a_larger_one() -> None:
    gate = admission(gpu=100_000, expected=10_000)
    for _ in range(5000):
        gate.learn(9_000, again=0, completion=1_000)
    for _ in range(50):
        gate.learn(2_000, again=0, completion=500)
    assert entered(gate) == 9  # as many as before


def test_the_mean_is_learnt() -> None:
    gate = admission(gpu=100_000, expected=30_000)
    assert entered(gate) == 3
    for _ in range(5000):
        gate.learn(9_000, again=0, completion=1_000)
    assert entered(gate) == 6  # 92,000 hold nine of 10,000
