"""A worker's model is swapped: drained, ended and started again in real processes, while runs are on their way."""

from __future__ import annotations

import json
import threading
from decimal import Decimal

import pytest
from sqlalchemy import select

from tests.fake_openai_server import FakeOpenAIServer, Reply
from tests.worker_processes import PROFILE, wait_until
from worker.store.models import RunState, Spend
from worker.store.steps import Step

LOOK = Reply(calls=((None, "bash", json.dumps({"command": "cat README.md"})),))
DONE = Reply(content="done")  # said twice, of a workspace without a change
SETTINGS = {"GPU_SLOTS": "1"}


def serve(service, server, *, model: str, price: str = "1") -> None:
    service.settings |= {
        "MODEL": f"openai:{server.url}#{model}",
        "PRICE": json.dumps({"prompt": price, "cached": price, "completion": price}),
    }


def drain(service, *options: str) -> None:
    done = service.command("drain", "--profile", PROFILE, *options)
    assert done.returncode == 0, done.stderr


def ledger(service, run_id) -> list[tuple[str, int, int, Decimal]]:
    with service.store.transaction() as session:
        columns = (Spend.model, Spend.prompt_tokens, Spend.completion_tokens, Spend.usd)
        rows = session.execute(select(*columns).where(Spend.run_id == run_id).order_by(Spend.id))
        return [tuple(row) for row in rows]


def steps(service, run_id) -> list[tuple[int, int]]:
    with service.store.transaction() as session:
        rows = session.execute(select(Step.lease_token, Step.index).where(Step.run_id == run_id).order_by(Step.id))
        return [tuple(row) for row in rows]


def test_a_draining_worker_finishes_its_run_and_takes_no_other_of_its_queue(service):
    """Its slot claims until nothing is left, so a message that is not fetched does not stop it."""
    going_on = threading.Event()
    with FakeOpenAIServer(Reply(content="done", after=going_on), DONE) as server:
        serve(service, server, model="a")
        first, second = service.queue(1), service.queue(2)
        with service.worker("gpu"):
            wait_until(lambda: server.requests)
            drain(service)
            wait_until(lambda: '"draining"' in (service.directory / "worker.log").read_text())
            going_on.set()
            drain(service, "--wait")
            assert [service.run(run_id).state for run_id in (first, second)] == [RunState.CONCLUDED, RunState.QUEUED]
            assert len(server.requests) == 2


@pytest.mark.slow
def test_a_swap_that_does_not_wait_costs_no_step_when_the_model_stays(service):
    """New options, a new version of the service: the run goes on where it was handed back, nothing is asked twice."""
    in_step = threading.Event()
    with FakeOpenAIServer(LOOK, Reply(calls=LOOK.calls, after=in_step), LOOK, DONE, DONE) as server:
        serve(service, server, model="a")
        run_id = service.queue()
        with service.worker("gpu") as process:
            wait_until(lambda: len(server.requests) == 2)
            drain(service, "--within", "0", "--then", "restart")
            wait_until(lambda: '"drained"' in (service.directory / "worker.log").read_text())
            in_step.set()
            assert process.wait(60) == 1, "whoever supervises it starts it again"
        run = service.run(run_id)
        assert (run.state, run.attempt, run.lease_owner) == (RunState.QUEUED, 0, None)
        assert [index for _, index in steps(service, run_id)] == [0, 1]
        with service.worker("gpu", "second"):
            wait_until(lambda: service.run(run_id).state is RunState.CONCLUDED)
        assert len(server.requests) == 5
    run = service.run(run_id)
    assert (run.attempt, run.calls) == (0, 5)
    assert [index for _, index in steps(service, run_id)] == [0, 1, 2, 3, 4]
    assert len({token for token, _ in steps(service, run_id)}) == 2
    booked = ledger(service, run_id)
    assert len(booked) == 5
    assert sum(row[3] for row in booked) == run.usd


@pytest.mark.slow
def test_another_model_begins_anew_and_each_call_keeps_the_price_of_who_made_it(service):
    in_step = threading.Event()
    with FakeOpenAIServer(LOOK, Reply(calls=LOOK.calls, after=in_step), LOOK, DONE, DONE) as server:
        serve(service, server, model="a", price="1")
        run_id = service.queue()
        with service.worker("gpu") as process:
            wait_until(lambda: len(server.requests) == 2)
            drain(service, "--within", "0", "--then", "stop")
            wait_until(lambda: '"drained"' in (service.directory / "worker.log").read_text())
            in_step.set()
            assert process.wait(60) == 0
        serve(service, server, model="b", price="10")
        listed = service.command("runs", "list")
        assert f"no worker serves profile {PROFILE}: 1 run waits" in listed.stderr
        with service.worker("gpu", "second"):
            (there,) = json.loads(service.command("workers", "list", "--json").stdout)
            wait_until(lambda: service.run(run_id).state is RunState.CONCLUDED)
    assert (there["model"].startswith("openai:") and "#b" in there["model"]) or "b" in there["model"]
    booked = ledger(service, run_id)
    assert [model == there["model"] for model, *_ in booked] == [False, False, True, True, True]
    per_token = [usd / (prompt + completion) * 1_000_000 for _, prompt, completion, usd in booked]
    assert per_token == [1, 1, 10, 10, 10]
    assert [body["model"] for _, body in server.requests] == ["a", "a", "b", "b", "b"]
    run = service.run(run_id)
    assert (run.attempt, run.calls, run.usd) == (0, 5, sum(row[3] for row in booked))
    assert [index for _, index in steps(service, run_id)] == [0, 1, 0, 1, 2]
    shown = service.command("runs", "show", str(run_id)).stdout
    assert "began anew: the steps before were made by another model" in shown
