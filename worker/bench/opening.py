"""The engine that a benchmark measures, and the vocabulary of its directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from agent.tokens import TokenCounter
from worker.adapters.engine.options import EngineOptions
from worker.adapters.engine.port import Engine
from worker.bench.serve import Bare


class Measured(Engine, Bare, Protocol):
    """An engine that can be measured without this service's part, too."""


@contextmanager
def opened(options: EngineOptions) -> Iterator[Measured]:
    """vLLM in this process's care, shut down at the end."""
    from worker.adapters.engine.vllm_host import VllmEngine  # noqa: PLC0415  # half a minute, and not everywhere

    engine = VllmEngine(options)
    try:
        yield engine
    finally:
        engine.shutdown()


def vocabulary(model: Path) -> TokenCounter:
    """The model's own tekken.json, or the bundled vocabulary."""
    own = model / "tekken.json"
    return TokenCounter(own if own.is_file() else None)
