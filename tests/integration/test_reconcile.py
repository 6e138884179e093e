"""Labels whose webhook never came: what is asked for them, by whom, and once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from tests.factories import issue_request
from tests.integration.whole import NAME, Whole
from worker import wakes
from worker.errors import ForgeRefused, ForgeUnavailable
from worker.stages.reconcile import Reconcile
from worker.store.models import Delivery, DeliveryState

AGO = timedelta(minutes=10)


class Missed(Whole):
    def __init__(self, store, tmp_path):
        super().__init__(store, tmp_path, {"README.md": "hello\n"})
        self.number = self.github.open_issue(body="as it is")
        self.reconcile = Reconcile(store=store, forges=self.forges, send=self.sent.append, label="devstral-fix")

    def labelled(self, *, number=None, ago=AGO, actor="octo-admin"):
        number = number or self.number
        self.github.put_label(number, "devstral-fix", actor=actor, at=datetime.now(UTC) - ago)

    def deliveries(self):
        with self.store.transaction() as session:
            return list(session.scalars(select(Delivery).order_by(Delivery.id)))


@pytest.fixture
def world(store, tmp_path):
    world = Missed(store, tmp_path)
    yield world
    world.heartbeat.close()


def test_a_label_that_nobody_told_of_is_asked_about_once(world):
    world.labelled()
    world.github.write(world.number, "later", "ann")
    for _ in range(2):
        world.reconcile()
    assert world.sent == [wakes.intake()]
    world.intake()
    (delivery,) = world.deliveries()
    (run,) = world.runs()
    assert (delivery.state, delivery.run_id, delivery.sender) == (DeliveryState.HANDLED, run.id, "octo-admin")
    assert (run.requested_by, run.requested_by_id, run.issue_body) == ("octo-admin", 7, "as it is")


def test_its_webhook_that_comes_late_starts_nothing_twice(world):
    world.labelled()
    world.reconcile()
    world.intake()
    world.work()  # it fails, since no answer is scripted: it has ended
    late = world.ask(issue_request(world.number, asked_at=datetime.now(UTC) - AGO))
    assert (late.state, late.reason) == (DeliveryState.IGNORED, "its run was begun before this came")
    assert len(world.runs()) == 1
    again = world.ask(issue_request(world.number, asked_at=datetime.now(UTC) + timedelta(minutes=1)))
    assert again.state is DeliveryState.HANDLED, again.reason


def test_what_came_is_not_asked_about(world):
    world.labelled()
    with world.store.transaction() as session:
        session.add(
            Delivery(
                key="guid",
                event="issues",
                action="labeled",
                repository=NAME,
                issue_number=world.number,
                body_sha256="0",
                state=DeliveryState.IGNORED,
            )
        )
    world.reconcile()
    assert len(world.deliveries()) == 1


@pytest.mark.parametrize(
    "labelled", [{"ago": timedelta(seconds=30)}, {"actor": "helper[bot]"}, {"actor": "stranger"}, {"actor": "bob"}]
)
def test_what_may_still_come_and_whom_nobody_entitled(world, labelled):
    world.labelled(**labelled)
    world.reconcile()
    world.intake()
    assert world.runs() == []


def test_where_it_can_t_be_told_who_asked_nothing_starts(world):
    world.labelled()
    world.github.label_events.clear()
    world.reconcile()
    assert world.deliveries() == []


@pytest.mark.parametrize("change", [{"state": "closed"}, {"locked": True}])
def test_issues_that_are_not_ours_to_touch(world, change):
    world.labelled()
    world.github.issues[world.number] = world.github.issues[world.number].model_copy(update=change)
    world.reconcile()
    assert world.deliveries() == []


def test_a_live_run_costs_no_question(world):
    world.ask(issue_request(world.number))
    world.labelled()
    world.forge.calls.clear()
    world.reconcile()
    assert world.forge.calls == ["labelled"]


def test_repositories_are_those_with_runs_and_where_an_app_is_installed(world):
    world.labelled()
    world.forges.installations = ()
    world.reconcile()
    assert world.deliveries() == [], "nothing is known of it"
    world.ask(issue_request(world.github.open_issue()))
    world.reconcile()
    assert [d.key for d in world.deliveries() if d.key.startswith("sweep:")] == [f"sweep:{NAME}#{world.number}:1"]


@pytest.mark.parametrize("fault", [ForgeRefused("gone"), ForgeUnavailable("away")])
def test_github_that_refuses_or_is_away(world, fault):
    world.labelled()
    world.forge.faults["labelled"] = [fault]
    world.reconcile()
    assert world.deliveries() == []
    world.reconcile()
    assert len(world.deliveries()) == 1
