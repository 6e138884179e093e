"""Commands in comments, from the stored delivery to what becomes of them. GitHub is a fake that passes the contract."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.fake_forge import After
from tests.integration.test_intake import World
from worker import wakes
from worker.errors import ForgeRefused, ForgeUnavailable
from worker.runs import requests, states
from worker.runs.asked import CommandRequest
from worker.runs.commands import Verb
from worker.store import queries
from worker.store.models import Delivery, DeliveryState, RunState


class Commands(World):
    def command(self, verb: Verb, words: str = "", *, number: int | None = None, **changes) -> Delivery:
        """Somebody writes it below the issue."""
        number = self.number if number is None else number
        said = self.github.write(self.number, f"/devstral {verb.value} {words}", changes.get("sender", "octo-admin"))
        values = {
            "repository": "acme/textkit",
            "installation_id": 100,
            "issue_number": number,
            "sender": "octo-admin",
            "sender_type": "User",
            "verb": verb,
            "words": words,
            "comment_id": said.id,
            "on_pull_request": False,
            "title": "as it was",
            "body": "then",
            "issue_url": "u",
            "label": "devstral-fix",
            "asked_at": datetime.now(UTC),
            **changes,
        }
        request = CommandRequest(**values)
        with self.store.transaction() as session:
            delivery_id = queries.insert_delivery(
                session,
                key=f"comment-{said.id}",
                event="issue_comment",
                action="created",
                repository=request.repository,
                issue_number=request.issue_number,
                body_sha256="0" * 64,
                request=request.model_dump(mode="json"),
                state=DeliveryState.RECEIVED,
            )
        assert delivery_id is not None
        self.intake()
        return self.delivery(delivery_id)

    def said(self) -> list[str]:
        """What the service wrote."""
        return [body for body in self.comments() if body.startswith("<!--")]

    def reactions(self) -> list[str]:
        return [reaction for _, _, reaction in self.github.reactions]


@pytest.fixture
def world(store, tmp_path):
    world = Commands(store, tmp_path)
    world.github.permissions["reader"] = "read"
    yield world
    world.heartbeat.close()


@pytest.mark.parametrize("verb", [Verb.FIX, Verb.RETRY])
def test_a_fix_starts_a_run_with_what_was_said(world, verb):
    world.github.write(world.number, "It is on Windows.", "ann")
    delivery = world.command(verb, "only the parser")
    (run,) = world.runs()
    assert (delivery.state, delivery.run_id) == (DeliveryState.HANDLED, run.id)
    assert (run.issue_title, run.requested_by) == ("as it was", "octo-admin")
    assert run.issue_body.startswith("then\n\n## Comments on the issue\n\n### ann, ")
    assert run.issue_body.endswith("## What octo-admin said when asking for this\n\nonly the parser")
    assert world.sent == [wakes.permit("small-24b")]
    (comment,) = [c for c in world.github.comments[world.number] if c.body.startswith("/devstral")]
    assert world.github.reactions == [(world.number, comment.id, "eyes")]
    assert "queued for small-24b, asked for by @octo-admin" in world.said()[0]


@pytest.mark.parametrize("verb", list(Verb))
def test_who_may_not_write_gives_no_commands(world, verb):
    for sender in ("reader", "nobody"):
        delivery = world.command(verb, sender=sender)
        assert delivery.state is DeliveryState.IGNORED
        assert "asking for this needs write" in delivery.reason
    assert (world.runs(), world.said(), world.reactions()) == ([], [], [])


def test_a_permission_that_can_t_be_asked_for_starts_nothing(world):
    world.forge.faults["permission"] = [ForgeUnavailable("away")]
    delivery = world.command(Verb.FIX)
    assert (delivery.state, delivery.reason) == (DeliveryState.RECEIVED, "away"), "it is asked again later"
    assert world.runs() == []


def test_a_stop_cancels_and_names_who(world):
    world.deliver()
    delivery = world.command(Verb.STOP)
    (run,) = world.runs()
    assert (run.state, run.reason) == (RunState.CANCELLED, "cancelled by octo-admin, who asked for it")
    assert (delivery.state, delivery.run_id) == (DeliveryState.HANDLED, run.id)
    assert world.sent[-1] == wakes.deliver(run.id)
    assert world.command(Verb.STOP).reason == "no run is under way"


def test_a_retry_while_one_is_live_joins_it(world):
    world.deliver()
    delivery = world.command(Verb.RETRY)
    (run,) = world.runs()
    assert (delivery.state, delivery.run_id) == (DeliveryState.IGNORED, run.id)
    assert delivery.reason == "a run for this issue is already under way"


def test_the_status_is_shown_in_the_same_comment(world):
    assert world.command(Verb.STATUS).state is DeliveryState.HANDLED
    assert "nothing was asked for" in world.said()[0]
    world.deliver()
    world.command(Verb.STATUS)
    (said,) = world.said()
    assert "queued for small-24b" in said
    with world.store.transaction() as session:
        lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
    world.command(Verb.STATUS)
    (said,) = world.said()
    assert "working on it (for less than a minute), asked for by @octo-admin" in said
    with world.store.transaction() as session:
        states.advance(session, lease, RunState.FAILED, reason="ours <!-- x -->")
    world.command(Verb.STATUS)
    (said,) = world.said()
    assert "**devstral-fix**: failed: `ours <!-- x -->`" in said
    assert world.reactions() == ["eyes"] * 5


def test_what_is_no_command_is_answered_with_the_commands(world):
    world.deliver()
    world.command(Verb.UNKNOWN, "fxi `@team` it")
    (said,) = world.said()
    assert "queued for small-24b" in said, "the state is still there"
    assert "Not understood: `/devstral fxi '@team' it`" in said
    assert "- `/devstral stop`: end what is under way" in said
    assert world.reactions()[-1] == "confused"


@pytest.mark.parametrize("fault", [ForgeRefused("no"), After(ForgeUnavailable("lost")), ForgeUnavailable("away")])
def test_a_reaction_or_an_answer_that_fails_loses_nothing(world, fault):
    world.forge.faults["react"] = [fault, fault]
    assert world.command(Verb.FIX).state is DeliveryState.HANDLED
    world.forge.faults["edit_comment"] = [fault]
    assert world.command(Verb.STATUS).state is DeliveryState.HANDLED
    assert len(world.runs()) == 1


def test_at_a_pull_request_of_ours_it_is_about_its_issue(world):
    world.deliver()
    (run,) = world.runs()
    pull = world.forge.open_pull_request(title="t", body="b", head=run.branch, base="main", draft=True)
    with world.store.transaction() as session:
        queries.upsert_pull_request(
            session,
            run_id=run.id,
            repository=run.repository,
            issue_number=run.issue_number,
            branch=run.branch,
            number=pull.number,
            url=pull.url,
            state="open",
            draft=True,
            head_commit="1" * 40,
        )
    assert world.command(Verb.STOP, number=pull.number, on_pull_request=True).run_id == run.id
    delivery = world.command(Verb.RETRY, number=pull.number, on_pull_request=True)
    again = next(r for r in world.runs() if r.id != run.id)
    assert (delivery.run_id, again.issue_number, again.branch) == (again.id, run.issue_number, run.branch)
    assert again.issue_title == world.github.issues[world.number].title


def test_at_a_stranger_s_pull_request_nothing_happens(world):
    for verb in Verb:
        delivery = world.command(verb, number=77, on_pull_request=True)
        assert (delivery.state, delivery.reason) == (DeliveryState.IGNORED, "the pull request is not from this service")
    assert (world.runs(), world.said(), world.reactions()) == ([], [], [])


def test_the_newest_run_is_the_one_people_mean(world):
    world.deliver("one")
    world.command(Verb.STOP)
    world.deliver("two")
    with world.store.transaction() as session:
        newest = requests.newest_run(session, "ACME/textkit", world.number)
    assert newest == max(run.id for run in world.runs())
