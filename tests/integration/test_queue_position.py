"""What people are told about the queue: honest figures, from real rows."""

from __future__ import annotations

import json
from datetime import timedelta

from click.testing import CliRunner
from sqlalchemy import func, update

from api import views
from tests.factories import gpu_worker, queue_run
from worker.cli import cli
from worker.runs import queue_position, states, workforce
from worker.runs.queue_position import Pace, between
from worker.store.models import Run, RunState
from worker.store.operations import WorkerProcess

PROFILE = "small-24b"


def test_too_few_measured_runs_foretell_nothing():
    pace = Pace(durations=(60.0,) * 4, slots=2)
    assert pace.wait(1) is None
    assert pace.basis == "no estimate: 4 runs measured, 5 are needed"
    assert Pace(durations=(60.0,) * 5, slots=0).wait(1) is None


def test_the_wait_is_a_range_that_grows_with_the_position_and_shrinks_with_the_slots():
    durations = (600.0, 600.0, 1200.0, 1800.0, 1800.0)
    assert Pace(durations=durations, slots=1).wait(1) == (0.0, 1800.0)
    assert Pace(durations=durations, slots=1).wait(3) == (1200.0, 5400.0)
    assert Pace(durations=durations, slots=3).wait(3) == (400.0, 1800.0)


def test_ranges_are_said_as_people_say_them():
    assert between(0, 30) == "starts in less than a minute"
    assert between(0, 80) == "starts in about a minute"
    assert between(1200, 2400) == "starts in about 20 to 40 minutes"
    assert between(0, 1800) == "starts within 30 minutes"
    assert between(3600, 10_800) == "starts in about 60 minutes to 3.0 hours"


def concluded(store, number: int, *, minutes: int, ago: int, **values) -> None:
    """A run that took so long and ended `ago` minutes ago."""
    with store.transaction() as session:
        queue_run(session, number)
    with store.transaction() as session:
        lease = states.claim_next(session, profile=PROFILE, owner="w", seconds=60, repository_slots=100)
        assert lease is not None
        states.advance(session, lease, RunState.CONCLUDED)
        end = func.now() - timedelta(minutes=ago)
        times = {"started_at": end - timedelta(minutes=minutes), "concluded_at": end}
        session.execute(update(Run).where(Run.id == lease.run_id).values(**times, **values))


def waiting(store, count: int = 3):
    with store.transaction() as session:
        return [queue_run(session, number) for number in range(101, 101 + count)]


def test_the_pace_is_measured_from_runs_that_were_not_interrupted(store):
    for number, minutes in enumerate((8, 10, 12, 14, 16), start=1):
        concluded(store, number, minutes=minutes, ago=5)
    concluded(store, 6, minutes=500, ago=5, attempt=1)
    with store.transaction() as session:
        pace = queue_position.pace(session, PROFILE)
    assert sorted(round(seconds / 60) for seconds in pace.durations) == [8, 10, 12, 14, 16]
    assert pace.slots == 5, "all five were running eight minutes ago"
    assert pace.basis == "the last 5 runs took 12 minutes in the median, 5 at once"


def test_a_pace_of_yesterday_foretells_nothing(store):
    for number in range(1, 6):
        concluded(store, number, minutes=10, ago=24 * 60)
    with store.transaction() as session:
        assert queue_position.pace(session, PROFILE).slots == 0
    third = waiting(store)[2]
    with store.transaction() as session:
        gpu_worker(session)
        place = queue_position.place(session, third)
    assert place is not None
    assert (place.position, place.of, place.wait) == (3, 3, None)
    assert "none was running within the last hour" in place.basis


def test_a_run_that_can_not_be_claimed_has_no_place_and_says_why(store):
    held, later, _ = waiting(store)
    with store.transaction() as session:
        session.execute(update(Run).where(Run.id == held).values(held_reason="setup"))
        session.execute(update(Run).where(Run.id == later).values(not_before=func.now() + timedelta(hours=1)))
    with store.transaction() as session:
        told = [queue_position.told(session, session.get_one(Run, run_id)) for run_id in (held, later)]
        assert queue_position.places(session, [held, later]) == {}
    assert told == ["waits for its setup", "is tried again soon"]


def test_the_rest_view_and_the_commands_show_the_place(store, tmp_path, monkeypatch):
    for number in range(1, 6):
        concluded(store, number, minutes=10, ago=5)
    run_ids = waiting(store)
    with store.transaction() as session:
        gpu_worker(session)
        shown = views.run(session, run_ids[1])
    assert shown is not None
    assert shown["queue"] == {
        "position": 2,
        "of": 3,
        "wait_seconds": [120, 240],
        "basis": "the last 5 runs took 10 minutes in the median, 5 at once",
    }
    monkeypatch.setenv("DEVSTRAL_FIX_DATABASE_URL", store.engine.url.render_as_string(hide_password=False))
    monkeypatch.chdir(tmp_path)
    one = CliRunner().invoke(cli, ["runs", "show", str(run_ids[1])])
    assert "queue     position 2 of 3; starts in about 2 to 4 minutes (the last 5 runs took" in one.output
    data = json.loads(CliRunner().invoke(cli, ["runs", "show", str(run_ids[1]), "--json"]).output)
    assert data["queue"] == {**shown["queue"], "told": data["queue"]["told"]}
    listed = CliRunner().invoke(cli, ["runs", "list"]).output.splitlines()
    assert [line.split("queued")[1].split("$")[0].strip() for line in listed[1:4]] == ["3 of 3", "2 of 3", "1 of 3"]
    unknown = CliRunner().invoke(cli, ["runs", "show", "01990000-0000-7000-8000-000000000000"])
    assert unknown.exit_code == 1


def test_runs_that_no_worker_takes_say_so(store, ask):
    """Whatever the pace of yesterday's workers was."""
    for number in range(1, 6):
        concluded(store, number, minutes=10, ago=5)
    first, *_ = waiting(store)

    def told() -> str:
        with store.transaction() as session:
            place = queue_position.place(session, first)
            assert place is not None
            return str(place)

    assert told() == "position 1 of 3 (no worker serves profile small-24b)"
    assert "no worker serves profile small-24b: 3 runs wait" in ask("runs", "list")
    with store.transaction() as session:
        gpu_worker(session, "host:2", ready=False)
        gpu_worker(session, "host:3", profile="other")
    assert told() == "position 1 of 3 (the worker of profile small-24b is starting)"
    with store.transaction() as session:
        workforce.ready(session, "host:2")
    assert told().startswith("position 1 of 3; starts within 2 minutes (the last 5 runs took")
    assert "no worker" not in ask("runs", "list")
    ask("drain", "--profile", PROFILE)
    assert told() == "position 1 of 3 (the workers of profile small-24b are drained)"
    assert "the workers of profile small-24b are drained: 3 runs wait" in ask("workers", "list")
    with store.transaction() as session:
        session.execute(update(WorkerProcess).values(seen_at=func.now() - timedelta(minutes=2)))
    assert told() == "position 1 of 3 (no worker serves profile small-24b)", "it is lost"
