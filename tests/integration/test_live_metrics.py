"""What the database knows of the queue, as metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from tests.factories import queue_run
from worker.observe.live import Live
from worker.runs import requests, states
from worker.store.session import Store


def values(store: Store, *, fresh: float = 0.0) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(Live(store, fresh=fresh))
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
    shown = values(store)
    assert shown["devstral_fix_queue_depth['10', 'none', 'small-24b']"] == 2
    assert 0 <= shown["devstral_fix_queue_age_seconds['10', 'none', 'small-24b']"] < 60
    assert shown["devstral_fix_runs_live['fix', 'running', 'small-24b']"] == 1
    assert shown["devstral_fix_runs_live['fix', 'queued', 'small-24b']"] == 2
    assert shown["devstral_fix_database_up[]"] == 1
    assert shown["devstral_fix_deliveries_waiting[]"] == 0


def test_many_scrapes_ask_once(store: Store) -> None:
    registry = CollectorRegistry()
    live = Live(store, fresh=600)
    registry.register(live)
    first = list(registry.collect())
    with store.transaction() as session:
        run_id = queue_run(session)
    assert list(registry.collect()) == first
    with store.transaction() as session:
        requests.cancel(session, run_id, by="test")


def test_a_database_that_is_away_is_shown_as_that() -> None:
    away = Store("postgresql+psycopg://nobody@127.0.0.1:1/none")
    assert values(away) == {"devstral_fix_database_up[]": 0}
    away.close()
