"""How quickly runs are claimed: with idle slots, in a burst, and out of a long queue."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.orm import Session

from worker import queue, wakes
from worker.bench.records import Figure, figure, percentile
from worker.queue import Publisher
from worker.runs import queue_position, requests, states
from worker.runs.asked import IssueRequest
from worker.store import lanes
from worker.store.base import Base
from worker.store.models import Run, RunState
from worker.store.session import Store
from worker.sweep import Sweep

PROFILE = "small-24b"
QUEUED, THREADS, CLAIMS_EACH = 10_000, 8, 40
BURST = 50
RUNS = Base.metadata.tables[Run.__tablename__]


def queued(
    session: Session, number: int, *, repository: str = "acme/bench", commit: str = "0" * 40, attempts: int = 1
) -> UUID:
    """A queued run that anybody with a worker may claim."""
    request = IssueRequest(
        repository=repository,
        installation_id=None,
        issue_number=number,
        title="bench",
        body="",
        issue_url="",
        sender="bench",
        sender_type="User",
        label="devstral-fix",
    )
    run_id, _ = requests.start(
        session,
        request,
        clone_url="",
        base_branch="main",
        base_commit=commit,
        profile=PROFILE,
        max_attempts=attempts,
        repository_config={},
    )
    return run_id


def _until(store: Store, run_ids: Sequence[UUID], count: int, *, seconds: float = 30) -> None:
    """Wait until a worker took at least `count` of these runs."""
    taken = select(func.count()).select_from(Run).where(Run.id.in_(run_ids), Run.started_at.is_not(None))
    deadline = time.monotonic() + seconds
    while True:
        with store.transaction() as session:
            if (session.scalar(taken) or 0) >= count:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"no worker claimed {count} runs within {seconds:g} s")
        time.sleep(0.005)


def _waits(store: Store, run_ids: Sequence[UUID]) -> list[float]:
    """Milliseconds from the transaction that queued each run to the one that claimed it, by the database's clock."""
    with store.transaction() as session:
        rows = session.execute(
            select(Run.queued_at, func.coalesce(Run.started_at, func.now())).where(
                Run.id.in_(run_ids), Run.started_at.is_not(None)
            )
        ).all()
    return sorted(1000 * (started - queued).total_seconds() for queued, started in rows)


def idle_and_burst(store: Store, redis_url: str, *, command: str, slots: int, count: int = 100) -> list[Figure]:
    """Against a worker with idle slots, whose runs end quickly: one run after the other, then many at once."""
    publisher = Publisher(queue.make_app(redis_url))
    single = []
    for number in range(1, count + 1):
        with store.transaction() as session:
            run_id = queued(session, number)
        publisher.send(wakes.permit(PROFILE))
        _until(store, [run_id], 1)
        if number > 5:  # the first few warm the worker's pools
            single += _waits(store, [run_id])
        time.sleep(0.05)  # the slot is idle again, and so is the publisher
    with store.transaction() as session:
        burst = [queued(session, count + n, repository=f"acme/burst-{n % 10}") for n in range(1, BURST + 1)]
    publisher.send(wakes.permit(PROFILE))  # one for all
    _until(store, burst, slots)
    first = _waits(store, burst)[:slots]
    publisher.close()
    return [
        figure("run committed to claimed, idle slots, p50", statistics.median(single), "ms", goal=100, command=command),
        figure("run committed to claimed, idle slots, p99", percentile(single, 0.99), "ms", goal=500, command=command),
        figure(f"burst of {BURST}: {slots} slots have a run after", first[-1], "ms", goal=500, command=command),
    ]


def fill(store: Store, *, repositories: int) -> None:
    """Empty the queue, then queue 10,000 runs in so many repositories."""
    row = {
        "clone_url": "",
        "issue_title": "bench",
        "issue_body": "",
        "requested_by": "bench",
        "base_branch": "main",
        "base_commit": "0" * 40,
        "profile": PROFILE,
        "max_attempts": 3,
        "repository_config": {},
    }
    rows = [
        {**row, "repository": f"acme/{n % repositories}", "issue_number": n, "branch": f"devstral/issue-{n}"}
        for n in range(1, QUEUED + 1)
    ]
    with store.transaction() as session:
        session.execute(text("TRUNCATE runs, lanes, permits CASCADE"))
        session.execute(insert(RUNS), rows)
    Sweep(store=store, send=lambda _: None)()  # adds the lanes
    with store.transaction() as session:
        session.execute(text("UPDATE permits SET publish_after = now()"))
        session.execute(text("ANALYZE runs, lanes"))


def long_queue(store: Store, *, repositories: int, command: str) -> list[Figure]:
    """Claims by 8 threads at once, a sweep's pass, and a place in the queue, at 10,000 queued runs."""
    fill(store, repositories=repositories)
    started = time.monotonic()
    Sweep(store=store, send=lambda _: None)()
    swept = time.monotonic() - started
    with store.transaction() as session:
        last = session.scalar(select(Run.id).order_by(Run.id.desc()).limit(1))
        assert last is not None
        started = time.monotonic()
        assert queue_position.place(session, last) is not None
        placed = 1000 * (time.monotonic() - started)
    barrier = threading.Barrier(THREADS)

    def claim(owner: str) -> float:
        begun = time.monotonic()
        with store.transaction() as session:
            lease = states.claim_next(
                session, profile=PROFILE, owner=owner, seconds=600, repository_slots=QUEUED, turn=lanes.TURN
            )
        assert lease is not None
        return 1000 * (time.monotonic() - begun)

    def work(name: int) -> list[float]:
        with store.transaction() as session:  # a worker's connections are open long before
            session.execute(text("SELECT 1"))
            barrier.wait()
        return [claim(f"w{name}") for _ in range(CLAIMS_EACH)]

    with ThreadPoolExecutor(THREADS) as pool:
        spans = [span for each in pool.map(work, range(THREADS)) for span in each]
    where = f"{QUEUED:,} queued in {repositories:,} repositories"
    return [
        figure(f"claim by {THREADS} threads, {where}, p50", statistics.median(spans), "ms", goal=None, command=command),
        figure(f"claim by {THREADS} threads, {where}, p99", percentile(spans, 0.99), "ms", goal=50, command=command),
        figure(f"a sweep's pass, {where}", swept, "s", goal=1, command=command),
        figure(f"a run's place in the queue, {where}", placed, "ms", goal=None, command=command),
    ]


def at_cap(store: Store, *, command: str) -> list[Figure]:
    """The dearest claim there is: every repository but the last is at its cap, so that each lane is looked at."""
    fill(store, repositories=5000)
    with store.transaction() as session:
        session.execute(text("UPDATE lanes SET opened_at = now() + interval '1 s' WHERE repository = 'acme/4999'"))
    with store.transaction() as session:
        first = (
            select(func.min(RUNS.c.issue_number)).where(RUNS.c.repository != "acme/4999").group_by(RUNS.c.repository)
        )
        session.execute(
            update(RUNS).where(RUNS.c.issue_number.in_(first)).values(state=RunState.RUNNING, lease_owner="bench")
        )
    with store.transaction() as session:
        session.execute(text("ANALYZE runs"))
    started = time.monotonic()
    with store.transaction() as session:
        lease = states.claim_next(session, profile=PROFILE, owner="bench", seconds=600, repository_slots=1)
    spent = 1000 * (time.monotonic() - started)
    assert lease is not None
    return [figure("claim past 4,999 repositories at their cap", spent, "ms", goal=None, command=command)]
