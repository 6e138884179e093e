"""The state machine against a real Postgres: who may move a run, and that two never hold one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import IntegrityError

from tests.factories import queue_run
from worker.errors import LeaseLost
from worker.runs import states
from worker.runs.priorities import Priority
from worker.runs.states import IllegalTransition, Lease
from worker.store.models import Run, RunState
from worker.store.session import Store


def claim(store: Store, owner: str = "a", *, profile: str = "small-24b", seconds: float = 60) -> Lease | None:
    with store.transaction() as session:
        return states.claim_next(session, profile=profile, owner=owner, seconds=seconds, repository_slots=20)


def held(store: Store, owner: str = "a", **kwargs: float) -> Lease:
    lease = claim(store, owner, **kwargs)  # type: ignore[arg-type]
    assert lease is not None
    return lease


def state_of(store: Store, run_id: UUID) -> RunState:
    with store.transaction() as session:
        return session.get_one(Run, run_id).state


def advance(store: Store, lease: Lease, to: RunState, **values: object) -> None:
    with store.transaction() as session:
        states.advance(session, lease, to, **values)


def expire_lease(store: Store, run_id: UUID) -> None:
    with store.transaction() as session:
        session.execute(update(Run).where(Run.id == run_id).values(lease_expires_at=text("now() - interval '1 s'")))


def queued(store: Store, number: int = 1, **changes: object) -> UUID:
    with store.transaction() as session:
        return queue_run(session, number, **changes)  # type: ignore[arg-type]


def test_claim_takes_the_run_and_hands_out_a_token(store):
    run_id = queued(store)
    lease = held(store)
    assert lease.run_id == run_id
    assert lease.token == 1
    assert state_of(store, run_id) is RunState.RUNNING
    assert claim(store, "b") is None


def test_claim_returns_nothing_for_another_profile(store):
    queued(store)
    assert claim(store, profile="large-123b") is None


def test_claim_honours_priority_then_the_idle_repository_then_age(store):
    first = queued(store, 1, priority=Priority.BATCH)
    queued(store, 2, priority=Priority.BATCH)
    elsewhere = queued(store, 3, repository="acme/other", priority=Priority.BATCH)
    urgent = queued(store, 4)
    assert held(store).run_id == urgent
    assert held(store).run_id == first
    assert held(store).run_id == elsewhere, "acme/textkit had its turn"


@pytest.mark.parametrize(
    "values", [{"held_reason": "setup"}, {"not_before": text("now() + interval '1 h'")}], ids=["held", "not_before"]
)
def test_claim_leaves_a_run_that_waits(store, values):
    run_id = queued(store)
    with store.transaction() as session:
        session.execute(update(Run).where(Run.id == run_id).values(**values))
    assert claim(store) is None


def test_many_workers_never_take_the_same_run(store):
    runs = {queued(store, n) for n in range(1, 21)}
    barrier = threading.Barrier(8)

    def work(name: int) -> list[UUID]:
        barrier.wait()
        leases = [claim(store, f"w{name}") for _ in range(20)]
        return [lease.run_id for lease in leases if lease is not None]

    with ThreadPoolExecutor(8) as pool:
        taken = [run_id for result in pool.map(work, range(8)) for run_id in result]
    assert len(taken) == len(set(taken))
    assert set(taken) == runs


def test_a_worker_with_an_old_token_moves_nothing(store):
    run_id = queued(store)
    old = held(store)
    expire_lease(store, run_id)
    with store.transaction() as session:
        assert states.expire(session) == [(run_id, RunState.QUEUED)]
    new = held(store, "b")
    with pytest.raises(LeaseLost):
        advance(store, old, RunState.CONCLUDED)
    with pytest.raises(LeaseLost), store.transaction() as session:
        states.write(session, old, summary="late")
    assert state_of(store, run_id) is RunState.RUNNING
    advance(store, new, RunState.CONCLUDED)
    assert state_of(store, run_id) is RunState.CONCLUDED


def test_an_operators_write_fences_the_worker_out(store):
    run_id = queued(store)
    lease = held(store)
    with store.transaction() as session:
        states.override(session, run_id, RunState.CANCELLED)
    with pytest.raises(LeaseLost):
        advance(store, lease, RunState.CONCLUDED)
    assert state_of(store, run_id) is RunState.CANCELLED


@pytest.mark.parametrize("source", list(RunState))
@pytest.mark.parametrize("to", list(RunState))
def test_override_follows_the_table(store, source, to):
    run_id = queued(store)
    with store.transaction() as session:
        session.execute(update(Run).where(Run.id == run_id).values(state=source, lease_owner="a"))
    if to in states.TRANSITIONS[source]:
        with store.transaction() as session:
            states.override(session, run_id, to, **({"lease_owner": "b"} if to is RunState.RUNNING else {}))
        assert state_of(store, run_id) is to
    else:
        with pytest.raises(IllegalTransition), store.transaction() as session:
            states.override(session, run_id, to)
        assert state_of(store, run_id) is source


def test_expired_leases_count_attempts_and_the_last_one_fails(store):
    run_id = queued(store)
    for attempt in (1, 2):
        held(store)
        expire_lease(store, run_id)
        with store.transaction() as session:
            assert states.expire(session) == [(run_id, RunState.QUEUED)]
        with store.transaction() as session:
            assert session.get_one(Run, run_id).attempt == attempt
    held(store)
    expire_lease(store, run_id)
    with store.transaction() as session:
        assert states.expire(session) == [(run_id, RunState.FAILED)]
    with store.transaction() as session:
        run = session.get_one(Run, run_id)
        assert run.finished_at is not None
        assert "given up" in (run.reason or "")


def test_a_live_lease_is_not_expired(store):
    queued(store)
    held(store)
    with store.transaction() as session:
        assert states.expire(session) == []


def test_stages_are_claimed_in_order_and_by_one(store):
    run_id = queued(store)
    advance(store, held(store), RunState.CONCLUDED)

    def stage(name: str) -> Lease | None:
        with store.transaction() as session:
            return states.claim_stage(session, run_id, name, owner="s", seconds=60)  # type: ignore[arg-type]

    assert stage("deliver") is None, "nothing to deliver before there is an outcome"
    verifying = stage("verify")
    assert verifying is not None
    assert stage("verify") is None
    with store.transaction() as session:
        states.finish_verify(session, verifying, outcome="fixed")
    assert stage("verify") is None
    delivering = stage("deliver")
    assert delivering is not None
    assert stage("deliver") is None
    advance(store, delivering, RunState.DELIVERED)
    assert stage("deliver") is None


def test_the_database_refuses_a_second_live_run_of_an_issue(store):
    run_id = queued(store)
    with store.transaction() as session:
        values = {c.name: getattr(session.get_one(Run, run_id), c.name) for c in Run.__table__.columns}
    values.pop("id")
    with pytest.raises(IntegrityError), store.transaction() as session:
        session.add(Run(**values))


def test_the_database_refuses_an_unknown_state_and_a_running_run_without_owner(store):
    run_id = queued(store)
    for bad in ("state = 'asleep'", "state = 'running'"):
        with pytest.raises(IntegrityError), store.transaction() as session:
            session.execute(text(f"UPDATE runs SET {bad} WHERE id = :id"), {"id": run_id})
