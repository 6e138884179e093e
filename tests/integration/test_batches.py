"""Batches: finished in the transaction of their last run, also when two runs are last at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from agent.outcome import Outcome
from agent.types import Usage
from tests.factories import queue_run
from tests.integration.test_budgets import _until_someone_waits
from worker.runs import batches, ledger, states
from worker.store.models import Batch, RunState


@pytest.fixture
def batch(store):
    with store.transaction() as session:
        return batches.create(session, name="backlog", by="octo", budget=Decimal(5)).id


def finished(store, batch) -> bool:
    with store.transaction() as session:
        return session.get_one(Batch, batch).finished_at is not None


def end(session, run_id) -> None:
    states.override(session, run_id, RunState.CANCELLED)


def test_a_batch_is_finished_with_its_last_run_and_again_when_it_grew(store, batch):
    with store.transaction() as session:
        runs = [queue_run(session, number, batch_id=batch) for number in (1, 2)]
        queue_run(session, 3)
    for run_id in runs:
        assert not finished(store, batch)
        with store.transaction() as session:
            end(session, run_id)
    assert finished(store, batch)
    with store.transaction() as session:
        queue_run(session, 4, batch_id=batch)
    assert not finished(store, batch)
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="a", seconds=-1)
        while lease is not None:
            lease = states.claim_next(session, profile="small-24b", owner="a", seconds=-1)
    for _ in range(3):
        with store.transaction() as session:
            states.expire(session)
            while states.claim_next(session, profile="small-24b", owner="a", seconds=-1) is not None:
                pass
    assert finished(store, batch), "given up by the sweep is an end, too"


def test_of_two_last_runs_that_end_at_once_one_finishes_the_batch(store, batch):
    with store.transaction() as session:
        first, second = (queue_run(session, number, batch_id=batch) for number in (1, 2))

    def end_second() -> None:
        with store.transaction() as session:
            end(session, second)

    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as session:
            end(session, first)
            waiting = pool.submit(end_second)
            _until_someone_waits(store)
        waiting.result(timeout=20)
    assert finished(store, batch)


def test_totals_of_a_batch(store, batch):
    with store.transaction() as session:
        for number in (1, 2):
            queue_run(session, number, batch_id=batch)
        lease = states.claim_next(session, profile="small-24b", owner="a", seconds=60)
        ledger.book(session, lease, call=0, usage=Usage(prompt=10), cost=0.5, seconds=1, profile="small-24b", model="m")
        states.advance(session, lease, RunState.CONCLUDED, outcome=Outcome.FIXED)
    with store.transaction() as session:
        data = batches.totals(session, session.get_one(Batch, batch))
    assert (data["runs"], data["outcomes"]) == ({"concluded": 1, "queued": 1}, {"fixed": 1})
    assert (data["spent_usd"], data["budget_usd"], data["calls"], data["used_up"]) == (0.5, 5.0, 1, False)
