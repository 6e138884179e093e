"""The worker process with an engine of its own: how it starts, how it ends, and what becomes of its runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.engine_contract import until
from tests.worker_processes import Service
from worker.runs import workforce
from worker.store.models import RunState
from worker.store.session import Store

pytestmark = pytest.mark.slow
STARTED = 180.0  # seconds

ENGINE = {
    "kv_cache_dtype": "auto",
    "gpu_memory_utilization": None,
    "kv_offloading_gib": None,
    "kv_cache_memory_bytes": 64 << 20,
    "max_num_seqs": 32,
    "block_size": 32,
    "enforce_eager": True,
    "dummy_weights": True,
    "extra": {"dtype": "bfloat16", "distributed_executor_backend": "uni"},
}


@pytest.fixture
def service(database_url: str, redis_url: str, tiny_model: Path, tmp_path: Path) -> Iterator[Service]:
    tmp_path.chmod(0o711)
    settings = {"MODEL": f"vllm:{tiny_model}", "ENGINE": json.dumps(ENGINE), "LIMITS": '{"steps": 3}'}
    store = Store(database_url)
    service = Service(store, database_url, redis_url, tmp_path, settings)
    yield service
    service.close()
    store.close()


def states(service: Service) -> list[str]:
    with service.store.transaction() as session:
        return [seen.state for seen in workforce.seen(session, every=True)]


def engine_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A worker's descendants, less Python's own helper for shared memory."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [one for one in found if "resource_tracker" not in " ".join(one.cmdline())]


def gone(these: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in these)


def test_a_worker_starts_its_engine_before_it_takes_a_run_and_ends_it_when_asked(service: Service) -> None:
    run_id = service.queue()
    seen: list[str] = []

    def known() -> bool:
        seen.extend(states(service))
        return "running" in seen

    with service.worker("gpu", starting=lambda: until(known, seconds=STARTED)) as process:
        assert "starting" in seen
        children = engine_of(process)
        assert children
        until(lambda: service.run(run_id).state is RunState.CONCLUDED, seconds=STARTED)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    until(lambda: gone(children), seconds=20)
    run = service.run(run_id)
    assert run.model is not None
    assert run.model.startswith("vllm:tiny, dummy weights (vllm 0.32.0")
    assert run.calls > 0
    assert states(service) == ["stopped"]


def test_a_worker_whose_engine_dies_hands_its_run_back_and_asks_to_be_started_again(service: Service) -> None:
    with service.worker(
        "gpu", starting=lambda: until(lambda: "running" in states(service), seconds=STARTED)
    ) as process:
        children = engine_of(process)
        run_id = service.queue()
        until(lambda: service.run(run_id).calls > 0, seconds=STARTED)
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        assert process.wait(90) == 1
    run = service.run(run_id)
    assert (run.state, run.attempt, run.lease_owner) == (RunState.QUEUED, 0, None)


def test_an_engine_does_not_outlive_a_worker_that_was_killed(service: Service) -> None:
    with service.worker(
        "gpu", starting=lambda: until(lambda: "running" in states(service), seconds=STARTED)
    ) as process:
        children = engine_of(process)
        assert children
        process.kill()
        process.wait(10)
    until(lambda: gone(children), seconds=30)


def test_a_model_that_does_not_start_is_a_clear_refusal(service: Service) -> None:
    service.settings["ENGINE"] = json.dumps({**ENGINE, "max_model_len": 32_768, "block_size": 16})
    done = service.command("work", "--role", "gpu", patience=STARTED)
    assert done.returncode == 2, done.stderr
    assert "vLLM does not start tiny" in done.stderr
