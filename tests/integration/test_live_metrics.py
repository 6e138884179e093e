"""What the database knows of the queue, as metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from sqlalchemy import update

from tests.factories import queue_run
from worker.observe.live import Cancelled, Live, Queue, deliveries
from worker.runs import requests, states, workforce
from worker.runs.priorities import Priority
from worker.store.models import Run, RunState
from worker.store.session import Store


def live(store: Store, *, fresh: float = 0.0) -> Live:
    return Live(store, [Queue("small-24b"), Cancelled(), deliveries], fresh=fresh)


def values(asked: Live) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(asked)
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_the_queue_s_depth_and_age(store: Store) -> None:
    with store.transaction() as session:
        for number in (1, 2, 3):
            queue_run(session, number)
        lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
        assert lease is not None
    shown = values(live(store))
    assert shown["devstral_fix_queue_depth['10', 'none', 'small-24b']"] == 2
    assert 0 <= shown["devstral_fix_queue_age_seconds['10', 'none', 'small-24b']"] < 60
    assert shown["devstral_fix_runs_live['fix', 'running', 'small-24b']"] == 1
    assert shown["devstral_fix_runs_live['fix', 'queued', 'small-24b']"] == 2
    assert shown["devstral_fix_database_up[]"] == 1
    assert shown["devstral_fix_deliveries_waiting[]"] == 0


def test_an_empty_queue_is_a_zero_and_not_a_gap(store: Store) -> None:
    asked = live(store)
    assert values(asked)["devstral_fix_queue_depth['10', 'none', 'small-24b']"] == 0
    with store.transaction() as session:
        run_id = queue_run(session, profile="large-123b", priority=Priority.BATCH)
        session.execute(update(Run).values(held_reason="setup"))
    name = "devstral_fix_queue_depth['0', 'large-123b', 'setup']"
    assert values(asked)[name] == 1
    with store.transaction() as session:
        requests.cancel(session, run_id, by="test")
        about = {"role": "gpu", "queues": ["q"], "slots": 2, "isolation": "basic", "version": "1", "lease_seconds": 60}
        workforce.register(session, "host:1", profile="third", **about)
    shown = values(asked)
    assert shown[name] == 0
    assert shown[name.replace("depth", "age_seconds")] == 0
    assert shown["devstral_fix_runs_live['fix', 'large-123b', 'queued']"] == 0
    assert shown["devstral_fix_queue_depth['10', 'none', 'third']"] == 0


def test_runs_cancelled_while_they_waited_are_counted_once_and_those_a_worker_ended_are_not(store: Store) -> None:
    with store.transaction() as session:
        before, waiting, held, working = (queue_run(session, number) for number in (1, 2, 3, 4))
    with store.transaction() as session:
        requests.cancel(session, before, by="test")
    asked = live(store)
    values(asked)
    with store.transaction() as session:
        requests.cancel(session, waiting, by="test")
        lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
        assert lease is not None
        assert lease.run_id == held
    with store.transaction() as session:  # given back after it was asked for: the sweep ends it
        requests.cancel(session, held, by="test")
        states.advance(session, lease, RunState.QUEUED)
        assert requests.end_cancelled(session) == [held]
        lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
        assert lease is not None
        assert lease.run_id == working
    with store.transaction() as session:
        states.advance(session, lease, RunState.CANCELLED)
    name = "devstral_fix_runs_ended_total['cancelled', 'fix', 'none', 'small-24b']"
    assert [values(asked)[name] for _ in range(2)] == [2, 2]


def test_many_scrapes_ask_once(store: Store) -> None:
    registry = CollectorRegistry()
    registry.register(live(store, fresh=600))
    first = list(registry.collect())
    with store.transaction() as session:
        run_id = queue_run(session)
    assert list(registry.collect()) == first
    with store.transaction() as session:
        requests.cancel(session, run_id, by="test")


def test_a_database_that_is_away_is_shown_as_that() -> None:
    away = Store("postgresql+psycopg://nobody@127.0.0.1:1/none")
    assert values(live(away)) == {"devstral_fix_database_up[]": 0}
    away.close()
