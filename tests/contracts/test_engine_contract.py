"""The simulated and the instant engine under the contract; vLLM passes the same in `make test-engine`."""

from __future__ import annotations

from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engine_contract import EngineContract, fresh, in_flight, soon
from tests.simulated_engine import SimulatedEngine
from worker.adapters.engine.port import Request
from worker.bench import instant
from worker.errors import ModelUnavailable


class TestSimulatedEngine(EngineContract):
    @pytest.fixture
    def engine(self):
        engine = SimulatedEngine(kv_tokens=1_000_000, decode_seconds=2e-3)
        yield engine
        engine.shutdown()


class TestInstantEngine(EngineContract):
    @pytest.fixture
    def engine(self):
        facts = instant.facts(kv_tokens=1_000_000, max_model_len=32_768)
        engine = instant.hosted(instant.InstantBackend([array("i", [1001])], facts, answer_seconds=2e-3))
        yield engine
        engine.shutdown()


def test_after_a_shutdown_no_call_succeeds() -> None:
    engine = SimulatedEngine(decode_seconds=1e-2)
    with ThreadPoolExecutor(1) as pool:
        calls = in_flight(pool, engine, 1)
        engine.shutdown()
        engine.shutdown()
        assert isinstance(calls[0].exception(5), ModelUnavailable)
    assert not engine.alive
    with pytest.raises(ModelUnavailable):
        engine.generate(Request(ids=fresh(10), max_tokens=1), deadline=soon())
