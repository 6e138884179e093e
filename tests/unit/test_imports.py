"""What an import must not drag in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE_MODULES = ("checks", "host", "options", "port", "shapes", "tether", "versions")


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


@pytest.mark.parametrize(
    "module",
    ["worker", "worker.cli", "worker.adapters.engine", *(f"worker.adapters.engine.{name}" for name in ENGINE_MODULES)],
)
def test_only_the_host_of_vllm_brings_vllm(module: str) -> None:
    # In .venv there is no vllm, so an import of it fails; in an environment that has it this sees it.
    assert imported_by(f"import {module}").isdisjoint({"vllm", "torch", "transformers"})


def test_the_host_of_vllm_is_the_one_module_that_imports_it() -> None:
    importing = [
        path.relative_to(ROOT).as_posix()
        for room in ("agent", "api", "worker", "migrations")
        for path in sorted((ROOT / room).rglob("*.py"))
        if re.search(r"^\s*(import|from) (vllm|torch|transformers)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert importing == ["worker/adapters/engine/vllm_host.py"]


@pytest.mark.parametrize("module", ["agent.types", "agent.protocols", "agent.errors"])
def test_agent_is_pure(module: str) -> None:
    assert imported_by(f"import {module}").isdisjoint({"worker", "api", "celery", "sqlalchemy", "vllm", "fastapi"})


@pytest.mark.parametrize("module", ["worker.bench.agents", "worker.bench.serve", "worker.bench.opening"])
def test_the_engine_is_measured_without_the_service_around_it(module: str) -> None:
    service = {"celery", "fastapi", "github", "openai", "redis", "sqlalchemy", "vllm"}
    assert imported_by(f"import {module}, worker.commands.bench").isdisjoint(service)


def test_the_check_would_notice() -> None:
    assert "celery" in imported_by("import celery")
