"""Admission by KV tokens: who may start, whose call is next, and what computed-again tokens change."""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections.abc import Sequence
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
        ({"host": 100_000}, 12),  # 1.25 of the GPU's
        ({"host": 13_000}, 10),  # 80 % of the host's
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


def lived(gate: KvAdmission, contexts: Sequence[int], *, restored: bool = False) -> None:
    """A trajectory that made a call at each of these contexts, and ended."""
    seat = gate.seat()
    seat.restored = restored
    for tokens in contexts:
        seat.answered(prompt=tokens - 100, cached=0, cacheable=0, completion=100)
    seat.close()


def test_contexts_that_turn_out_shorter_bring_room_and_it_is_told() -> None:
    gate, told = admission(gpu=100_000, expected=30_000), Event()
    gate.when_room(told.set)
    assert entered(gate) == 3
    lived(gate, [29_900])
    assert not told.is_set()
    for _ in range(100):
        lived(gate, [10_000])
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


def order_of(sizes: Sequence[int]) -> list[int]:
    """The order in which calls of so many tokens had their turns that came while a GPU of 10,000 was full."""
    gate, went = admission(host=1_000_000), []

    def call(tokens: int) -> None:
        with gate.seat().turn(context(tokens), 10, deadline=soon(), cancel=None) as waited:
            assert waited is not None
            went.append(tokens)

    first, second = gate.seat(), gate.seat()
    with ThreadPoolExecutor(len(sizes)) as pool:
        calls = []
        with (
            first.turn(context(6_000), 10, deadline=soon(), cancel=None),
            second.turn(context(3_700), 10, deadline=soon(), cancel=None),
        ):
            for place, tokens in enumerate(sizes):
                calls.append(pool.submit(call, tokens))
                waiting(gate, place + 1)
        for done in calls:
            done.result(10)
    assert gate.load().waited == len(sizes)
    return went


def test_calls_go_in_the_order_in_which_they_came() -> None:
    assert order_of([6_100, 6_200, 6_300]) == [6_100, 6_200, 6_300]


def test_while_the_first_does_not_fit_those_that_do_fill_the_gpu() -> None:
    assert order_of([9_000, 3_100]) == [3_100, 9_000]


def test_a_long_one_is_not_overtaken_beyond_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", -1.0)
    assert order_of([9_000, 3_100]) == [9_000, 3_100]


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_call_that_nobody_wants_any_more_stops_waiting(how: str) -> None:
    gate, cancel = admission(host=100_000), threading.Event()
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
    gate = admission(gpu=100_000, host=1_000_000)
    first, second = gate.seat(), gate.seat()
    with ThreadPoolExecutor(1) as pool, first.turn(context(48_900), 10, deadline=soon(), cancel=None):
        with second.turn(context(48_900), 10, deadline=soon(), cancel=None):
            large = gate.seat(beside=True).turn(context(5_000), 10, deadline=time.monotonic() + 0.1, cancel=None)
            with large as waited:
                assert waited is None  # larger than their share, and nothing is free
            other = pool.submit(called, gate, context(40_000))
            waiting(gate, 1)
            called(gate, context(1_500), beside=True)
            assert not other.done()
        other.result(10)


def test_what_a_single_call_left_in_the_cache_counts_on_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LINGER", 1.0)
    gate = admission(gpu=100_000)
    with gate.seat().turn(context(97_000), 10, deadline=soon(), cancel=None):
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


def test_a_wave_of_short_trajectories_does_not_let_in_a_larger_one() -> None:
    gate = admission(gpu=100_000, expected=10_000)
    for _ in range(200):
        lived(gate, [5_000, 10_000, 15_000])
    for _ in range(5):
        lived(gate, [2_500])
    assert entered(gate) == 9  # as many as before


def test_trajectories_that_have_just_begun_say_nothing_about_the_mean() -> None:
    gate = admission(gpu=100_000, expected=30_000)
    seat = gate.seat()
    for _ in range(5000):
        seat.answered(prompt=2_000, cached=0, cacheable=0, completion=100)
    assert entered(gate) == 3


def test_the_mean_is_learnt() -> None:
    gate = admission(gpu=100_000, expected=30_000)
    assert entered(gate) == 3
    for _ in range(500):
        lived(gate, [5_000, 10_000, 15_000])
    assert entered(gate) == 6  # 92,000 hold nine of 10,000


def test_a_trajectory_that_was_taken_over_is_no_whole_life() -> None:
    gate = admission(gpu=100_000, expected=10_000)
    for _ in range(500):
        lived(gate, [60_000], restored=True)
    assert entered(gate) == 9


def grown(gate: KvAdmission, sizes: Sequence[int]) -> list[Seat]:
    seats = []
    for tokens in sizes:
        assert gate.enter()
        seats.append(called(gate, context(tokens)))
    return seats


def late(seat: Seat, tokens: int) -> bool:
    """Whether this conversation's next call has its turn at once."""
    with seat.turn(context(tokens), 10, deadline=time.monotonic() + 0.1, cancel=None) as waited:
        return waited is None


def test_where_all_grow_long_together_the_last_to_come_is_parked_until_another_ends() -> None:
    gate = admission(gpu=10_000, host=20_000, expected=4_000)  # 18,000 at any moment
    seats = grown(gate, [4_000, 4_000, 4_000])
    running = grown_up = context(7_000)
    with seats[0].turn(running, 10, deadline=soon(), cancel=None):
        seats[1].tokens = 7_000
        assert late(seats[2], 7_000)  # 21,000
        assert not gate.room()
        assert not seats[1].parked
    with seats[1].turn(grown_up, 10, deadline=soon(), cancel=None):
        seats[0].close()
        assert not seats[2].parked


def test_parked_calls_go_on_rather_than_leave_the_gpu_idle() -> None:
    gate = admission(gpu=10_000, host=20_000, expected=4_000)
    seats = grown(gate, [4_000, 4_000, 4_000])
    seats[0].tokens = seats[1].tokens = 8_000
    assert not late(seats[2], 4_500)  # the others wait for their tools
    assert seats[2].parked


def test_what_being_parked_costs_is_no_sign_of_too_many() -> None:
    gate = admission(gpu=10_000, host=20_000, expected=4_000)
    seats = grown(gate, [4_000, 4_000, 4_000])
    seats[0].tokens = seats[1].tokens = 8_000
    for _ in range(200):
        assert not late(seats[2], 4_500)
        seats[2].answered(prompt=4_500, cached=0, cacheable=4_500, completion=10)
    assert gate.pressure == 1.0
