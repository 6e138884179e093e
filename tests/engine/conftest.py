"""One tiny model and one engine per run: the real vLLM on this machine's CPU. `make test-engine` makes the environment
these tests need."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from worker.adapters.engine.options import EngineOptions
    from worker.adapters.engine.vllm_host import VllmEngine

# Nothing is asked over the network; no thread is nailed to a core, because several engines share few of them.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # or a CPU's worker is always a process beside the engine's
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}

# What torch warns of at its import, and vLLM's sockets at their end; other warnings are errors as everywhere.
_THIRD_PARTY_WARNINGS = (
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:Unclosed context:ResourceWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in _THIRD_PARTY_WARNINGS:
        config.addinivalue_line("filterwarnings", line)
    os.environ.update(_ENVIRONMENT)


def pytest_unconfigure() -> None:
    # vLLM leaves its ZeroMQ contexts to the garbage collector, and pytest collects once more after its own filters.
    warnings.filterwarnings("ignore", "Unclosed context", ResourceWarning)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from worker.adapters.engine.shapes import write_model

    return write_model(tmp_path_factory.mktemp("models") / "tiny", "tiny")


@pytest.fixture(scope="session")
def options(tiny_model: Path) -> EngineOptions:
    from worker.adapters.engine.options import EngineOptions

    return EngineOptions(
        model=tiny_model,
        max_num_seqs=32,
        kv_cache_memory_bytes=64 << 20,
        dummy_weights=True,
        enforce_eager=True,
        block_size=32,  # a CPU takes multiples of 32
        extra={"dtype": "bfloat16", "distributed_executor_backend": "uni"},  # no process for the worker, as on one GPU
    )


@pytest.fixture(scope="session")
def engine(options: EngineOptions) -> Iterator[VllmEngine]:
    from worker.adapters.engine.vllm_host import VllmEngine

    engine = VllmEngine(options)
    yield engine
    engine.shutdown()


@pytest.fixture
def own_engine(options: EngineOptions) -> Iterator[Callable[..., VllmEngine]]:
    """Starts an engine that the test may end. Its worker is a process of its own, as with tensor parallelism."""
    from worker.adapters.engine.vllm_host import VllmEngine

    options = replace(options, extra={**options.extra, "distributed_executor_backend": "mp"})
    started: list[VllmEngine] = []

    def start(**host: float) -> VllmEngine:
        started.append(VllmEngine(options, **host))
        return started[-1]

    yield start
    for engine in started:
        engine.shutdown()
