"""The worker process with an engine of its own: how it starts, how it ends, and what becomes of its runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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


def spawned(process: subprocess.Popen[bytes]) -> bool:
    """Whether its engine's own process is there; others come and go before, that ask the machine what it is."""
    return any("spawn_main" in " ".join(one.cmdline()) for one in engine_of(process))


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_end_while_its_engine_starts_ends_at_once(
    service: Service, number: signal.Signals
) -> None:
    """The thread that starts an engine can't be told to stop; of a real model it would take minutes more."""
    log = (service.directory / "starting.log").open("wb")
    command = [sys.executable, "-m", "worker.cli", "work", "--role", "gpu"]
    with (
        log,
        subprocess.Popen(command, env=service.environment, cwd=service.directory, stdout=log, stderr=log) as process,
    ):
        try:
            until(lambda: spawned(process), seconds=STARTED)
            children = psutil.Process(process.pid).children(recursive=True)
            assert states(service) == ["starting"]
            started = time.monotonic()
            process.send_signal(number)
            assert process.wait(30) == 0
            took = time.monotonic() - started
        finally:
            process.kill()
    print(f"ended {took:.2f} s after {number.name}, with {len(children)} processes")
    assert took < 5
    until(lambda: gone(children), seconds=5)
    assert states(service) == ["stopped"]


def test_a_model_that_does_not_start_is_a_clear_refusal(service: Service) -> None:
    service.settings["ENGINE"] = json.dumps({**ENGINE, "max_model_len": 32_768, "block_size": 16})
    done = service.command("work", "--role", "gpu", patience=STARTED)
    assert done.returncode == 2, done.stderr
    said = "vLLM does not start tiny: ValueError: No common block size for 16"
    assert said in done.stderr.splitlines()[-1]
    with service.store.transaction() as session:
        (seen,) = workforce.seen(session)
    assert (seen.state, (seen.failure or "").startswith(said)) == ("failed", True)


def test_an_engine_that_fails_on_its_way_may_be_tried_again(service: Service) -> None:
    """vLLM says it in the same way when another process still holds the memory."""
    service.settings["ENGINE"] = json.dumps({**ENGINE, "kv_cache_memory_bytes": 1 << 10})
    done = service.command("work", "--role", "gpu", patience=STARTED)
    assert done.returncode == 3, done.stderr
    assert "vLLM does not start tiny: ValueError: " in done.stderr.splitlines()[-1]
    assert "memory" in done.stderr.splitlines()[-1]
