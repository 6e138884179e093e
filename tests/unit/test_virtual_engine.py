"""The simulated engine: virtual time, KV memory, the scheduler's steps, and the shape of what was measured."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from worker.adapters.engine.host import BadRequest, Raw
from worker.adapters.engine.port import Request
from worker.bench import agents_figures, virtual_time
from worker.bench.virtual_agents import FACTS, Simulation
from worker.bench.virtual_engine import FINER_SPLITS, Speed, VirtualBackend
from worker.bench.virtual_memory import Holding, Memory, names
from worker.bench.virtual_points import TOKEN
from worker.bench.virtual_time import VirtualLoop
from worker.bench.workloads import W1, W2
from worker.commands.bench import bench

SMALL = replace(FACTS, kv_tokens=1024, block_size=16, max_model_len=1000, host_kv_tokens=0)


def ids(tokens: int, start: int = 0) -> array[int]:
    return array("i", range(start, start + tokens))


def on_engine(*calls: tuple[float, Request], host: int = 0) -> tuple[list[Raw], VirtualBackend, float]:
    """Each call begins at its second; what came of them, and when all had ended."""

    async def main(loop: VirtualLoop) -> tuple[list[Raw], VirtualBackend, float]:
        backend = VirtualBackend(replace(SMALL, host_kv_tokens=host), Speed(), loop)

        async def one(number: int, at: float, request: Request) -> Raw:
            await asyncio.sleep(at)
            return await backend.run(str(number), request)

        done = await asyncio.gather(*(one(number, *call) for number, call in enumerate(calls)))
        backend.close()
        return done, backend, loop.time()

    return virtual_time.run(main)


def asked(prompt: array[int], answer: int = 20) -> Request:
    return Request(ids=prompt, max_tokens=answer)


def test_hours_pass_in_no_time_and_in_order() -> None:
    async def main(loop: VirtualLoop) -> list[float]:
        seen: list[float] = []

        async def later(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append(loop.time())

        await asyncio.gather(later(7200), later(1), later(3600))
        return seen

    began = time.monotonic()
    assert virtual_time.run(main) == [1, 3600, 7200]
    assert time.monotonic() - began < 5


def test_what_waits_for_nothing_that_comes_is_left_when_the_main_task_ends() -> None:
    async def main(loop: VirtualLoop) -> Coroutine[Any, Any, None] | None:
        loop.create_task(asyncio.Event().wait())
        return None

    assert virtual_time.run(main) is None


def test_blocks_are_named_by_all_that_stands_before_them() -> None:
    one, other = names(ids(48), 16), names(ids(32) + ids(16, 900), 16)
    assert len(one) == 3
    assert one[:2] == other[:2]
    assert one[2] != other[2]
    assert names(ids(15), 16) == []


def test_what_was_not_used_for_longest_leaves_the_gpu_first_and_its_end_before_its_beginning() -> None:
    memory = Memory(gpu=6, host=0)
    first, second = names(ids(48), 16), names(ids(48, 500), 16)
    for wanted in (first, second):
        holding = Holding()
        assert memory.allocate(holding, 3)
        memory.fill(holding, wanted)
        memory.release(holding)
    assert memory.free == 6
    assert memory.allocate(Holding(), 2)
    assert memory.find(first) == (1, 0)
    assert memory.find(second) == (3, 0)


def test_the_hosts_tier_has_what_left_the_gpu() -> None:
    memory, wanted = Memory(gpu=3, host=10), names(ids(48), 16)
    holding = Holding()
    assert memory.allocate(holding, 3)
    memory.fill(holding, wanted)
    memory.release(holding)
    assert memory.allocate(Holding(), 2)
    assert memory.find(wanted) == (1, 2)
    assert not memory.allocate(Holding(), 2)


def test_a_later_turn_computes_only_what_is_new() -> None:
    (first, second), _, _ = on_engine((0, asked(ids(150))), (5, asked(ids(150) + ids(40, 700))))
    assert (first.prompt, first.cached, len(first.ids), first.finish) == (150, 0, 20, "length")
    assert second.cached == 144
    assert second.first < first.first


def test_sequences_decode_together() -> None:
    (alone,), _, one = on_engine((0, asked(ids(100))))
    together, _, four = on_engine(*((0, asked(ids(100, 1000 * n))) for n in range(4)))
    assert four < 1.3 * one
    assert all(done.decode >= alone.decode for done in together)


def test_the_first_that_does_not_fit_holds_up_the_others() -> None:
    (_, large, small), backend, _ = on_engine(
        (0, asked(ids(600), 100)), (0.1, asked(ids(500, 2000))), (0.2, asked(ids(10, 4000)))
    )
    assert large.queued > 0.5
    assert small.queued > 0.5
    assert backend.taken_off == 0


def test_where_answers_outgrow_the_memory_the_last_begins_again_and_all_end() -> None:
    done, backend, _ = on_engine((0, asked(ids(480), 200)), (0, asked(ids(480, 2000), 200)))
    assert backend.taken_off == 1
    assert [len(one.ids) for one in done] == [200, 200]
    assert backend.memory.free == backend.memory.total


@pytest.mark.parametrize(("host", "cached"), [(0, 16), (4096, 480)], ids=["no host tier", "a host tier"])
def test_a_context_that_left_the_gpu_is_copied_back_where_it_can_be(host: int, cached: int) -> None:
    calls = [(0, asked(ids(490))), (5, asked(ids(975, 2000))), (10, asked(ids(490)))]
    (_, _, again), _, _ = on_engine(*calls, host=host)
    assert again.cached == cached


def test_an_abort_ends_a_call_wherever_it_is() -> None:
    async def main(loop: VirtualLoop) -> list[Raw]:
        backend = VirtualBackend(SMALL, Speed(), loop)
        calls = [loop.create_task(backend.run(str(n), asked(ids(600, 5000 * n), 300))) for n in range(2)]
        await asyncio.sleep(1)
        for name in ("0", "1", "1", "nobody"):
            await backend.abort(name)
        return await asyncio.gather(*calls)

    running, waiting = virtual_time.run(main)
    assert (running.finish, waiting.finish) == ("abort", "abort")
    assert 0 < len(running.ids) < 300
    assert len(waiting.ids) == 0


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadRequest):
        on_engine((0, asked(ids(990))))


def tokens_per_second(simulation: Simulation, mode: str, in_flight: int) -> float:
    found = agents_figures.figures(simulation.point(mode, in_flight), simulation.workload)
    return float(found["output_tokens_per_second"])


@pytest.mark.parametrize(
    ("workload", "speed", "in_flight", "host_gib", "measured"),
    [
        (W2, FINER_SPLITS, 8, 80, 287),
        (W2, FINER_SPLITS, 12, 80, 366),
        (W2, FINER_SPLITS, 16, 80, 380),
        (W2, Speed(read_long=9e-9), 12, 80, 304),
        (W1, Speed(read_long=9e-9), 48, 80, 1216),
        (W1, Speed(read_long=9e-9), 96, 80, 1530),
        (W1, Speed(read_long=9e-9), 128, 64, 1244),  # too many: a tenth is computed again
    ],
)
def test_it_makes_about_what_was_measured(
    workload: Any, speed: Speed, in_flight: int, host_gib: int, measured: float
) -> None:
    """Calls 1, 3, 9, 10 and 11 in docs/benchmarks/engine; plain."""
    facts = replace(FACTS, host_kv_tokens=host_gib * 2**30 // TOKEN)
    simulation = Simulation(workload=workload, facts=facts, speed=speed, window=60, expected=48_519)
    assert tokens_per_second(simulation, "plain", in_flight) == pytest.approx(measured, rel=0.1)


def test_the_same_arguments_make_the_same_point() -> None:
    simulation = Simulation(workload=W1, window=30, expected=9031)
    assert simulation.point("admitted", 64).calls == simulation.point("admitted", 64).calls


def test_the_command_says_that_nothing_was_measured() -> None:
    given = ["agents", "--simulated", "--workload", "W1", "--in-flight", "8", "--window", "20"]
    done = CliRunner().invoke(bench, given)
    assert done.exit_code == 0, done.output
    assert "none of its figures is a measurement" in done.output
    assert "| simulated plain | 8 |" in done.output
    assert CliRunner().invoke(bench, [*given, "--modes", "lockstep"]).exit_code == 2
    assert CliRunner().invoke(bench, ["agents", "--in-flight", "8"]).exit_code == 2
