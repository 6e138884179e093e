"""Leases kept alive from one thread, and given up by the process's own clock when nobody can say that they are held."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import event, func, select, update

from tests.factories import queue_run
from worker.clock import own_clock
from worker.errors import LeaseLost
from worker.heartbeat import Heartbeat
from worker.runs import requests, states
from worker.store.models import Run
from worker.store.session import Store

NOBODY = "postgresql+psycopg://nobody@127.0.0.1:1/none"


def claimed(store: Store, number: int = 1, *, seconds: float = 60) -> states.Lease:
    with store.transaction() as session:
        queue_run(session, number)
    with store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="a", seconds=seconds)
    assert lease is not None
    return lease


def left(store: Store, lease: states.Lease) -> float:
    with store.transaction() as session:
        span = session.scalar(select(Run.lease_expires_at - func.now()).where(Run.id == lease.run_id))
    assert span is not None
    return span.total_seconds()


@pytest.fixture
def heartbeat(store):
    """Beats only when a test says so."""
    made = Heartbeat(store, seconds=3600)
    yield made
    made.close()


@pytest.fixture
def listening():
    """Listen to the shared engine until the test ends."""
    heard = []

    def listen(*what):
        event.listen(*what)
        heard.append(what)

    yield listen
    for what in heard:
        event.remove(*what)


def test_one_statement_renews_all_and_tells_which_were_lost(store, heartbeat, listening):
    """Red without the token in the statement: the lost one would be renewed for its new owner."""
    leases = [claimed(store, n) for n in range(1, 6)]
    taken, cancelled = leases[1], leases[3]
    with store.transaction() as session:
        session.execute(update(Run).where(Run.id == taken.run_id).values(lease_token=Run.lease_token + 1))
        requests.cancel(session, cancelled.run_id, by="ann")
    statements: list[str] = []
    listening(store.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    holds = [heartbeat.hold(lease) for lease in leases]
    holdings = [hold.__enter__() for hold in holds]
    statements.clear()
    heartbeat.beat()
    assert len([s for s in statements if "UPDATE" in s]) == len(statements) == 1
    for holding in holdings:
        if holding.lease is taken:
            assert holding.cancel.is_set()
            with pytest.raises(LeaseLost, match="another worker"):
                holding.check()
        else:
            holding.check()
            assert left(store, holding.lease) > 3000
    assert left(store, taken) < 61
    assert [h.cancelled_by for h in holdings] == [None, None, None, "ann", None]
    for hold in holds:
        hold.__exit__(None, None, None)
    statements.clear()
    heartbeat.beat()
    assert statements == [], "nothing is held, nothing is asked"


def test_the_database_gone_for_a_lease_means_that_it_is_lost(store):
    """Red without the lease-clock: the holding would never be told."""
    store_gone = Store(NOBODY)
    heartbeat = Heartbeat(store_gone, seconds=1.0)
    lease = claimed(store, seconds=1.0)
    with heartbeat.hold(lease) as holding:
        assert holding.cancel.wait(30), "a command and a model call are interrupted by this event"
        with pytest.raises(LeaseLost, match="could not be renewed"):
            holding.check()
        assert own_clock() >= lease.since + 1.0
    heartbeat.close()
    store_gone.close()


def test_a_beat_that_hangs_in_the_database_keeps_nobody_from_hearing_of_it(store):
    hanging, release = threading.Event(), threading.Event()

    class Hanging:
        def transaction(self):
            hanging.set()
            release.wait(60)
            raise AssertionError("over")

    heartbeat = Heartbeat(Hanging(), seconds=0.9)  # type: ignore[arg-type]  # only this much of a store
    with heartbeat.hold(claimed(store, seconds=0.9)) as holding:
        assert hanging.wait(30)
        assert holding.cancel.wait(30)
    release.set()
    heartbeat.close()


def test_a_dead_engine_does_not_beat_and_what_it_holds_is_given_up(store):
    """Red without asking `healthy`."""
    alive = threading.Event()
    alive.set()
    heartbeat = Heartbeat(store, seconds=2.0)
    heartbeat.only_while(alive.is_set)
    lease = claimed(store, seconds=2.0)
    with heartbeat.hold(lease) as holding:
        before = holding.until
        heartbeat.beat()
        assert holding.until > before
        alive.clear()
        heartbeat.beat()
        assert holding.cancel.wait(30)
        with pytest.raises(LeaseLost):
            holding.check()
    heartbeat.close()
    assert left(store, lease) < 1, "not renewed since, as the database counts it; the own clock is a moment ahead"


def test_it_beats_while_a_trajectory_blocks(store, listening):
    beats = threading.Semaphore(0)
    listening(store.engine, "commit", lambda _: beats.release())
    heartbeat = Heartbeat(store, seconds=1.5)
    with heartbeat.hold(claimed(store, seconds=1.5)) as holding:
        while beats.acquire(blocking=False):
            pass
        for _ in range(6):  # twice the lease, by beats and not by a wait
            assert beats.acquire(timeout=30)
        holding.check()
    heartbeat.close()


def test_the_span_of_a_lease_begins_before_the_database_counts_it(store):
    before = own_clock()
    lease = claimed(store)
    assert before <= lease.since <= own_clock()
