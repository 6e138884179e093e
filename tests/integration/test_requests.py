"""Starting and cancelling runs against a real Postgres."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.factories import COMMIT, issue_request, queue_run
from worker.runs import requests, states
from worker.runs.states import IllegalTransition
from worker.store import queries
from worker.store.models import Delivery, DeliveryState, Run, RunState


def start(store, **changes):
    with store.transaction() as session:
        return requests.start(
            session,
            issue_request(**changes),
            clone_url="u",
            base_branch="main",
            base_commit=COMMIT,
            profile="small-24b",
            max_attempts=3,
            repository_config={},
        )


def test_racing_requests_for_one_issue_make_one_run(store):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: start(store), range(16)))
    assert len({run_id for run_id, _ in results}) == 1
    assert sum(created for _, created in results) == 1


def test_an_ended_run_makes_room_for_another(store):
    first, _ = start(store)
    with store.transaction() as session:
        states.override(session, first, RunState.CANCELLED)
    second, created = start(store)
    assert created
    assert second != first


def test_the_text_is_frozen_and_storable(store):
    run_id, _ = start(store, title="a\x00", body="lone \ud800 surrogate")
    with store.transaction() as session:
        run = session.get_one(Run, run_id)
        assert "\x00" not in run.issue_title
        assert run.issue_body == "lone ? surrogate"


def test_cancelling_a_queued_run_ends_it_and_a_running_one_is_asked(store):
    with store.transaction() as session:
        waiting, running = queue_run(session, 1), queue_run(session, 2)
    with store.transaction() as session:
        assert requests.cancel(session, waiting, by="ann") is RunState.CANCELLED
    with store.transaction() as session:
        assert states.claim_next(session, profile="small-24b", owner="a", seconds=60) is not None
    with store.transaction() as session:
        assert requests.cancel(session, running, by="ann") is RunState.RUNNING
        assert session.get_one(Run, running, populate_existing=True).cancel_requested == "ann"
    with pytest.raises(IllegalTransition), store.transaction() as session:
        requests.cancel(session, uuid4(), by="ann")


def delivery(store, key="guid-1"):
    with store.transaction() as session:
        return queries.insert_delivery(
            session,
            key=key,
            event="issues",
            action="labeled",
            body_sha256="0" * 64,
            request=issue_request().model_dump(mode="json"),
            state=DeliveryState.RECEIVED,
        )


def test_a_delivery_is_stored_once(store):
    assert delivery(store) is not None
    assert delivery(store) is None


def test_a_delivery_is_handled_by_one_and_freed_later(store):
    delivery_id = delivery(store)
    with store.transaction() as session:
        claimed = requests.claim_delivery(session, seconds=60)
        assert claimed is not None
        assert claimed.id == delivery_id
    with store.transaction() as session:
        assert requests.claim_delivery(session, seconds=60) is None
    with store.transaction() as session:
        requests.postpone_delivery(session, delivery_id, reason="GitHub is away", seconds=-1)
    with store.transaction() as session:
        again = requests.claim_delivery(session, seconds=60)
        assert again is not None
        assert again.attempt == 2
        requests.finish_delivery(session, delivery_id, DeliveryState.IGNORED, reason="closed")
    with store.transaction() as session:
        assert requests.claim_delivery(session, seconds=60) is None
        row = session.get_one(Delivery, delivery_id)
        assert (row.state, row.reason) == (DeliveryState.IGNORED, "closed")


def test_the_sweep_finds_what_nobody_picked_up_and_not_at_once_again(store):
    delivery_id = delivery(store)
    with store.transaction() as session:
        assert queries.due_deliveries(session) == [], "the publisher has a head start"
    with store.transaction() as session:
        session.get_one(Delivery, delivery_id).publish_after = session.get_one(Delivery, delivery_id).received_at
    with store.transaction() as session:
        assert queries.due_deliveries(session) == [delivery_id]
    with store.transaction() as session:
        assert queries.due_deliveries(session) == []
