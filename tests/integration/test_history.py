"""What a forecast goes by, from a real ledger."""

from __future__ import annotations

from agent.triage.forecast import ENOUGH, forecast
from agent.types import Price, Usage
from tests.factories import queue_run
from worker.runs import history, ledger, states
from worker.store.models import RunState


def ended(store, number, *, repository="acme/widgets", calls=2, state=RunState.CANCELLED):
    with store.transaction() as session:
        run_id = queue_run(session, number, repository=repository)
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="a", seconds=60)
        assert lease is not None
        assert lease.run_id == run_id
    for call in range(calls):
        with store.transaction() as session:
            usage = Usage(prompt=1_000, cached=400, completion=50, gpu_seconds=2.0)
            ledger.book(session, lease, call=call, profile="small-24b", model="m", usage=usage, cost=0.01, seconds=1.0)
    if state is not None:
        with store.transaction() as session:
            states.override(session, run_id, state)


def asked(store, repository="acme/widgets"):
    with store.transaction() as session:
        return history.fixes(session, repository)


def test_without_runs_there_is_nothing_to_go_by(store):
    assert asked(store) == ([], "all repositories")


def test_ended_runs_count_with_all_that_they_took(store):
    ended(store, 1, calls=3)
    ended(store, 2, calls=0)
    ended(store, 3, state=None)
    (only,), where = asked(store)
    assert (only.steps, only.usage.prompt, only.usage.gpu_seconds, where) == (3, 3_000, 6.0, "all repositories")


def test_a_repository_with_enough_runs_is_judged_by_its_own(store):
    for number in range(1, ENOUGH + 1):
        ended(store, number, calls=2)
    ended(store, 99, repository="acme/other", calls=9)
    past, where = asked(store, "Acme/Widgets")
    assert [one.steps for one in past] == [2] * ENOUGH
    found = forecast(past, Price(), where)
    assert found.based_on == f"{ENOUGH} runs of Acme/Widgets"
    assert found.gpu_seconds is not None
    assert found.gpu_seconds.middle == 4.0
    assert len(asked(store, "acme/other")[0]) == ENOUGH + 1
