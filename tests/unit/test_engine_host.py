"""The host around an engine: whatever the engine does, every call ends, and its time is accounted for."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from worker.adapters.engine.host import BackendDied, BadRequest, EngineHost, Raw, Report
from worker.adapters.engine.port import EngineFacts, Request
from worker.adapters.engine.shares import Shares
from worker.errors import ModelRejected, ModelUnavailable

FACTS = EngineFacts(
    engine="steered 1",
    architecture="none",
    kv_tokens=1000,
    block_size=16,
    max_model_len=500,
    max_num_seqs=8,
    start_seconds=0.0,
)


class SteeredBackend:
    """An engine that does what a test tells it to: each call waits for its name to be answered."""

    facts = FACTS

    def __init__(self) -> None:
        self.report = Report()
        self.started: dict[str, asyncio.Future[Raw]] = {}
        self.begun = threading.Semaphore(0)
        self.aborted: list[str] = []
        self.deaf = False
        self.unheard = 0  # aborts that come before the engine knows the call
        self.dead = False
        self.closed = 0

    async def run(self, name: str, request: Request) -> Raw:
        if len(request.ids) > FACTS.max_model_len:
            raise BadRequest("too long")
        future = self.started[name] = asyncio.get_running_loop().create_future()
        self.begun.release()
        return await future

    async def abort(self, name: str) -> None:
        self.aborted.append(name)
        if self.unheard:
            self.unheard -= 1
        elif not self.deaf:
            self.started[name].set_result(raw("abort", 3))

    def close(self) -> None:
        self.closed += 1


def raw(finish: str = "stop", count: int = 1) -> Raw:
    return Raw(ids=array("i", range(count)), finish=finish, prompt=2, cached=1, queued=0.0, first=0.1, decode=0.2)


@contextmanager
def hosted(
    *, hang_seconds: float = 60.0, on_death: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[EngineHost, SteeredBackend]]:
    backend = SteeredBackend()

    async def start() -> SteeredBackend:
        return backend

    host = EngineHost(start, hang_seconds=hang_seconds, on_death=on_death)
    try:
        yield host, backend
    finally:
        host.shutdown()
        assert backend.closed == 1


def prompt(tokens: int = 2) -> Request:
    return Request(ids=array("i", range(tokens)), max_tokens=5)


def soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


def on_loop(host: EngineHost, action: object, *arguments: object) -> None:
    host._loop.call_soon_threadsafe(action, *arguments)


def test_an_answer_comes_back_with_its_share_of_time() -> None:
    with hosted() as (host, backend), ThreadPoolExecutor(1) as pool:
        calling = pool.submit(host.generate, prompt(), deadline=soon())
        assert backend.begun.acquire(timeout=5)
        on_loop(host, backend.started["1"].set_result, raw(count=4))
        done = calling.result(5)
        assert (done.finish, len(done.ids), done.prompt, done.cached) == ("stop", 4, 2, 1)
        assert 0 < done.gpu_seconds <= done.seconds


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_a_call_that_nobody_wants_any_more_is_aborted_and_keeps_what_it_had(how: str) -> None:
    with hosted() as (host, backend), ThreadPoolExecutor(1) as pool:
        cancel = threading.Event()
        deadline = soon() if how == "cancel" else soon(0.2)
        calling = pool.submit(host.generate, prompt(), deadline=deadline, cancel=cancel)
        assert backend.begun.acquire(timeout=5)
        if how == "cancel":
            cancel.set()
        done = calling.result(5)
        assert (done.finish, len(done.ids), backend.aborted) == ("abort", 3, ["1"])
        assert host.alive


def test_an_abort_is_repeated_until_the_call_has_ended() -> None:
    with hosted() as (host, backend), ThreadPoolExecutor(1) as pool:
        backend.unheard, cancel = 2, threading.Event()
        cancel.set()
        calling = pool.submit(host.generate, prompt(), deadline=soon(), cancel=cancel)
        assert calling.result(5).finish == "abort"
        assert backend.aborted == ["1", "1", "1"]
        assert host.alive


def test_an_abort_is_not_repeated_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.adapters.engine.host.ABORT_SECONDS", 1.2)
    with hosted() as (host, backend):
        backend.deaf = True
        with pytest.raises(ModelUnavailable, match="aborted call"):
            host.generate(prompt(), deadline=soon(0.05))
        assert 3 <= len(backend.aborted) <= 6  # in 1.2 s, with 24 looks


def test_a_prompt_that_is_refused_fails_alone() -> None:
    with hosted() as (host, backend), ThreadPoolExecutor(1) as pool:
        calling = pool.submit(host.generate, prompt(), deadline=soon())
        assert backend.begun.acquire(timeout=5)
        with pytest.raises(ModelRejected, match="too long"):
            host.generate(prompt(501), deadline=soon())
        on_loop(host, backend.started["1"].set_result, raw())
        assert calling.result(5).finish == "stop"


def test_the_share_of_a_call_that_got_no_answer_is_counted() -> None:
    with hosted() as (host, _):
        with pytest.raises(ModelRejected):
            host.generate(prompt(501), deadline=soon())
        assert host.load().failed_gpu_seconds > 0


def test_an_engine_that_dies_fails_every_call_at_once_and_takes_no_more() -> None:
    with hosted() as (host, backend), ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(host.generate, prompt(), deadline=soon()) for _ in range(3)]
        for _ in calls:
            assert backend.begun.acquire(timeout=5)
        on_loop(host, backend.started["2"].set_exception, BackendDied("its process ended"))
        for call in calls:
            assert isinstance(call.exception(5), ModelUnavailable)
        assert not host.alive
        with pytest.raises(ModelUnavailable, match="its process ended"):
            host.generate(prompt(), deadline=soon())


def test_an_engine_that_makes_no_progress_fails_every_call() -> None:
    with hosted(hang_seconds=0.4) as (host, backend), ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(host.generate, prompt(), deadline=soon(60)) for _ in range(2)]
        for call in calls:
            assert isinstance(call.exception(10), ModelUnavailable)
        assert not host.alive
        assert backend.aborted == []


def test_an_engine_that_is_slow_but_steps_is_not_taken_for_one_that_hangs() -> None:
    with hosted(hang_seconds=0.4) as (host, backend), ThreadPoolExecutor(1) as pool:
        calling = pool.submit(host.generate, prompt(), deadline=soon(60))
        assert backend.begun.acquire(timeout=5)
        until = soon(1.2)
        while time.monotonic() < until:  # three times as long as it may be silent
            backend.report.steps += 1
            time.sleep(0.02)  # that time passes is what is tried here
        on_loop(host, backend.started["1"].set_result, raw())
        assert calling.result(5).finish == "stop"


def test_an_abort_that_the_engine_does_not_heed_counts_as_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.adapters.engine.host.ABORT_SECONDS", 0.3)
    with hosted() as (host, backend):
        backend.deaf = True
        with pytest.raises(ModelUnavailable, match="aborted call"):
            host.generate(prompt(), deadline=soon(0.1))
        assert not host.alive


def test_a_death_is_told_once_however_many_calls_saw_it() -> None:
    told: queue.Queue[str] = queue.Queue()
    with hosted(on_death=told.put) as (host, backend), ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(host.generate, prompt(), deadline=soon()) for _ in range(2)]
        for _ in calls:
            assert backend.begun.acquire(timeout=5)
        for name in ("1", "2"):
            on_loop(host, backend.started[name].set_exception, BackendDied("out of memory"))
        assert all(isinstance(call.exception(5), ModelUnavailable) for call in calls)
        assert told.get(timeout=5) == "out of memory"
    assert told.empty()


def test_an_engine_that_ends_while_nobody_calls_is_noticed() -> None:
    told: queue.Queue[str] = queue.Queue()
    with hosted(on_death=told.put) as (host, backend):
        backend.dead = True
        assert told.get(timeout=5) == "its process ended"
        assert not host.alive
    assert told.empty()


def test_a_shutdown_is_no_death() -> None:
    told: queue.Queue[str] = queue.Queue()
    with hosted(on_death=told.put) as (host, backend), ThreadPoolExecutor(1) as pool:
        calling = pool.submit(host.generate, prompt(), deadline=soon())
        assert backend.begun.acquire(timeout=5)
        host.shutdown()
        assert isinstance(calling.exception(5), ModelUnavailable)
    assert told.empty()


def test_shutting_down_ends_the_calls_in_flight() -> None:
    with hosted() as (host, backend), ThreadPoolExecutor(1) as pool:
        calling = pool.submit(host.generate, prompt(), deadline=soon())
        assert backend.begun.acquire(timeout=5)
        host.shutdown()
        assert isinstance(calling.exception(5), ModelUnavailable)
        assert not host.alive


def test_shares_add_up_to_the_time_with_calls_in_flight() -> None:
    now = 0.0
    shares = Shares(gpus=2, clock=lambda: now)
    now = 3.0
    first = shares.enter()
    now = 5.0
    second = shares.enter()
    now = 9.0
    one = shares.leave(first)  # 2 s alone, 4 s of two
    now = 10.0
    two = shares.leave(second)  # 4 s of two, 1 s alone
    now = 12.0
    assert (one, two) == (2 * 4.0, 2 * 3.0)
    assert shares.times() == (7.0, 5.0)
    assert one + two == 2 * 7.0
