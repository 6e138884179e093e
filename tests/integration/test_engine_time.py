"""Whose GPU time it was: over real runs and the real ledger, with an engine whose calls overlap as tests want them."""

from __future__ import annotations

import asyncio
import json
import threading
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import generate_latest
from sqlalchemy import func, select, text

from agent.tokens import TokenCounter
from agent.types import CallTimes, Usage
from tests.engine_contract import until
from tests.factories import queue_run
from tests.fakes_engine import AnsweringEngine
from tests.integration.world import World
from worker.adapters.engine.conversation import EngineModel
from worker.adapters.engine.host import EngineHost, Raw, Report
from worker.adapters.engine.port import EngineLoad
from worker.engine_clock import EngineClock
from worker.observe.load import EngineLoads
from worker.observe.metrics import Metrics
from worker.runs import engine_time, ledger, states, workforce
from worker.store.models import RunState, Spend
from worker.store.money import EngineTime

RUNS = 3


class Together:
    """Answers a call once so many are in flight, each in a loop's turn of its own; with the same text for ever."""

    facts = AnsweringEngine.facts
    dead = False

    def __init__(self, answer: list[int]) -> None:
        self.report = Report()
        self.most = 0
        self.begun = threading.Semaphore(0)
        self._answer = array("i", answer)
        self._waiting: list[asyncio.Event] = []

    async def run(self, name, request):
        turn = asyncio.Event()
        self._waiting.append(turn)
        self.begun.release()
        self.most = max(self.most, len(self._waiting))
        if len(self._waiting) >= RUNS:
            together, self._waiting = self._waiting, []
            for other in together:
                other.set()
                await asyncio.sleep(0.01)  # what the engine does, a little for each
        await turn.wait()
        count = len(request.ids)
        return Raw(ids=self._answer, finish="stop", prompt=count, cached=0, queued=0.0, first=0.1, decode=0.2)

    async def abort(self, name) -> None:
        raise AssertionError("nothing is aborted here")

    def close(self) -> None:
        pass


@pytest.fixture
def world(store, tmp_path):
    world = World(store, tmp_path)
    with store.transaction() as session:
        for number in range(2, RUNS + 1):
            queue_run(session, number, commit=world.commit)
    yield world
    world.heartbeat.close()


def test_what_runs_at_once_are_booked_with_adds_up_to_the_time_the_engine_was_busy(world):
    counter = TokenCounter(None)
    tokenizer = counter.load().tokenizer
    backend = Together([*tokenizer.encode("It is done.", False, False), tokenizer.eos_id])

    async def start():
        return backend

    host = EngineHost(start, gpus=2)
    told: list[tuple[object, ...]] = []
    pursue = world.pursuer(EngineModel(host, counter, "together", told=lambda *call: told.append(call)))
    with ThreadPoolExecutor(RUNS) as pool:
        pursuing = []
        for _ in range(RUNS):  # one after the other: a claim beside another may find nothing
            pursuing.append(pool.submit(pursue))
            assert backend.begun.acquire(timeout=30)
        for done in pursuing:
            done.result(60)
    with world.store.transaction() as session:
        rows = session.scalars(select(Spend.gpu_seconds)).all()
        run_states = set(session.scalars(text("SELECT state FROM runs")))
    assert run_states == {RunState.CONCLUDED.value}
    assert (len(rows), len(told), backend.most) == (2 * RUNS, 2 * RUNS, RUNS)
    assert all(0 < share < sum(rows) for share in rows)
    until(lambda: sum(rows) == pytest.approx(2 * host.load().busy_seconds, abs=1e-6))
    host.shutdown()


def test_time_is_written_once_however_often_and_whoever_writes(store):
    now = [0.0, 0.0]
    clock = EngineClock(store, "host:1", profile="small-24b", gpus=2, times=lambda: (now[0], now[1]))
    other = EngineClock(store, "host:2", profile="small-24b", gpus=1, times=lambda: (5.0, 6.0))
    now[:] = [10.0, 1.0]
    clock()
    clock()
    now[:] = [12.0, 4.0]
    threads = [threading.Thread(target=clock) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    with store.transaction() as session:
        busy, idle = session.execute(select(func.sum(EngineTime.busy_seconds), func.sum(EngineTime.idle_seconds))).one()
        assert (busy, idle) == (12.0 + 5.0, 4.0 + 6.0)
        (row,) = engine_time.idle(session, ["profile"])
        assert (row.profile, row.gpu_seconds) == ("small-24b", 2 * 4.0 + 6.0)


def test_spend_shows_idle_as_a_row_of_its_own(ask, store, monkeypatch):
    monkeypatch.setenv("DEVSTRAL_FIX_GPU_USD_PER_HOUR", "3.6")
    with store.transaction() as session:
        queue_run(session)
        lease = states.claim_next(session, profile="small-24b", owner="a", seconds=60)
        usage = ledger.types.Usage(prompt=10, completion=1, gpu_seconds=20.0)
        what = {"seconds": 1, "profile": "small-24b", "model": "vllm:m"}
        ledger.book(session, lease, call=0, usage=usage, cost=0.02, **what)
        engine_time.add(session, "host:1", "small-24b", gpus=2, busy=10.0, idle=50.0)
    used, idle = json.loads(ask("spend", "--by", "profile", "--json"))
    assert (used["idle"], used["gpu_seconds"], used["calls"]) == (False, 20.0, 1)
    assert (idle["idle"], idle["gpu_seconds"], idle["calls"], idle["actual_usd"]) == (True, 100.0, 0, [0.1, 0.1])
    assert (used["profile"], idle["profile"]) == ("small-24b", "small-24b")
    table = ask("spend", "--by", "repository", "--by", "profile").splitlines()
    assert table[2].split()[:4] == ["(idle)", "small-24b", "(idle)", "0"]
    assert "None: nothing was spent" in ask("spend", "--until", "2020-01-01")
    assert "0 differences" in ask("spend", "--check")


def test_a_worker_shows_as_starting_until_it_takes_messages(store):
    about = {"role": "gpu", "queues": ["q"], "profile": "p", "slots": 2, "isolation": "basic", "version": "1"}
    with store.transaction() as session:
        workforce.register(session, "host:1", **about, lease_seconds=60)
        assert [seen.state for seen in workforce.seen(session)] == ["starting"]
        workforce.ready(session, "host:1")
        assert [seen.state for seen in workforce.seen(session)] == ["running"]
        workforce.register(session, "host:1", **about, lease_seconds=60)
        assert [seen.state for seen in workforce.seen(session)] == ["starting"], "a process that starts anew"


def test_metrics_tell_the_engines_load_and_the_parts_of_its_calls():
    metrics = Metrics()
    metrics.generated("m", Usage(completion=31), CallTimes(turn=0.1, queued=0.02, first=0.5, decode=3.0))
    load = EngineLoad(running=3, waiting=1, kv_used=0.25, busy_seconds=7.0, idle_seconds=2.0, failed_gpu_seconds=0.5)
    metrics.registry.register(EngineLoads(lambda: load))
    shown = generate_latest(metrics.registry).decode()
    for line in (
        'devstral_fix_engine_calls{state="running"} 3.0',
        'devstral_fix_engine_calls{state="waiting"} 1.0',
        "devstral_fix_engine_kv_used_ratio 0.25",
        'devstral_fix_engine_seconds_total{state="idle"} 2.0',
        "devstral_fix_engine_failed_gpu_seconds_total 0.5",
        'devstral_fix_engine_call_seconds_sum{model="m",part="decode"} 3.0',
        'devstral_fix_engine_call_seconds_bucket{le="0.025",model="m",part="queue"} 1.0',
    ):
        assert line in shown
