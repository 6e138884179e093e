"""What an import must not drag in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imported_by(statement: str) -> set[str]:
    """The top-level names in sys.modules after `statement`, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(done.stdout.split())


def test_worker_brings_neither_celery_nor_vllm() -> None:
    assert imported_by("import worker").isdisjoint({"celery", "vllm", "sqlalchemy", "fastapi"})


@pytest.mark.parametrize("module", ["agent.types", "agent.protocols", "agent.errors"])
def test_agent_is_pure(module: str) -> None:
    assert imported_by(f"import {module}").isdisjoint({"worker", "api", "celery", "sqlalchemy", "vllm", "fastapi"})


@pytest.mark.parametrize("module", ["worker.bench.agents", "worker.bench.serve", "worker.bench.opening"])
def test_the_engine_is_measured_without_the_service_around_it(module: str) -> None:
    service = {"celery", "fastapi", "github", "openai", "redis", "sqlalchemy", "vllm"}
    assert imported_by(f"import {module}, worker.commands.bench").isdisjoint(service)


def test_the_check_would_notice() -> None:
    assert "celery" in imported_by("import celery")
