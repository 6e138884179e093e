"""The sweep against a real Postgres: what it announces, how often, and that two of them do no harm."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update

from tests.factories import issue_request, queue_run
from worker import wakes
from worker.errors import Transient
from worker.periodic import Periodic
from worker.runs import requests, setups, states
from worker.store import queries
from worker.store.lanes import Lane, Permit
from worker.store.models import Delivery, DeliveryState, Run, RunState
from worker.sweep import Sweep

PROFILE = "small-24b"
BACKOFF = [30, 60, 120, 240, 480, 600, 600]


def sweep(store) -> list[wakes.Wake]:
    sent: list[wakes.Wake] = []
    Sweep(store=store, send=sent.append)()
    # How a run gets on is told at its issue besides, a few seconds after it changed: tests/integration/test_telling.py.
    return [wake for wake in sent if wake.task != wakes.TELL]


def queued(store, number: int = 1, **changes) -> UUID:
    with store.transaction() as session:
        return queue_run(session, number, **changes)


def claim(store):
    with store.transaction() as session:
        lease = states.claim_next(session, profile=PROFILE, owner="w", seconds=60, repository_slots=1000)
    assert lease is not None
    return lease


def concluded(store, number: int = 1, **values) -> UUID:
    queued(store, number)
    lease = claim(store)
    with store.transaction() as session:
        states.advance(session, lease, RunState.CONCLUDED, **values)
    return lease.run_id


def wait(store, row) -> int:
    """Seconds until the row is due again; then it is due at once."""
    with store.transaction() as session:
        left = session.scalar(select(row.publish_after - func.now()))
        session.execute(update(row).values(publish_after=func.now()))
    assert left is not None
    return round(left.total_seconds())


def test_many_queued_runs_need_one_permit_which_backs_off(store):
    for number in range(1, 6):
        queued(store, number)
    waits = []
    for _ in BACKOFF:
        assert sweep(store) == [wakes.permit(PROFILE)]
        assert sweep(store) == [], "it was announced just now"
        waits.append(wait(store, Permit))
    assert waits == pytest.approx(BACKOFF, abs=2)


def test_a_claim_and_a_run_that_is_queued_begin_the_back_off_anew(store):
    queued(store, 1)
    queued(store, 2)
    for begin_anew in (lambda: claim(store), lambda: queued(store, 3)):
        for expected in (30, 60):
            assert sweep(store) == [wakes.permit(PROFILE)]
            assert wait(store, Permit) == pytest.approx(expected, abs=2)
        begin_anew()
        assert sweep(store) == [wakes.permit(PROFILE)]
        assert wait(store, Permit) == pytest.approx(30, abs=2)
        with store.transaction() as session:
            session.execute(update(Permit).values(announced=0))


def test_what_can_not_be_claimed_is_not_announced(store):
    run_id = queued(store)
    for values in ({"held_reason": "budget"}, {"held_reason": None, "not_before": func.now() + timedelta(hours=1)}):
        with store.transaction() as session:
            session.execute(update(Run).where(Run.id == run_id).values(**values))
        assert sweep(store) == []
    with store.transaction() as session:
        session.execute(update(Run).values(not_before=None))
    assert sweep(store) == [wakes.permit(PROFILE)]


def test_a_repository_at_its_cap_is_not_announced(store):
    queued(store, 1)
    queued(store, 2)
    claim(store)
    sent: list[wakes.Wake] = []
    Sweep(store=store, send=sent.append, repository_slots=1)()
    assert sent == []


@pytest.mark.parametrize(
    ("values", "wake"), [({}, wakes.verify), ({"outcome": "fixed"}, wakes.deliver)], ids=["verify", "deliver"]
)
def test_a_concluded_run_is_driven_on_and_backs_off_until_somebody_takes_it(store, values, wake):
    run_id = concluded(store, **values)
    waits = []
    for _ in BACKOFF:
        assert sweep(store) == [wake(run_id)]
        waits.append(wait(store, Run))
    assert waits == pytest.approx(BACKOFF, abs=2)
    stage = "verify" if wake is wakes.verify else "deliver"
    with store.transaction() as session:
        lease = states.claim_stage(session, run_id, stage, owner="w", seconds=60)
        assert lease is not None
    assert sweep(store) == [], "somebody has it"
    with store.transaction() as session:
        states.hand_back_stage(session, lease, reason="later", wait=0, counts=False)
    assert sweep(store) == [wake(run_id)]
    assert wait(store, Run) == pytest.approx(30, abs=2)


def test_a_run_that_waits_for_its_set_up_backs_off(store):
    run_id = queued(store)
    with store.transaction() as session:
        session.execute(update(Run).values(held_reason=setups.HELD))
    waits = []
    for _ in BACKOFF[:3]:
        assert sweep(store) == [wakes.setup(run_id)]
        waits.append(wait(store, Run))
    assert waits == pytest.approx(BACKOFF[:3], abs=2)


def received(store, key: str = "guid-1") -> UUID:
    with store.transaction() as session:
        delivery_id = queries.insert_delivery(
            session,
            key=key,
            event="issues",
            action="labeled",
            body_sha256="0" * 64,
            request=issue_request().model_dump(mode="json"),
            state=DeliveryState.RECEIVED,
        )
        session.execute(update(Delivery).values(publish_after=func.now()))
    assert delivery_id is not None
    return delivery_id


def test_received_deliveries_are_driven_on_by_one_permit_and_back_off(store):
    received(store, "guid-1")
    received(store, "guid-2")
    waits = []
    for _ in BACKOFF[:3]:
        assert sweep(store) == [wakes.intake()]
        waits.append(wait(store, Delivery))
    assert waits == pytest.approx(BACKOFF[:3], abs=2)
    with store.transaction() as session:
        assert requests.claim_delivery(session, seconds=60) is not None
        assert requests.claim_delivery(session, seconds=60) is not None
    assert sweep(store) == [], "somebody has them"


def test_two_sweeps_at_once_announce_and_free_each_row_once(store):
    with store.transaction() as session:
        for number in range(1, 41):
            queue_run(session, number)
    leases = [claim(store) for _ in range(40)]
    with store.transaction() as session:
        for lease in leases[:20]:
            states.advance(session, lease, RunState.CONCLUDED, publish_after=func.now())
        lost = update(Run).where(Run.state == RunState.RUNNING)
        session.execute(lost.values(lease_expires_at=text("now() - interval '1 s'")))
        session.execute(text("DELETE FROM lanes"))
    barrier = threading.Barrier(4)

    def work(_) -> list[wakes.Wake]:
        barrier.wait()
        return sweep(store)

    with ThreadPoolExecutor(4) as pool:
        counts = Counter(wake for sent in pool.map(work, range(4)) for wake in sent)
    assert {wake.id for wake in counts if wake.task == wakes.VERIFY} == {lease.run_id for lease in leases[:20]}
    assert set(counts.values()) == {1}
    with store.transaction() as session:
        attempts = select(Run.attempt, func.count()).where(Run.state == RunState.QUEUED).group_by(Run.attempt)
        assert [tuple(row) for row in session.execute(attempts)] == [(1, 20)]
        assert session.scalar(select(func.count()).select_from(Lane)) == 1


def test_a_row_that_another_sweep_has_in_hand_is_left_to_it(store):
    run_id = concluded(store)
    with store.transaction() as session:
        assert queries.due_stages(session) == [(run_id, False)]
        assert sweep(store) == []


def test_a_periodic_action_survives_its_failures():
    calls, done = [], threading.Event()

    def action() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise Transient("the database is away")
        if len(calls) == 2:
            raise RuntimeError("a bug")
        done.set()

    periodic = Periodic("test", action, seconds=0.01)
    assert done.wait(20)
    periodic.close()
