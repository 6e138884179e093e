"""A new version of the weights' directory, while runs are on their way: the real worker and the real vLLM, twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.engine.test_worker import ENGINE, STARTED, states
from tests.engine_contract import until
from tests.worker_processes import PROFILE, Service
from worker.adapters.engine.weights import revision
from worker.runs import workforce
from worker.store import trajectories
from worker.store.models import RunState, Spend
from worker.store.money import EngineTime
from worker.store.session import Store

pytestmark = pytest.mark.slow
RUNS = 3


@pytest.fixture
def service(database_url: str, redis_url: str, tiny_model: Path, tmp_path: Path) -> Iterator[Service]:
    tmp_path.chmod(0o711)
    model = shutil.copytree(tiny_model, tmp_path / "models" / "tiny")
    settings = {
        "MODEL": f"vllm:{model}",
        "ENGINE": json.dumps(ENGINE),
        "LIMITS": '{"steps": 3}',
        "SHUTDOWN_GRACE_SECONDS": "2",  # an answer of noise may take a minute: it is broken off, and paid
    }
    store = Store(database_url)
    service = Service(store, database_url, redis_url, tmp_path, settings)
    yield service
    service.close()
    store.close()


def replace_weights(model: Path) -> None:
    """As a new version lands: the same names and sizes, other values."""
    parameters = json.loads((model / "params.json").read_text())
    (model / "params.json").write_text(json.dumps({**parameters, "norm_eps": 2e-05}))


def served(service: Service) -> str:
    with service.store.transaction() as session:
        return next(seen.model or "" for seen in workforce.seen(session))


def test_a_swap_of_the_weights_loses_no_run_and_doubles_nothing(service: Service, tiny_model: Path) -> None:
    model = service.directory / "models" / "tiny"
    ready = lambda: states(service)[-1:] == ["running"]  # noqa: E731
    with service.worker("gpu", starting=lambda: until(ready, seconds=STARTED)) as process:
        before = served(service)
        assert f"; weights {revision(model)}" in before
        runs = [service.queue(number) for number in range(1, RUNS + 1)]
        until(lambda: any(service.run(run_id).calls for run_id in runs), seconds=STARTED)
        done = service.command(
            "drain", "--profile", PROFILE, "--within", "0", "--then", "restart", "--wait", patience=STARTED
        )
        assert "has ended" in done.stdout, done.stderr
        assert process.wait(60) == 1
    handed_back = [service.run(run_id) for run_id in runs]
    with service.store.transaction() as session:
        recorded = [trajectories.step_count(session, run_id) for run_id in runs]
    assert any(run.state is RunState.QUEUED and run.calls for run in handed_back), "one was under way"
    assert all((run.attempt, run.lease_owner) == (0, None) for run in handed_back)

    service.settings["LIMITS"] = (
        '{"steps": 1, "context_tokens": 3000}'  # noise ends by limits alone: here after seconds
    )
    replace_weights(model)
    assert revision(model) != revision(tiny_model)
    with service.worker("gpu", "second", starting=lambda: until(ready, seconds=STARTED)) as process:
        after = served(service)
        until(lambda: all(service.run(run_id).state is RunState.CONCLUDED for run_id in runs), seconds=STARTED)
        process.terminate()
        assert process.wait(60) == 0

    assert f"; weights {revision(model)}" in after
    with service.store.transaction() as session:
        for run_id, handed, earlier in zip(runs, handed_back, recorded, strict=True):
            run = service.run(run_id)
            sums = [func.count(), func.sum(Spend.prompt_tokens), func.sum(Spend.completion_tokens), func.sum(Spend.usd)]
            booked = session.execute(select(*sums).where(Spend.run_id == run_id)).one()
            assert tuple(booked) == (run.calls, run.prompt_tokens, run.completion_tokens, run.usd)
            made = trajectories.models(session, run_id)
            assert made.get(before, 0) == handed.calls, "who made each call stays as it was"
            if handed.state is RunState.QUEUED:
                assert made.get(after, 0) == run.calls - handed.calls > 0
                steps = [step.index for step in trajectories.steps(session, run_id)]
                assert steps == list(range(len(steps)))
                notes = [attempt.note or "" for attempt in trajectories.attempts(session, run_id)]
                assert ("another model" in notes[-1]) is bool(earlier)
        busy = session.scalar(select(func.sum(EngineTime.busy_seconds)))
        shares = session.scalar(select(func.sum(Spend.gpu_seconds)))
    assert busy == pytest.approx(shares, rel=0.02), "every second of both engines is some call's"
