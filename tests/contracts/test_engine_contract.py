"""What every engine does, whatever computes: the simulated one here. Another suite imports these tests beside an
`engine` fixture of its own (a window of at least 2,048 tokens)."""

from __future__ import annotations

import threading
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from tests.simulated_engine import SimulatedEngine
from worker.adapters.engine.port import Engine, Request
from worker.errors import ModelRejected, ModelUnavailable


@pytest.fixture
def engine():
    engine = SimulatedEngine(max_model_len=2048, decode_seconds=1e-3)
    yield engine
    engine.shutdown()


def ids(count: int, seed: int = 0) -> array[int]:
    return array("i", ((seed * 101 + i * 13) % 5000 + 1000 for i in range(count)))


def soon(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def test_an_answer_of_an_exact_length_and_its_times(engine: Engine):
    got = engine.generate(Request(ids=ids(100), max_tokens=20, exactly=True), deadline=soon())
    assert (len(got.ids), got.finish, got.prompt) == (20, "length", 100)
    assert 0 <= got.queued <= got.first <= got.seconds
    assert got.first + got.decode == pytest.approx(got.seconds, abs=0.05)
    assert got.gpu_seconds >= 0


def test_a_prompt_that_grew_is_computed_from_its_last_whole_block_on(engine: Engine):
    prompt, block = ids(500, seed=1), engine.facts.block_size
    first = engine.generate(Request(ids=prompt, max_tokens=20, exactly=True), deadline=soon())
    longer = prompt + first.ids + ids(50, seed=2)
    second = engine.generate(Request(ids=longer, max_tokens=5, exactly=True), deadline=soon())
    assert first.cached == 0
    assert second.cached == (500 + 20 - 1) // block * block


def test_a_cancelled_call_ends_at_once_with_what_it_has(engine: Engine):
    cancel = Event()
    with ThreadPoolExecutor(1) as pool:
        request = Request(ids=ids(50, seed=3), max_tokens=1900, exactly=True)
        future = pool.submit(engine.generate, request, deadline=soon(), cancel=cancel)
        while engine.load().running == 0:
            pass
        cancel.set()
        got = future.result(timeout=5)
    assert got.finish == "abort"
    assert len(got.ids) < 1900
    assert engine.load().running == 0


def test_a_deadline_ends_a_call(engine: Engine):
    started = time.monotonic()
    got = engine.generate(Request(ids=ids(50, seed=4), max_tokens=1900, exactly=True), deadline=soon(0.1))
    assert got.finish == "abort"
    assert time.monotonic() - started < 1.5


def test_a_prompt_that_does_not_fit_fails_alone(engine: Engine):
    with pytest.raises(ModelRejected):
        engine.generate(Request(ids=ids(engine.facts.max_model_len), max_tokens=5), deadline=soon())
    assert engine.alive
    assert len(engine.generate(Request(ids=ids(10), max_tokens=5, exactly=True), deadline=soon()).ids) == 5


def test_calls_of_many_threads_run_at_once(engine: Engine):
    barrier = threading.Barrier(8)

    def call(seed: int) -> int:
        barrier.wait()
        return len(engine.generate(Request(ids=ids(64, seed), max_tokens=50, exactly=True), deadline=soon()).ids)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(8))) == [50] * 8


def test_after_a_shutdown_no_call_succeeds():
    engine = SimulatedEngine(decode_seconds=1e-2)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(engine.generate, Request(ids=ids(50), max_tokens=10_000), deadline=soon())
        while engine.load().running == 0:
            pass
        engine.shutdown()
        engine.shutdown()
        with pytest.raises(ModelUnavailable):
            future.result(timeout=5)
    assert not engine.alive
    with pytest.raises(ModelUnavailable):
        engine.generate(Request(ids=ids(10), max_tokens=1), deadline=soon())
