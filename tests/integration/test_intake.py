"""Intake against real Postgres and real git; GitHub is a fake that passes the forge's contract."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from tests.factories import issue_request
from tests.fake_forge import After, FakeForge, FakeForges, FakeRepository
from worker import wakes
from worker.adapters.repos import GitRepositories
from worker.demo.github_double.bare import BareRepositories
from worker.errors import ForgeRefused, ForgeUnavailable
from worker.heartbeat import Heartbeat
from worker.runs import quarantine
from worker.stages.intake import MAX_CRASHES, Intake
from worker.store import queries
from worker.store.models import Delivery, DeliveryState, Run
from worker.store.money import Account, Quarantine, Scope
from worker.store.room import today

FILES = {"README.md": "hello\n", ".devstral-fix.yml": "test: make check\n"}


class World:
    """One repository, one forge, one intake."""

    def __init__(self, store, tmp_path, files=FILES):
        self.store = store
        self.bare = BareRepositories(tmp_path / "origin")
        self.commit = self.bare.create("acme/textkit", files, "main")
        self.github = FakeRepository("acme/textkit", clone_url=f"file://{self.bare.path('acme/textkit')}")
        self.github.permissions["octo-admin"] = "admin"
        self.number = self.github.open_issue()
        self.forge = FakeForge(self.github)
        self.sent: list[wakes.Wake] = []
        self.heartbeat = Heartbeat(store, seconds=3600)
        self.intake = Intake(
            store=store,
            heartbeat=self.heartbeat,
            forges=FakeForges(self.forge),
            repositories=GitRepositories(tmp_path / "repositories", allow_file=True),
            send=self.sent.append,
            profile="small-24b",
            max_attempts=3,
        )

    def deliver(self, key="guid-1", **changes) -> UUID:
        request = issue_request(self.number, **changes)
        with self.store.transaction() as session:
            delivery_id = queries.insert_delivery(
                session,
                key=key,
                event="issues",
                action="labeled",
                body_sha256="0" * 64,
                request=request.model_dump(mode="json"),
                state=DeliveryState.RECEIVED,
            )
        assert delivery_id is not None
        self.intake()
        return delivery_id

    def delivery(self, delivery_id) -> Delivery:
        with self.store.transaction() as session:
            return session.get_one(Delivery, delivery_id)

    def runs(self) -> list[Run]:
        with self.store.transaction() as session:
            return list(session.scalars(select(Run)))

    def comments(self) -> list[str]:
        return [c.body for c in self.github.comments.get(self.number, [])]


@pytest.fixture
def world(store, tmp_path):
    world = World(store, tmp_path)
    yield world
    world.heartbeat.close()


def test_an_entitled_request_becomes_a_queued_run(world):
    delivery = world.delivery(world.deliver())
    (run,) = world.runs()
    assert (delivery.state, delivery.run_id) == (DeliveryState.HANDLED, run.id)
    assert (run.base_commit, run.base_branch, run.branch) == (world.commit, "main", f"devstral/issue-{world.number}")
    assert run.repository_config["test"] == "make check"
    assert world.sent == [wakes.permit("small-24b")]
    assert len(world.comments()) == 1
    assert "queued" in world.comments()[0]
    assert "position 1 of 1 (no worker serves profile small-24b)" in world.comments()[0]
    assert run.status_comment_id is not None


def test_a_repository_with_files_in_lfs_is_told_that_they_stay_pointers(world):
    world.deliver()
    assert "LFS" not in world.comments()[0]
    files = {
        "data/.gitattributes": "# filter=lfs\n*.bin filter=lfs diff=lfs merge=lfs -text\n",
        "data/x.bin": "pointer",
    }
    world.bare.create("acme/large", files, "main")
    world.github.clone_url = f"file://{world.bare.path('acme/large')}"
    world.number = world.github.open_issue()
    world.deliver("guid-2")
    assert "keeps files in Git LFS" in world.comments()[0]


@pytest.mark.parametrize("permission", ["none", "read", "triage", "something-new"])
def test_without_write_permission_nothing_starts_and_nothing_is_said(world, permission):
    world.github.permissions["octo-admin"] = permission
    delivery = world.delivery(world.deliver())
    assert delivery.state is DeliveryState.IGNORED
    assert permission in (delivery.reason or "")
    assert world.runs() == []
    assert world.comments() == []
    assert world.sent == []


def test_bots_never_trigger(world):
    delivery = world.delivery(world.deliver(sender_type="Bot"))
    assert (delivery.state, delivery.reason) == (DeliveryState.IGNORED, "bots never trigger")
    assert "permission" not in world.forge.calls


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"state": "closed"}, "closed"), ({"locked": True}, "locked"), ({"is_pull_request": True}, "pull request")],
)
def test_an_issue_that_changed_since_is_left_alone(world, change, reason):
    world.github.issues[world.number] = world.github.issues[world.number].model_copy(update=change)
    delivery = world.delivery(world.deliver())
    assert delivery.state is DeliveryState.IGNORED
    assert reason in (delivery.reason or "")
    assert world.runs() == []


def test_an_archived_repository_is_left_alone(world):
    world.github.archived = True
    assert "archived" in (world.delivery(world.deliver()).reason or "")


def test_a_repository_that_cannot_be_cloned_ends_with_the_reason_on_the_issue(world):
    world.github.clone_url += "-gone"
    delivery = world.delivery(world.deliver())
    assert delivery.state is DeliveryState.IGNORED
    assert delivery.reason
    assert world.runs() == []
    assert len(world.comments()) == 1
    assert "not started" in world.comments()[0]


def test_a_broken_repository_setting_is_told_on_the_issue(store, tmp_path):
    world = World(store, tmp_path, {**FILES, ".devstral-fix.yml": "tests: typo\n"})
    delivery = world.delivery(world.deliver())
    assert delivery.state is DeliveryState.IGNORED
    assert "tests: Extra inputs" in world.comments()[0]


def test_a_repository_that_is_not_ours_ends(world):
    delivery = world.delivery(world.deliver(repository="acme/other"))
    assert delivery.state is DeliveryState.IGNORED


def test_a_second_label_joins_the_live_run(world):
    world.deliver("guid-1")
    delivery = world.delivery(world.deliver("guid-2"))
    assert delivery.state is DeliveryState.IGNORED
    assert "under way" in (delivery.reason or "")
    assert len(world.runs()) == 1
    assert len(world.comments()) == 1
    assert len(world.sent) == 1


def test_the_text_is_frozen_as_it_was_when_they_asked(world):
    world.github.issues[world.number] = world.github.issues[world.number].model_copy(update={"body": "edited later"})
    world.deliver(body="as it was")
    assert world.runs()[0].issue_body == "as it was"


def test_while_github_is_away_the_delivery_waits_with_the_reason(world):
    world.forge.faults["permission"] = [ForgeUnavailable("502 from GitHub", retry_after=99)]
    delivery_id = world.deliver()
    delivery = world.delivery(delivery_id)
    assert (delivery.state, delivery.reason) == (DeliveryState.RECEIVED, "502 from GitHub")
    assert (delivery.publish_after - delivery.received_at).total_seconds() > 90
    world.intake()
    assert world.runs() == [], "not before its time"
    with world.store.transaction() as session:
        session.execute(update(Delivery).values(claimed_until=text("now() - interval '1 s'")))
    world.intake()
    assert len(world.runs()) == 1


def claimable(world):
    with world.store.transaction() as session:
        session.execute(update(Delivery).values(claimed_until=text("now() - interval '1 s'")))


def test_an_answer_that_never_comes_is_waited_for_a_day(world):
    world.forge.faults["repository"] = [ForgeUnavailable("away")] * 12
    delivery_id = world.deliver()
    for _ in range(10):
        claimable(world)
        world.intake()
    assert world.delivery(delivery_id).state is DeliveryState.RECEIVED, "however often it was tried"
    with world.store.transaction() as session:
        session.execute(update(Delivery).values(received_at=text("now() - interval '1 day'")))
    claimable(world)
    world.intake()
    delivery = world.delivery(delivery_id)
    assert (delivery.state, delivery.reason) == (DeliveryState.FAILED, "given up after a day: away")


def test_pauses_grow_with_the_time_waited(world):
    world.forge.faults["repository"] = [ForgeUnavailable("away")] * 3
    delivery_id = world.deliver()
    with world.store.transaction() as session:
        session.execute(update(Delivery).values(received_at=text("now() - interval '40 minutes'")))
    claimable(world)
    world.intake()
    delivery = world.delivery(delivery_id)
    waited = (delivery.publish_after - delivery.received_at).total_seconds()
    assert waited == pytest.approx(50 * 60, abs=30)


def test_what_makes_us_crash_is_put_aside_after_a_few_tries(world):
    world.forge.faults["repository"] = [ZeroDivisionError("ours")] * 9
    delivery_id = world.deliver()
    for _ in range(MAX_CRASHES):
        claimable(world)
        world.intake()
    delivery = world.delivery(delivery_id)
    assert (delivery.state, delivery.reason) == (DeliveryState.FAILED, "internal error: ZeroDivisionError: ours")


@pytest.mark.parametrize("fault", [ForgeUnavailable("away"), ForgeRefused("no"), After(ForgeUnavailable("lost"))])
def test_a_comment_that_fails_loses_no_run(world, fault):
    world.forge.faults["create_comment"] = [fault]
    world.deliver()
    assert len(world.runs()) == 1
    assert len(world.sent) == 1


def test_a_repository_that_needs_a_set_up_waits_for_it(store, tmp_path):
    world = World(store, tmp_path, {**FILES, "requirements.txt": "x\n"})
    world.deliver()
    (run,) = world.runs()
    assert (run.state, run.held_reason, run.setup_key) == ("queued", "setup", None)
    assert world.sent == [wakes.setup(run.id)]


def test_no_set_up_is_needed_where_its_owners_say_so(store, tmp_path):
    world = World(store, tmp_path, {"requirements.txt": "x\n", ".devstral-fix.yml": "setup: false\n"})
    world.deliver()
    (run,) = world.runs()
    assert run.held_reason is None
    assert world.sent == [wakes.permit("small-24b")]


def test_what_is_in_quarantine_is_refused_with_the_reason_told_once(world):
    with world.store.transaction() as session:
        session.add(Quarantine(repository="acme/textkit", issue_number=world.number, reason="3 runs in a row failed"))
    for key in ("guid-1", "guid-2"):
        delivery = world.delivery(world.deliver(key))
        assert delivery.state is DeliveryState.IGNORED
        assert delivery.reason == (
            "this issue is not tried until it is lifted: 3 runs in a row failed"
            " (an operator ends that with `devstral-fix quarantine lift`)"
        )
    assert world.runs() == []
    assert [body.count("3 runs in a row failed") for body in world.comments()] == [1]
    with world.store.transaction() as session:
        assert quarantine.lift(session, "acme/textkit", world.number, by="octo")
    world.deliver("guid-3")
    assert len(world.runs()) == 1


def test_a_run_that_waits_for_a_budget_says_so_in_its_status_comment(world):
    with world.store.transaction() as session:
        day = session.scalar(select(today()))
        session.add(Account(scope=Scope.REPOSITORY, key="acme/textkit", day=day, limit_usd=1, spent_usd=1))
    world.deliver()
    assert "held: today's budget of acme/textkit is used up; goes on at 00:00 UTC" in world.comments()[0]
