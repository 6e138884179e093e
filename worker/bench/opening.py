"""The engine that a benchmark measures, and the vocabulary of its directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from agent.tokens import TokenCounter
from worker.adapters.engine.port import Engine
from worker.bench.agents_trajectory import Talker


@contextmanager
def opened(options: dict[str, Any]) -> Iterator[Engine]:
    """vLLM in this process's care, shut down at the end. `options`: fields of EngineOptions; None is its default."""
    kinds: Any = import_module("worker.adapters.engine.options")
    hosts: Any = import_module("worker.adapters.engine.vllm_host")
    given = {name: value for name, value in options.items() if value is not None}
    engine = cast("Engine", hosts.VllmEngine(kinds.EngineOptions(**given)))
    try:
        yield engine
    finally:
        engine.shutdown()


def vocabulary(model: Path) -> TokenCounter:
    """The model's own tekken.json, or the bundled vocabulary."""
    own = model / "tekken.json"
    return TokenCounter(own if own.is_file() else None)


def talker(engine: Engine, counter: TokenCounter, name: str) -> Talker:
    """The service's own model over that engine."""
    conversations: Any = import_module("worker.adapters.engine.conversation")
    return cast("Talker", conversations.EngineModel(engine, counter, name))
