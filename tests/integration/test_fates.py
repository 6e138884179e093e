"""What becomes of pull requests of ours, and of runs whose repository goes away. Real Postgres and git; GitHub is a
fake that passes the contract."""

from __future__ import annotations

import pytest

from tests.fake_forge import FakeForges
from tests.integration.test_commanding import Commands
from worker.errors import ForgeUnavailable
from worker.runs import ledger, pull_requests, states
from worker.runs.asked import PullRequestEvent, RemovedRequest
from worker.store import queries
from worker.store.models import DeliveryState, PullRequest, RunState

OURS = "3" * 40


class Fates(Commands):
    """A run that was delivered as a pull request."""

    def __init__(self, store, tmp_path):
        super().__init__(store, tmp_path)
        self.deliver()
        (self.run,) = self.runs()
        self.git_dir = self.intake.repositories.mirror("acme/textkit")
        tree = self.intake.repositories.apply(
            self.git_dir,
            self.commit,
            "--- a/README.md\n+++ b/README.md\n@@ -1 +1,3 @@\n hello\n+one\n+two\n",
        )
        self.patch = self.intake.repositories.patch(self.git_dir, self.commit, tree)
        self.github.head_of = lambda _: OURS
        self.pull = self.forge.open_pull_request(title="t", body="b", head=self.run.branch, base="main", draft=True)
        with store.transaction() as session:
            lease = states.claim_next(session, profile="small-24b", owner="w", seconds=60)
            ledger.record_patch(session, lease, self.patch)
            states.advance(session, lease, RunState.CONCLUDED)
            lease = states.claim_stage(session, self.run.id, "verify", owner="w", seconds=60)
            states.finish_verify(session, lease, outcome="fixed")
            lease = states.claim_stage(session, self.run.id, "deliver", owner="w", seconds=60)
            states.advance(session, lease, RunState.DELIVERED)
            queries.upsert_pull_request(
                session,
                run_id=self.run.id,
                repository="acme/textkit",
                issue_number=self.number,
                branch=self.run.branch,
                number=self.pull.number,
                url=self.pull.url,
                state="open",
                draft=True,
                head_commit=OURS,
            )

    def happens(self, action="closed", *, key=None, number=None, head=OURS, **changes):
        """GitHub tells it."""
        values = {
            "repository": "acme/textkit",
            "installation_id": 100,
            "issue_number": self.pull.number if number is None else number,
            "sender": "ann",
            "sender_type": "User",
            "action": action,
            "branch": self.run.branch,
            "head": head,
            **changes,
        }
        return self._given(PullRequestEvent(**values), key or action)

    def _given(self, request, key):
        with self.store.transaction() as session:
            delivery_id = queries.insert_delivery(
                session,
                key=key,
                event="pull_request",
                action=key,
                body_sha256="0" * 64,
                request=request.model_dump(mode="json"),
                state=DeliveryState.RECEIVED,
            )
        self.intake()
        return self.delivery(delivery_id)

    def becomes(self, **changes):
        """On GitHub."""
        index = self.github.pull_requests.index(self.pull)
        self.github.pull_requests[index] = self.pull = self.pull.model_copy(update=changes)

    @property
    def row(self) -> PullRequest:
        with self.store.transaction() as session:
            return pull_requests.known(session, "acme/textkit", self.pull.number)


@pytest.fixture
def world(store, tmp_path):
    world = Fates(store, tmp_path)
    yield world
    world.heartbeat.close()


def merge(world, text: str) -> str:
    """People merge it as this content of README.md."""
    return world.bare.commit("acme/textkit", {"README.md": text}, "main")


@pytest.mark.parametrize(
    ("text", "share"), [("hello\none\ntwo\n", 1.0), ("hello\none\nthree\n", 0.5), ("hello\n\n", 0.0)]
)
def test_a_merge_is_recorded_with_how_much_survived(world, text, share):
    commit = merge(world, text)
    world.becomes(state="closed", merged=True, merge_commit=commit)
    assert world.happens(merged=True, merge_commit=commit).state is DeliveryState.HANDLED
    row = world.row
    assert (row.state, row.merge_commit, row.survived) == ("merged", commit, share)
    assert row.merged_at == row.closed_at
    world.happens(key="again", merged=True, merge_commit="9" * 40)
    assert world.row.merge_commit == commit, "told of twice, it is one merge"


def test_a_merge_that_can_t_be_found_is_a_merge(world):
    world.becomes(state="closed", merged=True, merge_commit="9" * 40)
    world.happens(merged=True, merge_commit="9" * 40)
    assert (world.row.state, world.row.survived) == ("merged", None)


def test_a_close_and_what_comes_after_it(world):
    world.becomes(state="closed")
    world.happens()
    assert (world.row.state, world.row.merged_at) == ("closed", None)
    assert world.row.closed_at is not None
    world.deliver("again")
    newest = max(world.runs(), key=lambda run: run.id)
    assert newest.branch == f"devstral/issue-{world.number}-2", "what people closed is not changed under their hands"
    world.becomes(state="open")
    world.happens("reopened")
    assert (world.row.state, world.row.closed_at) == ("open", None)


def test_what_is_open_is_updated(world):
    world.deliver("again")
    newest = max(world.runs(), key=lambda run: run.id)
    assert newest.branch == world.run.branch


def test_a_close_ends_what_is_live_on_its_branch(world):
    world.deliver("again")
    world.becomes(state="closed")
    delivery = world.happens()
    newest = max(world.runs(), key=lambda run: run.id)
    assert (newest.state, newest.reason) == (RunState.CANCELLED, "cancelled by ann, who closed the pull request")
    assert delivery.run_id == newest.id


def test_an_event_that_comes_late_records_what_is_so_now(world):
    world.happens("closed")
    assert (world.row.state, world.row.closed_at) == ("open", None)


def test_commits_of_people_are_noticed(world):
    world.happens("synchronize")
    assert world.row.people_head is None, "our own push"
    world.becomes(head_commit="8" * 40)
    world.happens("synchronize", key="people")
    assert world.row.people_head == "8" * 40


def test_a_draft_that_people_mark_as_ready(world):
    world.becomes(draft=False)
    world.happens("ready_for_review")
    assert world.row.draft is False


def test_a_pull_request_that_is_not_ours(world):
    delivery = world.happens(number=4711)
    assert (delivery.state, delivery.reason) == (DeliveryState.IGNORED, "the pull request is not from this service")


def test_github_that_is_away_is_asked_again(world):
    world.forge.faults["pull_request"] = [ForgeUnavailable("away")]
    assert world.happens().state is DeliveryState.RECEIVED


def removed(world, key, removal="uninstalled", **changes):
    values = {"installation_id": 100, "removal": removal, "sender": "ann", "sender_type": "User", **changes}
    return world._given(RemovedRequest(**values), key)


def test_an_app_that_is_uninstalled_ends_its_runs(world):
    world.deliver("again")
    assert removed(world, "early").reason == "no run is under way", "the repository can be read: it is there again"
    forges, world.intake = world.intake.forges, _without_repositories(world.intake)
    delivery = removed(world, "gone")
    newest = max(world.runs(), key=lambda run: run.id)
    assert (newest.state, newest.reason) == (RunState.CANCELLED, "cancelled by ann, who uninstalled the App")
    assert delivery.run_id == newest.id
    assert forges is not world.intake.forges


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({"repositories": ("acme/textkit",), "removal": "removed"}, True),
        ({"repositories": ("ACME/TextKit",), "removal": "deleted", "installation_id": None}, True),
        ({"repositories": ("acme/other",)}, False),
        ({"installation_id": 7}, False),
        ({"installation_id": None}, False),
    ],
)
def test_which_runs_end(world, changes, ends):
    world.deliver("again")
    world.intake = _without_repositories(world.intake)
    removed(world, "gone", **changes)
    newest = max(world.runs(), key=lambda run: run.id)
    assert (newest.state is RunState.CANCELLED) is ends


def test_an_archived_repository_ends_them_too(world):
    world.deliver("again")
    world.github.archived = True
    removed(world, "gone", "archived", repositories=("acme/textkit",))
    assert max(world.runs(), key=lambda run: run.id).state is RunState.CANCELLED


def _without_repositories(intake):
    return type(intake)(**{**{name: getattr(intake, name) for name in vars(intake)}, "forges": FakeForges()})
