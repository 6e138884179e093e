"""Drains as rows: who is asked, until when, what may still be undone, and who takes one over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text, update

from tests.factories import gpu_worker, queue_run
from tests.worker_processes import wait_until
from worker.errors import Paused
from worker.heartbeat import Heartbeat
from worker.presence import Presence
from worker.runs import draining, moving, states, workforce
from worker.stages.journal import LeasedJournal
from worker.store import lanes
from worker.store.lanes import Lane
from worker.store.models import Run, RunState
from worker.store.operations import Then, WorkerProcess

PROFILE = "small-24b"
GONE = "host:99999999"  # no process has such an id


def drained(store, name: str = "host:1", **asked) -> bool:
    with store.transaction() as session:
        return draining.drain(session, [name], by="ann", **asked)[name]


def seen(store, name: str = "host:1") -> workforce.Seen:
    with store.transaction() as session:
        return next(one for one in workforce.seen(session, every=True) if one.name == name)


def presence(store, name: str = "host:1", *, idle: bool = True, role: str = "gpu"):
    ended: list[Then] = []
    about = {"queues": ["q"], "slots": 1, "isolation": "basic", "version": "1", "lease_seconds": 60}
    made = Presence(store, name, role=role, profile=PROFILE, idle=lambda: idle, end=ended.append, **about)
    made.ready()
    return made, ended


def test_a_drain_is_asked_of_one_or_of_all_of_a_profile(store):
    with store.transaction() as session:
        for name, profile in (("a:1", PROFILE), ("a:2", PROFILE), ("b:1", "other")):
            gpu_worker(session, name, profile=profile)
        assert draining.serving(session, PROFILE) == ["a:1", "a:2"]
        assert draining.named(session, "b") == ["b:1"]
        assert draining.named(session, "a:", every=True) == ["a:1", "a:2"]
        for asked in (lambda: draining.named(session, "a"), lambda: draining.serving(session, "none")):
            with pytest.raises(draining.NoSuchWorker):
                asked()
        workforce.stop(session, "a:2")
        assert draining.serving(session, PROFILE) == ["a:1"]


def test_the_limit_counts_from_the_first_request(store):
    """So asking twice is the same as once, and the newest wish counts."""
    with store.transaction() as session:
        gpu_worker(session)
    assert drained(store, within=timedelta(minutes=30), then=Then.RESTART) is False
    with store.transaction() as session:
        session.execute(update(WorkerProcess).values(drain_requested_at=func.now() - timedelta(minutes=20)))
    assert drained(store, within=timedelta(minutes=30), then=Then.RESTART) is True
    left = seen(store).drain_seconds_left
    assert left is not None
    assert 590 < left <= 600
    assert drained(store) is True
    assert (seen(store).drain_seconds_left, seen(store).drain_then) == (None, "stay")


def test_a_worker_without_work_ends_once_and_nobody_can_undo_it_then(store):
    worker, ended = presence(store)
    drained(store, then=Then.RESTART)
    assert worker.room()
    worker.touch()
    worker.touch()
    assert ended == [Then.RESTART]
    assert not worker.room()
    assert seen(store).state == "ending"
    with store.transaction() as session, pytest.raises(draining.TooLate):
        draining.undo(session, ["host:1"])
    worker.close()
    assert seen(store).state == "stopped"


def test_a_worker_with_work_goes_on_until_its_limit(store):
    worker, ended = presence(store, idle=False)
    drained(store, within=timedelta(hours=1), then=Then.STOP)
    worker.touch()
    assert (ended, worker.room()) == ([], False)
    with store.transaction() as session:
        draining.undo(session, ["host:1"])
    worker.touch()
    assert worker.room()
    drained(store, within=timedelta(0), then=Then.STOP)
    worker.touch()
    assert ended == [Then.STOP]
    with store.transaction() as session:
        assert draining.ended_for_good(session, "host:1")


def test_a_drain_that_is_undone_in_the_last_moment_ends_nothing(store):
    worker, ended = presence(store)
    drained(store, then=Then.STOP)
    with store.transaction() as session:
        assert draining.orders(session, "host:1").then is Then.STOP
        draining.undo(session, ["host:1"])
        assert draining.begin_end(session, "host:1") is None
    worker.touch()
    assert ended == []


def test_past_the_limit_a_run_is_given_back_at_the_end_of_its_step(store):
    """By a worker that stays; red without the limit in the heartbeat's statement."""
    heartbeat = Heartbeat(store, seconds=3600)
    with store.transaction() as session:
        gpu_worker(session)
        queue_run(session)
    with store.transaction() as session:
        lease = states.claim_next(session, profile=PROFILE, owner="host:1", seconds=60)
        assert lease is not None
    with heartbeat.hold(lease) as holding:
        journal = LeasedJournal(store=store, holding=holding, stopping=holding.cancel, profile=PROFILE, model="m")
        drained(store, within=timedelta(minutes=5))
        heartbeat.look(None)
        journal.checkpoint()
        with store.transaction() as session:
            session.execute(update(WorkerProcess).values(drain_until=func.now()))
        heartbeat.look(None)
        with pytest.raises(Paused, match="given back: its worker is drained"):
            journal.checkpoint()
    heartbeat.close()


@pytest.mark.parametrize(
    ("then", "failure", "taken"),
    [
        (Then.STAY, None, True),
        (Then.STOP, "the engine died", True),
        (Then.RESTART, "the engine died", False),
    ],
)
def test_the_drain_of_a_worker_that_failed_or_vanished_is_taken_over(store, then, failure, taken):
    """People who wait for an empty GPU must not find it busy because an engine died meanwhile."""
    presence(store, GONE)
    drained(store, GONE, then=then)
    if failure is not None:
        with store.transaction() as session:
            workforce.stop(session, GONE, failure=failure)
    heir, _ = presence(store, "host:1")
    heir.touch()
    assert heir.room() is not taken
    assert seen(store).drain_requested_by == ("ann" if taken else None)
    second, _ = presence(store, "host:2")
    second.touch()
    assert second.room(), "one heir is enough"


def test_a_drain_ends_with_a_worker_that_ended_well_and_is_of_its_kind_alone(store):
    for role, name, end in (
        ("gpu", GONE, None),
        ("cpu", "host:99999998", "it crashed"),
        ("gpu", "else:1", "it crashed"),
    ):
        presence(store, name, role=role)
        drained(store, name)
        with store.transaction() as session:
            workforce.stop(session, name, failure=end)
    heir, _ = presence(store)
    heir.touch()
    assert heir.room()


def test_a_worker_whose_process_has_the_same_name_takes_over_too(store):
    """A container's first process always has the same id."""
    presence(store)
    drained(store, then=Then.STOP)
    again, ended = presence(store)
    again.touch()
    assert ended == [Then.STOP]


def test_workers_that_failed_are_shown_until_one_of_their_kind_is_there(store):
    def shown() -> list[tuple[str, str]]:
        with store.transaction() as session:
            return [(one.name, one.state) for one in workforce.seen(session)]

    with store.transaction() as session:
        for name in ("host:1", "host:2", "host:3"):
            gpu_worker(session, name, profile="other" if name == "host:3" else PROFILE)
            workforce.stop(session, name, failure="no GPU answers")
            session.execute(
                update(WorkerProcess).where(WorkerProcess.name == name).values(started_at=func.clock_timestamp())
            )
    assert shown() == [("host:2", "failed"), ("host:3", "failed")]
    with store.transaction() as session:
        gpu_worker(session, "host:4")
    assert shown() == [("host:3", "failed"), ("host:4", "running")]


def test_queued_runs_move_to_another_profile_with_their_place_in_the_order(store):
    with store.transaction() as session:
        runs = [queue_run(session, number) for number in (1, 2, 3)]
        lease = states.claim_next(session, profile=PROFILE, owner="w", seconds=60)
        assert lease is not None
        moved = moving.move(session, from_profile=PROFILE, to_profile="big")
    assert (moved.count, moved.running, moved.in_vain) == (2, 1, "no worker serves profile big")
    with store.transaction() as session:
        gpu_worker(session, profile="big")
        assert states.claim_next(session, profile=PROFILE, owner="w", seconds=60) is None
        claimed = [states.claim_next(session, profile="big", owner="w", seconds=60) for _ in range(2)]
        assert [one.run_id for one in claimed if one] == runs[1:]
        assert moving.move(session, from_profile=PROFILE, to_profile="big").in_vain is None


def test_a_move_waits_for_claims_and_they_for_it(store):
    """A claim that has chosen a run of the old profile would take it all the same."""
    with store.transaction() as session:
        run_id = queue_run(session)

    def move() -> int:
        with store.transaction() as session:
            return moving.move(session, from_profile=PROFILE, to_profile="big").count

    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with ThreadPoolExecutor(1) as pool:
        with store.transaction() as session:
            lanes.take_turns(session)
            moved = pool.submit(move)
            wait_until(lambda: moved.done() or session.scalar(waiting))
            lease = states.claim_next(session, profile=PROFILE, owner="w", seconds=60)
        assert moved.result(30) == 0
    assert lease is not None
    with store.transaction() as session:
        assert session.get_one(Run, run_id).profile == PROFILE


def test_a_named_run_that_is_not_there_moves_nothing(store):
    with store.transaction() as session:
        first, second = queue_run(session, 1), queue_run(session, 2, profile="big")
    with pytest.raises(moving.NotQueued, match=str(second)), store.transaction() as session:
        moving.move(session, from_profile=PROFILE, to_profile="other", run_ids=[first, second])
    with store.transaction() as session:
        assert set(session.execute(select(Run.id, Run.profile)).all()) == {(first, PROFILE), (second, "big")}
        assert moving.move(session, from_profile=PROFILE, to_profile="other", run_ids=[first]).count == 1
        assert session.scalars(select(Lane.profile).order_by(Lane.profile)).all() == ["big", "other", PROFILE]
        assert session.scalar(select(func.count()).where(Run.state == RunState.QUEUED)) == 2


def test_what_operators_type(store, ask):
    with store.transaction() as session:
        gpu_worker(session)
        queue_run(session)
    assert ask("drain", "--profile", PROFILE, "--within", "30m", "--then", "restart") == "host:1: takes nothing more\n"
    listed = ask("workers", "list")
    assert "drained (asked by operator, hands back in 1800 s, then: restart)" in listed
    assert "the workers of profile small-24b are drained: 1 run waits" in listed
    assert ask("drain", "host:1", "--undo") == "host:1: takes permits again\n"
    assert "is no duration, such as 90s" in ask("drain", "host:1", "--within", "soon", status=2)
    assert "give WORKER or --profile" in ask("drain", status=2)
    assert "give WORKER or --profile" in ask("drain", "host:1", "--profile", PROFILE, status=2)
    assert "--undo takes neither" in ask("drain", "host:1", "--undo", "--wait", status=2)
    assert ask("drain", "host:1", "--within", "0", "--wait") == "host:1: holds nothing\n"
    assert "1 moved from small-24b to big; no worker serves profile big" in ask(
        "runs", "move", "--from-profile", PROFILE, "--to-profile", "big"
    )
    assert "is no profile's name" in ask("runs", "move", "--from-profile", PROFILE, "--to-profile", "Big!", status=2)
