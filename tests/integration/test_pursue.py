"""Permits worked on: what becomes of a run, and what its worker writes."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy import delete, func, select, text, update

from agent.errors import LimitsExceeded, NotSaved
from agent.types import ExitStatus, Limits, Price
from agent.window import APPROXIMATE
from tests.factories import queue_run
from tests.fakes import FakeModel, FakeSession, call, say
from tests.integration.world import WRITE, World, taken_over_during
from worker import wakes
from worker.errors import ModelUnavailable, SandboxUnavailable, ScriptMismatch
from worker.runs import requests, states
from worker.runs.accounts import DayLimits
from worker.stages.pursue import Pursue
from worker.store import queries, trajectories
from worker.store.models import Patch, Run, RunState, Spend
from worker.store.money import Account, Reservation, Scope
from worker.store.steps import Step
from worker.sweep import Sweep


@pytest.fixture
def world(store, tmp_path):
    world = World(store, tmp_path)
    yield world
    world.heartbeat.close()


def test_a_run_is_claimed_worked_on_and_concluded(world):
    world.pursue(call(WRITE), say("I made the file."))
    run = world.run
    assert (run.state, run.exit_status, run.summary) == (
        RunState.CONCLUDED,
        ExitStatus.SUBMITTED,
        "I made the file.",
    )
    assert run.lease_owner is None
    assert run.prompt_hash
    assert (run.calls, world.count(Spend), world.count(Step)) == (2, 2, 2)
    assert world.sent == [wakes.verify(run.id)]
    with world.store.transaction() as session:
        patch = queries.patch(session, run.id)
        assert patch is not None
        assert [change["path"] for change in patch.files] == ["new.txt"]


def test_a_permit_without_a_run_is_spent_quietly(world):
    world.pursue(say("done"), say("done"))
    world.pursue()
    assert world.run.state is RunState.CONCLUDED


def test_a_model_that_is_down_gives_the_run_back_and_counts_no_attempt(world):
    for _ in range(3):  # more often than max_attempts
        world.pursue(ModelUnavailable("no answer from http://127.0.0.1:1234"))
        run = world.run
        assert (run.state, run.attempt) == (RunState.QUEUED, 0)
        assert "no answer from" in (run.reason or "")
        assert run.not_before is not None
        world.ready_again()
    world.pursue(call(WRITE), say("done"))
    assert world.run.state is RunState.CONCLUDED


def test_what_was_spent_before_the_model_went_down_stays_booked(world):
    world.pursue(call(WRITE), ModelUnavailable("gone"))
    world.ready_again()
    world.pursue(say("done"))
    with world.store.transaction() as session:
        rows = session.execute(select(Spend.lease_token, Spend.call).order_by(Spend.id)).all()
    assert [tuple(row) for row in rows] == [(1, 0), (2, 1)]
    assert world.run.calls == 2


def test_a_broken_sandbox_counts_and_the_last_attempt_fails(world):
    world.sandbox.broken = True
    world.pursue()
    assert (world.run.state, world.run.attempt) == (RunState.QUEUED, 1)
    world.ready_again()
    world.pursue()
    run = world.run
    assert run.state is RunState.FAILED
    assert "given up after 2 attempts" in (run.reason or "")
    assert world.sent == [wakes.deliver(run.id)]


def test_a_permanent_failure_ends_the_run_with_its_reason(world):
    world.pursue(ScriptMismatch("turn 1 differs"))
    assert (world.run.state, world.run.reason) == (RunState.FAILED, "turn 1 differs")
    assert world.sent == [wakes.deliver(world.run_id)]


@pytest.mark.parametrize("end", [ScriptMismatch("turn 2 differs"), RuntimeError("a bug")])
def test_an_end_by_a_crash_keeps_the_diff_so_far(world, end):
    """Red without `change_so_far`: what the steps before had made would be nowhere but in their trees."""
    world.pursue(call(WRITE), end)
    assert world.run.state is RunState.FAILED
    with world.store.transaction() as session:
        assert [change["path"] for change in queries.patch(session, world.run_id).files] == ["new.txt"]


def test_an_end_by_tries_that_are_used_up_keeps_the_diff_so_far(world):
    world.pursue(call(WRITE), SandboxUnavailable("gone"))
    assert (world.run.state, world.count(Patch)) == (RunState.QUEUED, 0)
    world.ready_again()
    world.pursue(SandboxUnavailable("gone"))
    assert (world.run.state, world.count(Patch)) == (RunState.FAILED, 1)
    assert "given up after 2 attempts: gone" in (world.run.reason or "")


def test_a_run_that_is_cancelled_as_its_model_goes_down_keeps_the_diff_so_far(world):
    def gone(_deadline, _cancel):
        with world.store.transaction() as session:
            requests.cancel(session, world.run_id, by="ann")
        raise ModelUnavailable("down")

    world.pursue(call(WRITE), gone)
    assert (world.run.state, world.run.reason, world.count(Patch)) == (RunState.CANCELLED, "cancelled by ann", 1)


def test_a_bug_of_ours_fails_the_run_and_kills_no_worker(world):
    world.pursue(RuntimeError("a bug"))
    assert world.run.state is RunState.FAILED
    assert "internal error: RuntimeError: a bug" in (world.run.reason or "")


def test_changes_too_large_to_be_saved_cost_neither_the_diff_nor_the_run(world):
    noise = call(("bash", '{"command": "truncate -s 70000000 build.bin"}'))
    world.pursue(call(WRITE), noise, say("I made the file."))
    run = world.run
    assert (run.state, run.exit_status, run.attempt) == (RunState.CONCLUDED, ExitStatus.SUBMITTED, 0)
    assert (run.reason or "").endswith("could not be saved: they are larger than a snapshot may be")
    assert (run.calls, world.count(Spend), world.count(Step)) == (3, 3, 3)
    assert world.sent == [wakes.verify(run.id)]
    with world.store.transaction() as session:
        patch = queries.patch(session, run.id)
        assert patch is not None
        assert [change["path"] for change in patch.files] == ["new.txt"]
        assert [step.tree is None for step in queries.steps(session, run.id)] == [False, True, True]
        (attempt,) = trajectories.attempts(session, run.id)  # keeps it past verify, whose reason is the run's then
        assert attempt.reason == run.reason


def test_leftovers_are_not_in_the_patch_and_are_named(world):
    """Red where the agent's tree is taken as it is."""
    left = call(("write_file", '{"path": "repro.py", "content": "print(1)\\n"}'))
    world.pursue(call(WRITE), left, say("I made the file."))
    with world.store.transaction() as session:
        patch = queries.patch(session, world.run_id)
        assert patch is not None
        assert [change["path"] for change in patch.files] == ["new.txt"]
        assert "repro.py" not in patch.diff.decode()
        (attempt,) = trajectories.attempts(session, world.run_id)
    assert (attempt.reason or "").endswith("; left out of the change: repro.py")


def test_a_repository_that_can_not_be_saved_as_it_is_fails_with_that_reason(world, monkeypatch):
    def refuse(_self):
        raise NotSaved("they are larger than a snapshot may be", "a name")

    monkeypatch.setattr(FakeSession, "snapshot", refuse)
    world.pursue(call(WRITE))
    assert (world.run.state, world.run.calls) == (RunState.FAILED, 0)
    assert world.run.reason == "the repository's own files could not be read: they are larger than a snapshot may be"


def test_a_worker_that_lost_its_lease_writes_nothing_more(world):
    def taken_over() -> None:
        with world.store.transaction() as session:
            session.execute(update(Run).values(lease_expires_at=text("now() - interval '1 s'")))
        with world.store.transaction() as session:
            states.expire(session)
        with world.store.transaction() as session:
            assert states.claim_next(session, profile="small-24b", owner="b", seconds=60) is not None

    world.pursue(taken_over_during(call(WRITE), taken_over), say("done"))
    run = world.run
    assert (run.state, run.lease_owner) == (RunState.RUNNING, "b")
    assert (world.count(Spend), world.count(Step), world.count(Patch)) == (0, 0, 0)


def test_cancelling_stops_at_the_next_step_and_keeps_the_diff(world):
    def cancelled() -> None:
        with world.store.transaction() as session:
            requests.cancel(session, world.run_id, by="ann")
        world.heartbeat.beat()

    world.pursue(call(WRITE), taken_over_during(call(("bash", '{"command": "true"}')), cancelled), say("never"))
    run = world.run
    assert (run.state, run.exit_status) == (RunState.CANCELLED, ExitStatus.CANCELLED)
    assert run.reason == "cancelled by ann"
    assert world.sent == [wakes.deliver(run.id)]
    assert world.count(Patch) == 1


def test_a_worker_that_shuts_down_hands_the_run_back_at_once(world):
    world.pursue(taken_over_during(call(WRITE), world.stopping.set), say("never"))
    run = world.run
    assert (run.state, run.attempt, run.lease_owner) == (RunState.QUEUED, 0, None)
    assert world.sent == [wakes.permit("small-24b")]
    world.pursue()
    assert world.run.state is RunState.QUEUED, "a stopping worker claims nothing"


def test_a_heartbeat_keeps_the_lease(world):
    def beaten() -> None:
        with world.store.transaction() as session:
            session.execute(update(Run).values(lease_expires_at=text("now() + interval '1 s'")))
        world.heartbeat.beat()
        with world.store.transaction() as session:
            left = session.scalar(select(Run.lease_expires_at - func.now()))
        assert left is not None
        assert left.total_seconds() > 3000

    world.pursue(taken_over_during(call(WRITE), beaten), say("done"))
    assert world.run.state is RunState.CONCLUDED


def limited(world, day: str | None = None, **limits) -> Pursue:
    """A permit under these limits: two calls that each may cost $0.0043 and do cost $0.00012."""
    days = DayLimits(everything=None if day is None else Decimal(day))
    model = FakeModel(call(WRITE), say("done"))
    return world.pursuer(model, limits=Limits(**limits), price=Price(prompt=1.0, completion=1.0), days=days)


@pytest.mark.parametrize("limit", [{"usd": 0.0043}, {"day": "0.0043"}, {"tokens": 4300}])
def test_a_budget_that_is_used_up_concludes_the_run_with_its_diff_so_far(world, limit):
    limited(world, **limit)()
    run = world.run
    assert (run.state, run.exit_status) == (RunState.CONCLUDED, ExitStatus.LIMITS_EXCEEDED)
    assert run.reason.startswith("budget: ")
    assert (run.calls, world.count(Patch), world.count(Reservation)) == (1, 1, 0)
    with world.store.transaction() as session:
        patch = queries.patch(session, run.id)
        assert patch is not None
        assert [change["path"] for change in patch.files] == ["new.txt"]


def test_a_run_for_whose_first_call_there_is_no_budget_waits_in_the_queue(world):
    limited(world, day="0.001")()
    run = world.run
    assert (run.state, run.calls, run.attempt) == (RunState.QUEUED, 0, 0)
    assert "budget: everything today: $0.0000 of $0.0010 used" in run.reason
    assert wakes.deliver(run.id) in world.sent, "the issue is told"
    world.ready_again()
    limited(world)()
    assert world.run.state is RunState.QUEUED, "held, until the sweep knows of the limit that was raised"
    assert world.run.reason is not None
    Sweep(store=world.store, send=world.sent.append)()
    assert world.run.reason is None, "it is not so any more"
    limited(world)()
    assert world.run.state is RunState.CONCLUDED


def test_a_repository_may_lower_a_runs_limits_and_not_raise_them(world):
    with world.store.transaction() as session:
        session.execute(update(Run).values(repository_config={"limits": {"steps": 1, "usd": 1000}}))
    limited(world, usd=0.5)()
    assert world.run.reason == "steps: 1 of 1 used"
    with world.store.transaction() as session:
        account = session.scalars(select(Account).where(Account.scope == Scope.RUN)).one()
        assert (account.limit_usd, account.spent_usd) == (Decimal("0.5"), world.run.usd)


def test_a_run_keeps_to_the_window_that_its_models_server_has(world):
    model = FakeModel(call(WRITE), say("done"))
    model.window = 3000
    world.pursuer(model, limits=Limits(context_tokens=32_768))()
    assert (world.run.state, world.run.exit_status) == (RunState.CONCLUDED, ExitStatus.SUBMITTED)
    assert model.samplings[0].max_tokens == int(3000 * APPROXIMATE) - model.first_tokens - 10


def test_a_window_that_turns_out_to_be_full_ends_the_run_with_its_diff_so_far(world):
    world.pursue(call(WRITE), LimitsExceeded("context window: the server said so"))
    run = world.run
    assert (run.exit_status, run.reason) == (ExitStatus.LIMITS_EXCEEDED, "context window: the server said so")
    assert (run.calls, world.count(Patch), world.count(Reservation)) == (1, 1, 0)


def test_a_worker_claims_runs_of_one_repository_in_a_row(store, tmp_path):
    world = World(store, tmp_path)
    with store.transaction() as session:
        for number, repository in enumerate(("acme/a", "acme/b", "acme/a", "acme/b"), start=50):
            queue_run(session, number, repository=repository)
        session.execute(delete(Run).where(Run.id == world.run_id))
    pursuer = world.pursuer(FakeModel(), repository_turn=2)
    claimed = [pursuer._claim(wake_another=False).run_id for _ in range(4)]
    with store.transaction() as session:
        assert [session.get_one(Run, run_id).repository[-1] for run_id in claimed] == ["a", "a", "b", "b"]
