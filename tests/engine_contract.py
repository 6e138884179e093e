"""What every engine does, whatever is behind it. A subclass gives the fixture `engine`; its test does not mind what
the tokens are, only that there are as many as asked for."""

from __future__ import annotations

import itertools
import random
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from worker.adapters.engine.port import Engine, Generated, Request
from worker.errors import ModelRejected

FOREVER = 20_000
"""Tokens that no engine here generates before a test is over."""

_seeds = itertools.count()


def fresh(tokens: int) -> array[int]:
    """A prompt that no cache knows."""
    chosen = random.Random(next(_seeds))
    return array("i", (chosen.randrange(1000, 2000) for _ in range(tokens)))


def endless(tokens: int = 64) -> Request:
    return Request(ids=fresh(tokens), max_tokens=FOREVER, exactly=True)


def soon(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


def until(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """The seconds it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it did not come to that"
        time.sleep(0.005)  # an engine tells its load only when asked
    return time.monotonic() - started


class EngineContract:
    def test_an_answer_is_as_long_as_asked_for_and_its_times_fit(self, engine: Engine) -> None:
        started = time.monotonic()
        done = engine.generate(Request(ids=fresh(100), max_tokens=20, exactly=True), deadline=soon())
        assert (done.finish, len(done.ids), done.prompt, done.cached) == ("length", 20, 100, 0)
        assert 0 < done.first <= done.seconds <= time.monotonic() - started
        assert 0 <= done.queued < done.first
        assert done.first + done.decode <= done.seconds + 0.05

    def test_calls_run_together_and_share_the_time(self, engine: Engine) -> None:
        # A call ends when its own tokens are there, not when the longest is through.
        requests = [Request(ids=fresh(64), max_tokens=100 + 50 * n, exactly=True) for n in range(8)]
        busy = engine.load().busy_seconds
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(engine.generate, request, deadline=soon()) for request in requests]
            until(lambda: engine.load().running == 8)
            done = [call.result(60) for call in calls]
        wall = time.monotonic() - started
        assert [len(one.ids) for one in done] == [request.max_tokens for request in requests]
        assert sum(one.seconds for one in done) > 4 * wall
        assert done[0].seconds < done[-1].seconds
        until(lambda: engine.load().busy_seconds - busy >= 0.9 * sum(one.gpu_seconds for one in done))
        assert sum(one.gpu_seconds for one in done) == pytest.approx(engine.load().busy_seconds - busy, rel=0.2)

    @pytest.mark.parametrize("how", ["cancel", "deadline"])
    def test_an_abort_keeps_what_there_is_and_frees_the_rest_at_once(self, engine: Engine, how: str) -> None:
        with ThreadPoolExecutor(5) as pool:
            stay, leave = Event(), Event()
            staying = pool.submit(engine.generate, endless(), deadline=soon(), cancel=stay)
            engine.generate(Request(ids=fresh(10), max_tokens=50, exactly=True), deadline=soon())  # time for a token
            until(lambda: engine.load().running == 1)
            deadline = soon() if how == "cancel" else soon(3)
            leaving = [pool.submit(engine.generate, endless(3000), deadline=deadline, cancel=leave) for _ in range(4)]
            until(lambda: engine.load().running == 5)
            used = engine.load().kv_used
            if how == "cancel":
                leave.set()
            at = time.monotonic() if how == "cancel" else deadline
            done = [call.result(20) for call in leaving]
            assert time.monotonic() - at < 2
            until(lambda: engine.load().running == 1, seconds=2)
            assert engine.load().kv_used < used / 2
            assert not staying.done()
            stay.set()
            kept = staying.result(5)
        assert {one.finish for one in (kept, *done)} == {"abort"}
        assert 0 < len(kept.ids) < FOREVER
        assert how == "cancel" or all(0 < len(one.ids) < FOREVER for one in done)  # a cancel may come before a token

    def test_three_turns_compute_only_what_is_new(self, engine: Engine) -> None:
        block, history, known = engine.facts.block_size, fresh(150), 0
        for turn in range(3):
            done = engine.generate(Request(ids=history[:], max_tokens=30, exactly=True), deadline=soon())
            assert (done.prompt, done.cached) == (len(history), known // block * block), f"turn {turn}"
            history += done.ids
            known = len(history) - 1  # the last token was generated, not read
            history += fresh(40)

    def test_a_prompt_that_does_not_fit_fails_alone(self, engine: Engine) -> None:
        with ThreadPoolExecutor(1) as pool:
            stop = Event()
            other = pool.submit(engine.generate, endless(), deadline=soon(), cancel=stop)
            until(lambda: engine.load().running == 1)
            with pytest.raises(ModelRejected):
                engine.generate(Request(ids=fresh(engine.facts.max_model_len + 1), max_tokens=1), deadline=soon())
            assert engine.alive
            assert not other.done()
            stop.set()
            assert other.result(5).finish == "abort"

    def test_a_call_that_is_late_before_it_starts_is_aborted(self, engine: Engine) -> None:
        done = engine.generate(endless(), deadline=time.monotonic() - 1)
        assert done.finish == "abort"
        assert engine.alive

    def test_calls_that_are_cancelled_as_they_start_end_soon(self, engine: Engine) -> None:
        # An abort may reach an engine before the call it is meant for does.
        cancel = Event()
        cancel.set()
        with ThreadPoolExecutor(16) as pool:
            began = time.monotonic()
            calls = [pool.submit(engine.generate, endless(2000), deadline=soon(), cancel=cancel) for _ in range(32)]
            assert {call.result(20).finish for call in calls} == {"abort"}
            assert time.monotonic() - began < 10
        until(lambda: engine.load().running == 0, seconds=2)
        assert engine.alive


def in_flight(pool: ThreadPoolExecutor, engine: Engine, calls: int) -> Sequence[Future[Generated]]:
    """Calls that go on until the engine ends, all of them running."""
    futures = [pool.submit(engine.generate, endless(), deadline=soon(120)) for _ in range(calls)]
    until(lambda: engine.load().running == calls)
    return futures
