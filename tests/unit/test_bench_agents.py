"""`bench agents` over a simulated engine: modes, window, counting, failures."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest

from agent.tokens import TokenCounter
from agent.types import ToolCall
from tests.simulated_engine import SimulatedEngine
from worker.adapters.engine.conversation import EngineModel
from worker.bench.agents import Hardware, Points, report, run
from worker.bench.agents_modes import Gated, Lockstep, Over
from worker.bench.agents_trajectory import observation
from worker.bench.agents_window import age
from worker.bench.filler import Filler
from worker.bench.roofline import GPUS, ModelShape
from worker.bench.workloads import W1, Lengths, plan
from worker.errors import ModelUnavailable
from worker.gates import TokenGate

SMALL = replace(
    W1,
    name="small",
    shared=200,
    own=100,
    steps=6,
    generated=Lengths(3.0, 0.5, 10, 60),
    observed=Lengths(4.0, 0.5, 20, 200),
    tool_mean=0.002,
    tool_max=0.01,
)


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter()


@pytest.fixture(scope="module")
def filler(counter) -> Filler:
    return Filler(counter)


@pytest.fixture
def points(counter, filler):
    def make(engine: SimulatedEngine, **changed) -> Points:
        given = {"workload": SMALL, "ramp": 5.0, "window": 0.5, "tick": 0.02} | changed
        return Points(engine=engine, model=EngineModel(engine, counter, "simulated"), filler=filler, **given)

    return make


def test_nothing_is_prefilled_again_where_all_contexts_fit(points):
    found = points(SimulatedEngine(kv_tokens=200_000)).run("plain", 8)["figures"]
    assert found["ramped"]
    assert found["steps"] > 10
    assert found["re_prefilled"] == 0
    assert 0 < found["re_prefilled_raw"] < 16 * found["steps"] / 1000
    assert found["failures"] == {}
    assert found["trajectories_per_hour"] == pytest.approx(found["steps_per_second"] * 3600 / 6)
    assert found["resident"]["mean"] == 8


def test_contexts_that_do_not_fit_are_prefilled_again_and_admission_keeps_them_out(points):
    all_in = points(SimulatedEngine(kv_tokens=2_000))
    blind = all_in.run("plain", 16)["figures"]
    admitted = points(SimulatedEngine(kv_tokens=2_000)).run("admitted", 16)["figures"]
    assert blind["re_prefilled"] > 0.3
    assert admitted["re_prefilled"] < 0.5 * blind["re_prefilled"]
    fits = (2_000 - SMALL.shared) // round(all_in.means.context - SMALL.shared)
    assert admitted["resident"]["max"] <= fits + 1 < 16
    assert admitted["at_gate"]["max"] >= 15 - fits
    assert admitted["gate_waits"] > 0
    assert admitted["gate_wait_seconds"] > 0


def test_one_at_a_time_is_alone(points):
    engine = SimulatedEngine()
    record = points(engine).run("one-at-a-time", 64)
    assert record["in_flight"] == 1
    assert engine.most_running == 1
    assert record["figures"]["steps"] > 0


def test_lockstep_generates_for_all_at_once(points):
    engine = SimulatedEngine(decode_seconds=1e-4)
    found = points(engine).run("lockstep", 6)["figures"]
    assert engine.most_running == 6
    assert found["steps"] > 6
    apart = points(SimulatedEngine(decode_seconds=1e-4)).run("plain", 6)["figures"]
    assert apart["steps"] > found["steps"]  # nobody waits for the longest answer and the slowest tool


def test_no_answer_is_used_before_all_have_theirs():
    pace, order = Lockstep(2), []

    def slow() -> None:
        with pace.call():
            first_is_in.wait(5)
            order.append("slow")

    first_is_in = threading.Event()
    thread = threading.Thread(target=slow)
    thread.start()
    with pace.call():
        order.append("fast")
        first_is_in.set()
    order.append("fast goes on")
    thread.join()
    assert order == ["fast", "slow", "fast goes on"]
    pace.close()
    with pytest.raises(Over), pace.call():
        pass


def test_all_modes_run_the_same_plans_and_each_record_says_so(points, tmp_path):
    given = points(SimulatedEngine(), window=0.1, out=tmp_path / "raw", config={"kv_cache_dtype": "fp8"})
    records = run(given, ["one-at-a-time", "lockstep", "plain", "admitted"], [2, 4])
    assert [(r["mode"], r["in_flight"]) for r in records] == [
        ("one-at-a-time", 1), ("lockstep", 2), ("lockstep", 4), ("plain", 2), ("plain", 4), ("admitted", 2),
        ("admitted", 4),
    ]  # fmt: skip
    assert {r["plans"] for r in records} == {given.digest}
    assert points(SimulatedEngine(), seed=1).digest != given.digest
    kept = [json.loads(line) for line in (tmp_path / "raw" / "points.jsonl").read_text("utf-8").splitlines()]
    assert kept == json.loads(json.dumps(records))
    assert len(list((tmp_path / "raw").glob("calls-*.jsonl"))) == 7
    assert given.digest in report(given)


def test_calls_have_the_planned_tokens(points, tmp_path):
    given = points(SimulatedEngine(), window=0.3, out=tmp_path)
    given.run("plain", 4)
    lines = [json.loads(line) for line in next(tmp_path.glob("calls-*")).read_text("utf-8").splitlines()]
    calls = [line for line in lines if "prompt" in line]
    assert {call["step"] for call in calls} == set(range(6))
    for call in calls:
        planned = plan(SMALL, 0, call["trajectory"])
        assert call["generated"] == planned.steps[call["step"]].generated
        assert call["prompt"] == pytest.approx(planned.prompts()[call["step"]], abs=6)
        assert 0 <= call["overhead"] < 5


def test_noise_that_reads_as_calls_gets_results_and_keeps_its_length(points, counter, tmp_path):
    marker = counter.load().tokenizer.get_special_token("[TOOL_CALLS]")
    given = points(SimulatedEngine(marker=marker), out=tmp_path)
    found = given.run("plain", 4)["figures"]
    assert (found["failures"], found["re_prefilled"]) == ({}, 0)
    lines = [json.loads(line) for line in next(tmp_path.glob("calls-*")).read_text("utf-8").splitlines()]
    for call in (line for line in lines if "prompt" in line):
        assert call["prompt"] == pytest.approx(plan(SMALL, 0, call["trajectory"]).prompts()[call["step"]], abs=6)


def test_failed_calls_are_counted_by_kind_and_the_rest_goes_on(points):
    found = points(SimulatedEngine(fails_every=40), window=1.0).run("plain", 8)["figures"]
    assert found["failures"]["ModelUnavailable"] > 0
    assert found["steps"] > 10


def test_a_context_that_is_full_is_a_failure_of_its_own(points):
    engine = SimulatedEngine(max_model_len=450)
    assert points(engine).run("plain", 4)["figures"]["failures"]["context full"] > 0


def test_the_window_ends_while_calls_hang(points):
    engine = SimulatedEngine(decode_seconds=10.0)
    started = time.monotonic()
    found = points(engine, ramp=0.2, window=0.3).run("plain", 8)["figures"]
    assert time.monotonic() - started < 10
    assert not found["ramped"]
    assert found["steps"] == 0
    assert engine.load().running == 0


def test_a_window_ends_with_its_engine(points):
    engine = SimulatedEngine(decode_seconds=1e-3)
    timer = threading.Timer(0.3, engine.shutdown)
    timer.start()
    with pytest.raises(ModelUnavailable, match="died"):
        points(engine, window=60.0).run("plain", 4)
    timer.join()


def test_an_error_of_ours_is_raised_and_not_measured(points, counter):
    class Broken(EngineModel):
        def open(self, system, tools):
            raise ZeroDivisionError

    given = points(SimulatedEngine())
    given.model = Broken(given.engine, counter, "broken")
    with pytest.raises(ZeroDivisionError):
        given.run("plain", 2)


def test_percent_of_the_roofline_and_its_arithmetic_are_in_the_record(points):
    shape = ModelShape(layers=2, heads=4, kv_heads=2, head_dim=32, multiplied=10**6, weight_bytes=2, kv_fp8=False)
    given = points(SimulatedEngine(), hardware=Hardware(shape=shape, gpu=GPUS["H100"]))
    found = given.run("plain", 4)["figures"]
    assert 0 < found["roofline_full_percent"] < found["roofline_percent"] < 100
    assert "trajectories/hour" in found["roofline"]
    assert found["roofline"] in report(given)


@pytest.mark.parametrize("places", [16, 48, 512])
@pytest.mark.parametrize("steps", [12, 80])
def test_ages_are_mixed_also_among_the_first_that_are_admitted(places, steps):
    ages = [age(i, steps) for i in range(places)]
    assert all(0 <= one < steps for one in ages)
    for first in (8, 16, places):
        assert sum(ages[:first]) / first == pytest.approx((steps - 1) / 2, rel=0.1)


def test_who_waits_at_the_gate_comes_in_order_and_closing_frees_them():
    gate, order = Gated(TokenGate(lambda: 100, expected=100)), []
    assert gate.admit(10) == 0.0

    def wait(name: int) -> None:
        try:
            gate.admit(10)
            order.append(name)
        except Over:
            order.append(-name)

    threads = []
    for name in (1, 2, 3):
        threads.append(threading.Thread(target=wait, args=(name,)))
        threads[-1].start()
        while gate.load().waiting < name:
            pass
    gate.leave()
    threads[0].join(5)
    assert order == [1]
    assert (gate.load().holding, gate.load().waiting, gate.load().waited) == (1, 2, 1)
    gate.close()
    for thread in threads:
        thread.join(5)
    assert sorted(order) == [-3, -2, 1]


def test_every_call_of_an_answer_gets_its_result_and_the_tokens_stay_as_planned(counter, filler):
    calls = [ToolCall(id=f"call0000{i}", name="read_file", arguments="{}") for i in range(3)]
    for given in ([], calls[:1], calls):
        history = counter.open("x", ())
        before = len(history)
        messages = observation(given, 60, filler.text, (1, 2))
        for message in messages:
            history.add(message)
        assert len(history) - before == 60
        assert [m.tool_call_id for m in messages if m.role == "tool"] == [call.id for call in given]
