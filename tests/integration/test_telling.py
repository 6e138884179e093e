"""How a run gets on, shown at its issue: phases, labels, and how often."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text

from agent.outcome import Outcome
from tests.fake_forge import FakeForges
from tests.integration.test_intake import World
from worker import wakes
from worker.errors import ForgeRefused, ForgeUnavailable
from worker.runs import progress, states
from worker.stages.labels import StateLabels, of_outcome
from worker.stages.telling import Tell
from worker.store.models import Run, RunState
from worker.sweep import Sweep

LABELS = StateLabels(prefix="devstral-fix")


class Told(World):
    def __init__(self, store, tmp_path):
        super().__init__(store, tmp_path)
        self.github.issues[self.number] = self.github.issues[self.number].model_copy(
            update={"labels": ("devstral-fix", "bug")}
        )
        self.tell = Tell(store=store, forges=FakeForges(self.forge), labels=LABELS)
        self.intake = replace(self.intake, labels=LABELS)
        self.deliver()
        (self.run,) = self.runs()

    def claim(self):
        with self.store.transaction() as session:
            lease = states.claim_next(session, profile="small-24b", owner="w", seconds=600)
        assert lease is not None
        return lease

    def conclude(self, lease):
        with self.store.transaction() as session:
            states.advance(session, lease, RunState.CONCLUDED, exit_status="submitted")

    def due(self):
        with self.store.transaction() as session:
            return list(progress.due(session))

    def earlier(self, **seconds):
        """As if what is told, or the claim, were so long ago."""
        for column, ago in seconds.items():
            with self.store.transaction() as session:
                session.execute(
                    text(f"UPDATE runs SET {column} = now() - make_interval(secs => :ago)"),
                    {"ago": ago},
                )

    @property
    def comment(self):
        (body,) = self.comments()
        return body

    @property
    def labels(self):
        return set(self.github.issues[self.number].labels)


@pytest.fixture
def world(store, tmp_path):
    world = Told(store, tmp_path)
    yield world
    world.heartbeat.close()


def test_each_phase_is_shown_in_one_comment_with_its_label(world):
    assert "queued for small-24b" in world.comment
    assert world.labels == {"devstral-fix", "bug", "devstral-fix: queued"}
    lease = world.claim()
    world.tell(world.run.id)
    assert "working on it" in world.comment
    assert world.labels == {"devstral-fix", "bug", "devstral-fix: working"}
    world.conclude(lease)
    world.tell(world.run.id)
    assert "the agent has ended (submitted); what it left is being checked" in world.comment
    assert world.labels == {"devstral-fix", "bug", "devstral-fix: working"}


def test_steps_and_cost_are_told(world):
    world.claim()
    with world.store.transaction() as session:
        run = session.get_one(Run, world.run.id)
        run.calls, run.usd, run.usd_low = 14, 0.0213, 0.0213
    world.earlier(started_at=600)
    world.tell(world.run.id)
    assert "working on it (step 14, for 10 minutes, $0.0213 so far)" in world.comment


def test_a_change_is_due_once_it_has_settled(world):
    world.tell(world.run.id)
    assert world.due() == []
    world.claim()
    assert world.due() == [], "told a moment ago"
    world.earlier(told_at=progress.SETTLING_SECONDS + 1)
    assert world.due() == [world.run.id]
    assert world.due() == [], "a message is on its way"


@pytest.mark.parametrize(
    ("worked", "silent", "due"), [(30, 29, False), (90, 61, True), (3600, 1000, False), (3600, 1801, True)]
)
def test_a_long_run_is_shown_less_and_less_often(world, worked, silent, due):
    world.claim()
    world.tell(world.run.id)
    world.earlier(started_at=worked, told_at=silent)
    assert bool(world.due()) is due


def test_the_sweep_sends_what_is_due(world):
    world.tell(world.run.id)
    world.claim()
    world.earlier(told_at=60)
    sent = []
    Sweep(store=world.store, send=sent.append)()
    assert wakes.tell(world.run.id) in sent


def test_what_changed_while_it_was_shown_is_shown_at_once(world):
    lease = world.claim()
    edit, world.forge.edit_comment = world.forge.edit_comment, None

    def slow(comment_id, body):
        world.forge.edit_comment = edit
        world.conclude(lease)
        return edit(comment_id, body)

    world.forge.edit_comment = slow
    world.tell(world.run.id)
    assert "is being checked" in world.comment


def test_a_run_that_ended_meanwhile_is_shown_ended(world):
    lease = world.claim()
    edit = world.forge.edit_comment

    def slow(comment_id, body):
        world.forge.edit_comment = edit
        with world.store.transaction() as session:
            states.advance(session, lease, RunState.FAILED, reason="ours")
        return edit(comment_id, body)

    world.forge.edit_comment = slow
    world.tell(world.run.id)
    assert "failed: `ours`" in world.comment
    assert "devstral-fix: failed" in world.labels


def test_an_end_is_told_by_who_ended_it(world):
    lease = world.claim()
    with world.store.transaction() as session:
        states.advance(session, lease, RunState.FAILED, reason="ours")
    calls = len(world.forge.calls)
    world.tell(world.run.id)
    assert len(world.forge.calls) == calls


@pytest.mark.parametrize("fault", [ForgeRefused("locked"), ForgeUnavailable("away")])
def test_what_can_t_be_shown_is_left_until_the_next_change(world, fault):
    world.claim()
    world.forge.faults["edit_comment"] = [fault]
    world.forge.faults["find_comment"] = [fault]
    world.tell(world.run.id)
    assert "queued" in world.comment
    world.earlier(told_at=30)
    assert world.due() == []


def test_labels_are_shown_or_not_and_the_trigger_goes_at_the_end(world):
    off = StateLabels(prefix="devstral-fix", on=False)
    off.show(world.forge, world.number, of_outcome(Outcome.FIXED))
    assert world.labels == {"devstral-fix", "bug", "devstral-fix: queued"}
    LABELS.show(world.forge, world.number, of_outcome(Outcome.QUESTION), ended=True)
    assert world.labels == {"bug", "devstral-fix: needs-info"}
    LABELS.show(world.forge, world.number, None, ended=True)
    assert world.labels == {"bug"}
    world.forge.add_label(world.number, "Devstral-Fix")
    off.show(world.forge, world.number, of_outcome(Outcome.FIXED), ended=True)
    assert world.labels == {"bug"}


def test_a_label_that_can_t_be_set_is_no_failure(world):
    world.claim()
    world.forge.faults["add_label"] = [ForgeRefused("no")]
    world.tell(world.run.id)
    assert "working on it" in world.comment
    assert world.labels == {"devstral-fix", "bug"}
