"""Events after which nobody wants an issue worked on: what they cancel, and what they leave alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlalchemy import func, select, text

from tests.factories import issue_request
from tests.fake_forge import BOT, FakeForge
from tests.integration.test_intake import World
from tests.worker_processes import wait_until
from worker import wakes
from worker.errors import ForgeUnavailable
from worker.runs import requests, states
from worker.runs.asked import IssueRequest, StopRequest, stored_request
from worker.store import queries
from worker.store.models import Delivery, DeliveryState, RunState


def stop_request(number, ending="closed", **changes) -> StopRequest:
    values = {
        "repository": "acme/textkit",
        "installation_id": 100,
        "issue_number": number,
        "ending": ending,
        "sender": "ann",
        "sender_type": "User",
        "label": "devstral-fix",
        **changes,
    }
    return StopRequest(**values)


class Stops(World):
    def store_stop(self, key="stop-1", ending="closed", **changes):
        request = stop_request(self.number, ending, **changes)
        with self.store.transaction() as session:
            return queries.insert_delivery(
                session,
                key=key,
                event="issues",
                action=ending,
                repository=request.repository,
                issue_number=self.number,
                body_sha256="0" * 64,
                request=request.model_dump(mode="json"),
                state=DeliveryState.RECEIVED,
            )

    def stop(self, key="stop-1", ending="closed", **changes) -> Delivery:
        delivery_id = self.store_stop(key, ending, **changes)
        self.intake()
        return self.delivery(delivery_id)

    def issue(self, **change) -> None:
        self.github.issues[self.number] = self.github.issues[self.number].model_copy(update=change)


@pytest.fixture
def world(store, tmp_path):
    world = Stops(store, tmp_path)
    world.issue(labels=("devstral-fix",))
    yield world
    world.heartbeat.close()


@pytest.mark.parametrize(
    ("ending", "change", "said"),
    [
        ("closed", {"state": "closed"}, "cancelled by ann, who closed the issue"),
        ("locked", {"locked": True}, "cancelled by ann, who locked the issue"),
        ("unlabeled", {"labels": ("other",)}, "cancelled by ann, who took the label off"),
        ("deleted", None, "cancelled by ann, who deleted the issue"),
        ("transferred", None, "cancelled by ann, who transferred the issue"),
    ],
)
def test_a_queued_run_ends_with_who_did_what(world, ending, change, said):
    world.deliver()
    if change is None:
        del world.github.issues[world.number]
    else:
        world.issue(**change)
    delivery = world.stop(ending=ending)
    (run,) = world.runs()
    assert (delivery.state, delivery.run_id) == (DeliveryState.HANDLED, run.id)
    assert (run.state, run.reason) == (RunState.CANCELLED, said)
    assert world.sent[-1] == wakes.deliver(run.id)


def test_a_running_run_is_asked_and_who_asked_first_is_kept(world):
    world.deliver()
    with world.store.transaction() as session:
        assert states.claim_next(session, profile="small-24b", owner="w", seconds=60) is not None
    world.issue(state="closed")
    for key in ("stop-1", "stop-2"):
        assert world.stop(key, sender="ann" if key == "stop-1" else "bob").state is DeliveryState.HANDLED
    (run,) = world.runs()
    assert (run.state, run.cancel_requested) == (RunState.RUNNING, "ann, who closed the issue")
    assert wakes.deliver(run.id) not in world.sent, "its worker writes the end"


@pytest.mark.parametrize(
    ("ending", "change"),
    [
        ("closed", {}),
        ("locked", {}),
        ("unlabeled", {}),
        ("unlabeled", {"labels": (" Devstral-Fix",)}),
        ("deleted", {}),
        ("transferred", {}),
    ],
)
def test_what_was_undone_meanwhile_cancels_nothing(world, ending, change):
    world.deliver()
    world.issue(**change)
    delivery = world.stop(ending=ending)
    assert (delivery.state, delivery.reason) == (DeliveryState.IGNORED, f"the issue is no longer {ending}")
    assert world.runs()[0].state is RunState.QUEUED


@pytest.mark.parametrize("sender", [{"sender": BOT}, {"sender": "some-bot", "sender_type": "Bot"}])
def test_a_bot_that_takes_the_label_off_stops_nothing(world, sender):
    world.deliver()
    world.issue(labels=())
    assert world.stop(ending="unlabeled", **sender).state is DeliveryState.IGNORED
    assert world.runs()[0].state is RunState.QUEUED


def test_without_a_run_there_is_nothing_to_stop(world):
    world.issue(state="closed")
    delivery = world.stop()
    assert (delivery.state, delivery.reason) == (DeliveryState.IGNORED, "no run is under way")
    assert world.comments() == []


def test_a_label_that_arrives_after_the_close_starts_nothing(world):
    world.issue(state="closed")
    world.stop()
    assert "closed" in (world.delivery(world.deliver()).reason or "")
    assert world.runs() == []


def test_while_github_is_away_the_stop_waits(world):
    world.deliver()
    world.issue(state="closed")
    world.forge.faults["issue"] = [ForgeUnavailable("502 from GitHub")]
    assert world.stop().state is DeliveryState.RECEIVED
    assert world.runs()[0].state is RunState.QUEUED


def test_a_close_while_the_issue_is_being_read_is_not_missed(world, monkeypatch):
    """Two intakes side by side: one has read the issue as open when the other handles the close and finds no run. Red
    without `newest_stop`."""
    read, closed = Event(), Event()
    issue = FakeForge.issue

    def slow(forge, number):
        found = issue(forge, number)
        if not read.is_set():
            read.set()
            assert closed.wait(30)
        return found

    monkeypatch.setattr(FakeForge, "issue", slow)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(world.deliver)
        assert read.wait(30)
        world.issue(state="closed")
        assert world.stop().reason == "no run is under way"
        closed.set()
        delivery = world.delivery(starting.result(30))
    assert (delivery.state, delivery.reason) == (DeliveryState.IGNORED, "the issue is closed")
    assert world.runs() == []


def test_a_close_while_the_run_is_being_written_waits_and_then_cancels_it(world, monkeypatch):
    """Red without the lock in the start, or in the stop: it finds no run, and one starts for a closed issue."""
    writing, stopping = Event(), []
    start = requests.start

    def waits_for_lock() -> bool:
        with world.store.transaction() as session:
            return session.scalar(text("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

    def slow(*args, **options):
        writing.set()
        wait_until(lambda: stopping and (stopping[0].done() or waits_for_lock()))
        return start(*args, **options)

    monkeypatch.setattr(requests, "start", slow)
    with ThreadPoolExecutor(2) as pool:
        starting = pool.submit(world.deliver)
        assert writing.wait(30)
        world.issue(state="closed")
        stopping.append(pool.submit(world.stop))
        starting.result(60)
        assert stopping[0].result(60).state is DeliveryState.HANDLED
    (run,) = world.runs()
    assert (run.state, run.reason) == (RunState.CANCELLED, "cancelled by ann, who closed the issue")


def test_requests_stored_before_there_were_two_kinds_are_readable():
    old = issue_request().model_dump(mode="json")
    del old["kind"]
    assert isinstance(stored_request(old), IssueRequest)
    request = stop_request(3)
    assert stored_request(request.model_dump(mode="json")) == request


def test_the_sweep_ends_what_came_back_to_the_queue_to_be_cancelled(world):
    world.deliver()
    with world.store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
        assert lease is not None
    with world.store.transaction() as session:
        requests.cancel(session, lease.run_id, by="ann")
    with world.store.transaction() as session:
        states.advance(session, lease, RunState.QUEUED)
    with world.store.transaction() as session:
        assert requests.end_cancelled(session) == [lease.run_id]
    assert (world.runs()[0].state, world.runs()[0].reason) == (RunState.CANCELLED, "cancelled by ann")
    with world.store.transaction() as session:
        assert requests.end_cancelled(session) == []
        assert session.scalar(select(func.count()).select_from(Delivery)) == 1
