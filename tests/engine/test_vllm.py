"""The real vLLM behind the engine's port: the contract, and what only real processes can show."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.engine_contract import EngineContract, fresh, in_flight, soon, until
from worker.adapters.engine.port import Request
from worker.adapters.engine.vllm_host import VllmEngine, naming_seconds
from worker.errors import ModelRejected, ModelUnavailable

TOOL_CALLS, ARGS = 9, 32
Start = Callable[..., VllmEngine]


def processes() -> set[psutil.Process]:
    """This process's descendants, less Python's own helper for shared memory."""
    found = psutil.Process().children(recursive=True)
    return {one for one in found if "resource_tracker" not in " ".join(one.cmdline())}


def end(these: set[psutil.Process]) -> None:
    """Waits until they are no more; what nobody reaped (the first process of a container may not) counts as ended."""
    assert these
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in these), seconds=20)


class TestVllm(EngineContract):
    def test_it_is_the_model_that_was_written(self, engine: VllmEngine) -> None:
        assert engine.facts.engine.startswith("vllm 0.32.0")
        assert engine.facts.architecture == "MistralForCausalLM"
        assert (engine.facts.max_model_len, engine.facts.block_size, engine.facts.max_num_seqs) == (32_768, 32, 32)
        assert engine.facts.kv_tokens >= 4 * 32_768

    def test_a_grammar_decides_what_comes_out(self, engine: VllmEngine) -> None:
        schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
        strict = {"x-guidance": {"whitespace_flexible": False}, "additionalProperties": False, **schema}
        grammar = f'start: <[{TOOL_CALLS}]> "f" <[{ARGS}]> %json {json.dumps(strict)}\n'
        done = engine.generate(Request(ids=fresh(20), max_tokens=50, stop=(2,), grammar=grammar), deadline=soon())
        assert (done.finish, done.ids[0], ARGS in done.ids) == ("stop", TOOL_CALLS, True)

    def test_a_grammar_that_is_none_fails_alone(self, engine: VllmEngine) -> None:
        with pytest.raises(ModelRejected):
            engine.generate(Request(ids=fresh(20), max_tokens=5, grammar="start: ("), deadline=soon())
        assert engine.generate(Request(ids=fresh(20), max_tokens=5, exactly=True), deadline=soon()).finish == "length"

    def test_the_same_prompt_gets_the_same_answer_from_greedy_sampling(self, engine: VllmEngine) -> None:
        request = Request(ids=fresh(50), max_tokens=20, temperature=0.0, exactly=True)
        assert len({engine.generate(request, deadline=soon()).ids.tobytes() for _ in range(3)}) == 1


def test_naming_a_prompts_blocks_is_measured() -> None:
    """The benchmark of a step shows it beside our own part."""
    assert 0 < naming_seconds(range(1000), block_size=16) < naming_seconds(range(100_000), block_size=16)


def test_an_engine_whose_process_died_fails_every_call_and_takes_no_other_with_it(
    engine: VllmEngine, own_engine: Start
) -> None:
    before = processes()
    dying = own_engine()
    mine = processes() - before
    with ThreadPoolExecutor(4) as pool:
        calls = in_flight(pool, dying, 4)
        killed = time.monotonic()
        for one in mine & set(psutil.Process().children()):
            one.kill()
        errors = [call.exception(30) for call in calls]
        assert time.monotonic() - killed < 15
    assert all(isinstance(error, ModelUnavailable) for error in errors), errors
    assert not dying.alive
    with pytest.raises(ModelUnavailable):
        dying.generate(Request(ids=fresh(5), max_tokens=1), deadline=soon())
    dying.shutdown()
    end(mine)
    assert engine.generate(Request(ids=fresh(5), max_tokens=1, exactly=True), deadline=soon()).finish == "length"


@pytest.mark.slow
def test_an_engine_that_hangs_fails_every_call_and_its_processes_end(own_engine: Start) -> None:
    before = processes()
    engine = own_engine(hang_seconds=2.0)
    mine = processes() - before
    with ThreadPoolExecutor(2) as pool:
        calls = in_flight(pool, engine, 2)
        for one in mine:
            one.send_signal(signal.SIGSTOP)
        assert all(isinstance(call.exception(30), ModelUnavailable) for call in calls)
    assert not engine.alive
    engine.shutdown()
    end(mine)


@pytest.mark.slow
def test_a_shutdown_ends_calls_and_processes_and_can_be_asked_for_twice(own_engine: Start) -> None:
    before = processes()
    engine = own_engine()
    mine = processes() - before
    with ThreadPoolExecutor(2) as pool:
        calls = in_flight(pool, engine, 2)
        engine.shutdown()
        assert all(isinstance(call.exception(5), ModelUnavailable) for call in calls)
    engine.shutdown()
    assert not engine.alive
    end(mine)
