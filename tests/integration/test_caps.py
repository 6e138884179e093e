"""Caps on pull requests, against real Postgres and git: who waits, who goes first, and two workers at one place."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from sqlalchemy import func, select, text, update

from agent.outcome import Outcome
from tests.integration.test_deliver import NAME, World
from worker import wakes
from worker.errors import ForgeUnavailable
from worker.runs import caps, requests, states
from worker.runs.caps import DAY, OPEN, Caps, OverCap
from worker.store import queries
from worker.store.models import PullRequest, Run, RunState
from worker.sweep import Sweep


class Capped(World):
    """Several issues of one repository, each with a verified change."""

    def __init__(self, store, tmp_path, limits):
        super().__init__(store, tmp_path)
        self.cap(limits)

    def cap(self, limits):
        self.limits = limits
        self.deliver = replace(self.deliver, caps=limits)

    def change(self, *, outcome=Outcome.FIXED):
        self.number = self.github.open_issue()
        return self.verified(outcome, content=f"changed {self.number}\n")

    def of(self, run_id) -> Run:
        with self.store.transaction() as session:
            return session.get_one(Run, run_id)

    def held(self, run_id):
        run = self.of(run_id)
        return (run.state, run.held_reason, run.lease_owner, run.attempt)

    def sweep(self):
        """One pass of the sweep, and every delivery that it asks for."""
        sent = []
        Sweep(store=self.store, send=sent.append, caps=self.limits)()
        asked = [wake.id for wake in sent if wake.task == wakes.DELIVER]
        for run_id in asked:
            self.deliver(run_id)
        return asked

    def close(self, run_id, *, told):
        """A person closes the pull request of a run; `told`: the event reached us."""
        branch = self.of(run_id).branch
        for i, pull in enumerate(self.github.pull_requests):
            if pull.head_branch == branch:
                self.github.pull_requests[i] = pull.model_copy(update={"state": "closed"})
        if told:
            with self.store.transaction() as session:
                session.execute(update(PullRequest).where(PullRequest.branch == branch).values(state="closed"))

    def overdue(self):
        with self.store.transaction() as session:
            session.execute(update(Run).values(publish_after=func.now(), not_before=None))


@pytest.fixture
def world(store, tmp_path):
    world = Capped(store, tmp_path, Caps(open=1))
    yield world
    world.heartbeat.close()


@pytest.fixture
def full(world):
    """One pull request is open, the most; the other change is held."""
    first, second = world.change(), world.change()
    world.deliver(first)
    world.deliver(second)
    return world, first, second


def test_what_is_over_the_cap_waits_without_lease_or_attempt(full):
    world, first, second = full
    assert world.of(first).state is RunState.DELIVERED
    assert world.held(second) == (RunState.CONCLUDED, OPEN, None, 0)
    assert world.of(second).reason == "shown"  # the verdict's, which the pull request will quote
    assert len(world.github.pull_requests) == 1
    assert world.head is None
    (said,) = world.comments()
    assert "fixed; the change waits." in said
    assert f"open in this repository as may be at once (`{OPEN}`)" in said


def test_a_held_run_is_left_alone_until_its_repository_is_due(full):
    world, _, second = full
    world.forge.calls.clear()
    assert world.sweep() == []
    assert world.forge.calls == []
    world.overdue()
    assert world.sweep() == [second]
    assert world.forge.calls == ["find_pull_request"]
    assert world.held(second) == (RunState.CONCLUDED, OPEN, None, 0)
    assert len(world.comments()) == 1
    assert world.sweep() == []


def test_the_next_goes_out_when_one_is_closed(full):
    world, first, second = full
    world.close(first, told=True)
    assert world.sweep() == [second]
    run = world.of(second)
    assert (run.state, run.held_reason) == (RunState.DELIVERED, None)
    assert [pull.state for pull in world.github.pull_requests] == ["closed", "open"]
    (said,) = world.comments()
    assert "waits" not in said


def test_a_closing_that_nobody_told_us_is_found(full):
    world, first, second = full
    world.close(first, told=False)
    world.overdue()
    world.sweep()
    assert world.of(second).state is RunState.DELIVERED


def test_a_closing_that_nobody_told_us_is_found_before_anything_is_held(world):
    first, second = world.change(), world.change()
    world.deliver(first)
    world.close(first, told=False)
    world.deliver(second)
    assert world.held(second) == (RunState.CONCLUDED, None, None, 0)
    assert world.comments() == []
    world.deliver(second)
    assert world.of(second).state is RunState.DELIVERED


def test_github_being_away_lets_nobody_through(full):
    world, first, second = full
    world.close(first, told=False)
    world.overdue()
    world.forge.faults["find_pull_request"] = [ForgeUnavailable("away")]
    world.sweep()
    assert world.held(second) == (RunState.CONCLUDED, OPEN, None, 0)


def test_who_was_concluded_first_goes_first(world):
    first, second, third = world.change(), world.change(), world.change()
    world.deliver(third)  # none is held yet: those before it are on their way
    assert world.held(third)[1] == OPEN
    world.deliver(first)
    world.deliver(second)
    assert [world.of(run).state for run in (first, second, third)] == [
        RunState.DELIVERED,
        RunState.CONCLUDED,
        RunState.CONCLUDED,
    ]
    late = world.change()
    world.close(first, told=True)
    world.deliver(late)  # there is a place, and it is not for the last in the line
    assert world.held(late)[1] == OPEN
    assert world.sweep() == [second]
    assert world.of(second).state is RunState.DELIVERED
    assert {world.held(run)[1] for run in (third, late)} == {OPEN}


def test_what_was_let_go_and_not_yet_pushed_has_its_place(full):
    world, first, second = full
    third = world.change()
    world.deliver(third)
    world.close(first, told=True)
    with world.store.transaction() as session:
        assert caps.release(session, NAME, world.limits) == [second]
    with world.store.transaction() as session:
        assert caps.release(session, NAME, world.limits) == []
    world.deliver(third)
    assert world.held(third)[1] == OPEN


def test_two_workers_at_one_place(world):
    """The younger change is in the middle of taking the last place when the older one asks for it."""
    older, younger = world.change(), world.change()
    with world.store.transaction() as session:  # the older one's tests take longer
        session.execute(update(Run).where(Run.id == older).values(outcome=None))
    asking, ends, done = threading.Event(), [], threading.Event()

    def ask():
        with world.store.transaction() as session:
            run = session.get_one(Run, older)
            asking.set()
            try:
                caps.take_place(session, run, world.limits)
            except OverCap as over:
                ends.append(over.cap)
            else:
                queries.note_push(session, run_id=older, repository=NAME, branch=run.branch, commit="2" * 40)
                ends.append("place")
        done.set()

    with world.store.transaction() as session:
        run = session.get_one(Run, younger)
        caps.take_place(session, run, world.limits)
        queries.note_push(session, run_id=younger, repository=NAME, branch=run.branch, commit="1" * 40)
        with world.store.transaction() as other:
            other.execute(update(Run).where(Run.id == older).values(outcome=Outcome.FIXED))
        thread = threading.Thread(target=ask)
        thread.start()
        assert asking.wait(10)
        assert not done.wait(0.3)  # it waits for us
    thread.join(10)
    assert ends == [OPEN]


def test_a_place_once_taken_is_kept(world):
    first, second = world.change(), world.change()
    world.forge.faults["open_pull_request"] = [ForgeUnavailable("the answer was lost")]
    world.deliver(first)
    assert world.of(first).state is RunState.CONCLUDED
    world.deliver(second)
    assert world.held(second)[1] == OPEN
    world.cap(Caps(open=1))
    world.run_id = first
    world.again()
    assert world.of(first).state is RunState.DELIVERED


def test_an_update_of_an_open_one_is_never_held(full):
    world, first, _ = full
    world.number = world.of(first).issue_number
    again = world.verified(Outcome.FIXED, content="better\n")
    world.deliver(again)
    assert world.of(again).state is RunState.DELIVERED
    assert len(world.github.pull_requests) == 1


@pytest.mark.parametrize("outcome", [Outcome.UNSOLVED, Outcome.QUESTION])
def test_what_makes_no_pull_request_is_never_held(full, outcome):
    world, _, second = full
    answer = world.change(outcome=outcome)
    world.deliver(answer)
    assert world.of(answer).state is RunState.DELIVERED
    assert world.held(second)[1] == OPEN


def test_a_day_s_cap_passes_with_the_day(world):
    world.cap(Caps(day=1))
    first, second = world.change(), world.change()
    world.deliver(first)
    world.deliver(second)
    assert world.held(second) == (RunState.CONCLUDED, DAY, None, 0)
    assert "after 00:00 UTC" in world.comments()[0]
    world.close(first, told=True)  # that does not help
    assert world.sweep() == []
    with world.store.transaction() as session:  # it was made in the last moment of yesterday
        midnight = text("date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - interval '1 microsecond'")
        session.execute(update(PullRequest).values(created_at=midnight))
    assert world.sweep() == [second]
    assert world.of(second).state is RunState.DELIVERED


def test_another_one_of_the_same_branch_counts_for_the_day_it_is_made(world):
    world.cap(Caps(day=1))
    first = world.change()
    world.deliver(first)
    with world.store.transaction() as session:
        session.execute(update(PullRequest).values(created_at=func.now() - text("interval '2 days'")))
    world.close(first, told=True)
    world.deliver(world.verified(Outcome.FIXED, content="anew\n"))
    assert [pull.state for pull in world.github.pull_requests] == ["closed", "open"]
    last = world.change()
    world.deliver(last)
    assert world.held(last)[1] == DAY


@pytest.mark.parametrize(
    ("operator", "repository", "allowed"), [(2, 1, 1), (1, 2, 1), (0, 1, 1), (2, None, 2), (0, None, 4)]
)
def test_the_lower_one_holds(world, operator, repository, allowed):
    world.cap(Caps(open=operator))
    runs = [world.change() for _ in range(4)]
    with world.store.transaction() as session:
        session.execute(update(Run).values(repository_config={OPEN: repository}))
    for run_id in runs:
        world.deliver(run_id)
    assert sum(world.of(run_id).state is RunState.DELIVERED for run_id in runs) == allowed


def test_other_repositories_have_their_own(full):
    world, _, second = full
    with world.store.transaction() as session:
        session.execute(update(PullRequest).values(repository="acme/another"))
    assert world.sweep() == [second]
    assert world.of(second).state is RunState.DELIVERED


def test_a_wait_in_the_line_is_not_held_against_github_s_patience(full):
    world, first, second = full
    with world.store.transaction() as session:
        session.execute(update(Run).values(concluded_at=func.now() - text("interval '3 days'")))
    world.close(first, told=True)
    world.forge.faults["open_pull_request"] = [ForgeUnavailable("away")]
    world.sweep()
    assert world.of(second).state is RunState.CONCLUDED  # postponed, not given up
    world.overdue()
    world.sweep()
    assert world.of(second).state is RunState.DELIVERED


def test_a_held_run_can_be_cancelled(full):
    world, _, second = full
    with world.store.transaction() as session:
        requests.cancel(session, second, by="octo-admin")
    run = world.of(second)
    assert (run.state, run.held_reason) == (RunState.CANCELLED, None)


def test_nobody_claims_what_is_held(full):
    world, _, second = full
    with world.store.transaction() as session:
        assert states.claim_stage(session, second, "deliver", owner="d", seconds=60) is None


def test_many_held_are_looked_at_once_by_repository(full):
    world, _, second = full
    held = [world.change() for _ in range(3)]
    for run_id in held:
        world.deliver(run_id)
    world.overdue()
    with world.store.transaction() as session:
        assert caps.due(session) == [second]
        assert caps.due(session) == []


def test_a_pull_request_that_is_gone_is_not_open(full):
    world, _, second = full
    (pull,) = world.github.pull_requests
    world.github.pull_requests[0] = pull.model_copy(update={"head_branch": "gone"})
    world.overdue()
    world.sweep()
    assert world.of(second).state is RunState.DELIVERED
    with world.store.transaction() as session:
        states_ = session.scalars(select(PullRequest.state).order_by(PullRequest.id)).all()
    assert states_ == ["closed", "open"]
