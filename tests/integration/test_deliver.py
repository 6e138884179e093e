"""Delivery against real Postgres and real git: once, whatever breaks half-way. GitHub is a fake with faults."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text, update

from agent.outcome import Evidence, Outcome
from agent.outcome import TestOutcome as Judged
from agent.protocols import Captured, ExecResult, ExecStatus
from agent.types import ExitStatus
from tests.factories import issue_request, queue_run
from tests.fake_forge import After, FakeForge, FakeForges, FakeRepository
from worker.adapters.repos import GitRepositories
from worker.demo.github_double.bare import BareRepositories
from worker.errors import ForgeRefused, ForgeUnavailable
from worker.heartbeat import Heartbeat
from worker.runs import ledger, requests, setups, states
from worker.stages import deliver, texts
from worker.stages.deliver import Deliver
from worker.stages.ports import Blocked
from worker.stages.setup import named, report
from worker.store.attempts import Attempt
from worker.store.models import PullRequest, Run, RunState
from worker.store.money import Account, Scope
from worker.store.room import today

NAME = "acme/textkit"


class World:
    """A run that is concluded, verified, and waits for delivery."""

    def __init__(self, store, tmp_path):
        self.store = store
        self.bare = BareRepositories(tmp_path / "origin")
        self.commit = self.bare.create(NAME, {"README.md": "hello\n"}, "main")
        self.github = FakeRepository(NAME, clone_url=f"file://{self.bare.path(NAME)}")
        self.github.has_branch = lambda name: self.bare.branch(NAME, name) is not None
        self.number = self.github.open_issue()
        self.forge = FakeForge(self.github)
        self.repositories = GitRepositories(tmp_path / "repositories", allow_file=True)
        self.mirror = self.repositories.fetch(NAME, self.github.clone_url, None)
        self.heartbeat = Heartbeat(store, seconds=3600)
        self.deliver = Deliver(
            store=store,
            heartbeat=self.heartbeat,
            forges=FakeForges(self.forge),
            repositories=self.repositories,
            lease_seconds=60,
        )

    def verified(self, outcome=Outcome.FIXED, *, content="changed\n"):
        """A run whose patch writes `content`, with evidence and an outcome."""
        with self.store.transaction() as session:
            run_id, _ = requests.start(
                session,
                issue_request(self.number),
                clone_url=self.github.clone_url,
                base_branch="main",
                base_commit=self.commit,
                profile="small-24b",
                max_attempts=3,
                repository_config={},
            )
        git_dir = self.repositories.run_dir(str(run_id), self.mirror)
        diff = f"--- a/README.md\n+++ b/README.md\n@@ -1 +1 @@\n-hello\n+{content}"
        tree = self.repositories.apply(git_dir, self.commit, diff)
        patch = self.repositories.patch(git_dir, self.commit, tree)
        with self.store.transaction() as session:
            lease = states.claim_next(session, profile="small-24b", owner="g", seconds=60)
            assert lease is not None
            ledger.record_patch(session, lease, patch)
            states.advance(session, lease, RunState.CONCLUDED, exit_status=ExitStatus.SUBMITTED, summary="I did it.")
        with self.store.transaction() as session:
            lease = states.claim_stage(session, run_id, "verify", owner="c", seconds=60)
            assert lease is not None
            for stage, judged in (("before", Judged.FAILED), ("after", Judged.PASSED)):
                evidence = Evidence(
                    stage=stage, tree=tree, command="make", outcome=judged, returncode=0, seconds=1.0, output="```x"
                )
                ledger.record_evidence(session, lease, evidence)
            states.finish_verify(session, lease, outcome=outcome, reason="shown")
        self.run_id = run_id
        return run_id

    def again(self) -> None:
        """What the sweep would do once the pause is over."""
        with self.store.transaction() as session:
            session.execute(update(Run).values(not_before=None))
        self.deliver(self.run_id)

    @property
    def run(self) -> Run:
        with self.store.transaction() as session:
            return session.get_one(Run, self.run_id)

    @property
    def head(self) -> str | None:
        return self.bare.branch(NAME, f"devstral/issue-{self.number}")

    def comments(self) -> list[str]:
        return [c.body for c in self.github.comments.get(self.number, [])]

    def delivered_once(self) -> None:
        assert self.run.state is RunState.DELIVERED
        assert self.head is not None
        assert self.bare.ahead(NAME, "main", f"devstral/issue-{self.number}") == 1
        assert len(self.github.pull_requests) == 1
        assert len(self.comments()) == 1
        assert [(c.head, c.external_id) for c in self.github.check_runs[-1:]] == [(self.head, str(self.run_id))]
        assert len({c.external_id for c in self.github.check_runs}) == len(self.github.check_runs)
        with self.store.transaction() as session:
            rows = session.scalars(select(PullRequest)).all()
            assert [(row.number, row.head_commit) for row in rows] == [(self.github.pull_requests[0].number, self.head)]


@pytest.fixture
def world(store, tmp_path):
    world = World(store, tmp_path)
    yield world
    world.heartbeat.close()


def test_a_fix_becomes_a_branch_a_pull_request_and_one_comment(world):
    world.deliver(world.verified())
    world.delivered_once()
    (pull,) = world.github.pull_requests
    assert not pull.draft
    assert f"Fixes #{world.number}" in pull.body
    assert "I did it." in pull.body
    assert "| base | failed |" in pull.body
    assert pull.url in world.comments()[0]
    assert world.bare.read_file(NAME, pull.head_branch, "README.md") == b"changed\n"


def test_what_is_not_shown_to_be_a_fix_becomes_a_draft(world):
    world.deliver(world.verified(Outcome.PARTIAL))
    (pull,) = world.github.pull_requests
    assert pull.draft
    assert f"Refs #{world.number}" in pull.body


def test_of_which_commit_the_evidence_is_is_said(world):
    """Red where the remote's branch is not asked."""
    run_id = world.verified()
    world.deliver(run_id)
    (pull,) = world.github.pull_requests
    assert f"Everything here is of `main` at `{world.commit[:12]}`, where it is still." in pull.body


def test_a_base_that_went_on_meanwhile_is_said(world):
    world.verified()
    git = ["git", f"--git-dir={world.bare.path(NAME)}", "-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    made = subprocess.run(
        [*git, "commit-tree", "main^{tree}", "-p", "main", "-m", "more"], capture_output=True, text=True, check=True
    )
    moved = made.stdout.strip()
    subprocess.run([*git, "update-ref", "refs/heads/main", moved], check=True)
    world.deliver(world.run_id)
    (pull,) = world.github.pull_requests
    assert f"`{world.commit[:12]}`. The branch is at `{moved[:12]}` by now, and nothing was executed on" in pull.body
    assert world.bare.ahead(NAME, "main", pull.head_branch) == 1


def test_delivering_again_changes_nothing(world):
    world.deliver(world.verified())
    head = world.head
    world.deliver(world.run_id)
    world.delivered_once()
    assert world.head == head


LOST = ForgeUnavailable("502 from GitHub")


@pytest.mark.parametrize(
    "faults",
    [
        {"open_pull_request": [LOST]},
        {"open_pull_request": [After(LOST)]},
        {"create_check_run": [LOST]},
        {"create_check_run": [After(LOST)]},
        {"create_comment": [LOST]},
        {"create_comment": [After(LOST)]},
        {"git_token": [LOST], "open_pull_request": [After(LOST)], "create_comment": [After(LOST)]},
    ],
    ids=["before-pr", "after-pr", "before-check", "after-check", "before-comment", "after-comment", "everything"],
)
def test_a_lost_answer_doubles_nothing(world, faults):
    """A check run whose answer was lost: red without the look for it. A push of ours is known by its note and by the
    commit that is made anew: red where neither is asked."""
    world.verified()
    world.forge.faults = faults
    world.deliver(world.run_id)
    for _ in range(3):
        run = world.run
        if run.state is RunState.DELIVERED:
            break
        assert (run.state, run.attempt) == (RunState.CONCLUDED, 0), "GitHub's absence is not our attempt"
        assert run.reason == "shown", "the outcome's reason is not lost to GitHub's absence"
        with world.store.transaction() as session:
            last = session.scalars(select(Attempt).order_by(Attempt.id.desc())).first()
        assert "502" in last.reason
        world.again()
    world.delivered_once()
    assert "shown" in world.github.pull_requests[0].body


def test_a_crash_between_push_and_pull_request_is_finished_by_the_next_worker(world, monkeypatch):
    world.verified()

    def crash(*_, **__):
        raise SystemExit  # what a kill looks like from inside

    with monkeypatch.context() as patched:
        patched.setattr(FakeForge, "open_pull_request", crash)
        with pytest.raises(SystemExit):
            world.deliver(world.run_id)
    pushed = world.head
    assert pushed is not None
    assert world.run.state is RunState.CONCLUDED
    with world.store.transaction() as session:
        session.execute(update(Run).values(lease_expires_at=text("now() - interval '1 s'")))
    with world.store.transaction() as session:
        states.expire(session)
    world.again()
    world.delivered_once()
    assert world.head == pushed, "the same run makes the same commit"


def test_people_s_commits_on_the_branch_are_never_replaced(world):
    world.verified()
    branch = f"refs/heads/devstral/issue-{world.number}"
    theirs = subprocess.run(
        ["git", "-C", str(world.bare.path(NAME)), "commit-tree", "-p", "main", "-m", "mine", "main^{tree}"],
        env={
            "PATH": "/usr/bin:/bin:/usr/local/bin",
            "GIT_AUTHOR_NAME": "p",
            "GIT_AUTHOR_EMAIL": "p@e",
            "GIT_COMMITTER_NAME": "p",
            "GIT_COMMITTER_EMAIL": "p@e",
        },
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    subprocess.run(["git", "-C", str(world.bare.path(NAME)), "update-ref", branch, theirs], check=True)
    world.deliver(world.run_id)
    run = world.run
    assert run.state is RunState.FAILED
    assert "delete it and ask again" in (run.reason or "")
    assert world.head == theirs
    assert world.github.pull_requests == []
    assert "failed" in world.comments()[0]


def test_a_later_run_moves_its_own_branch_on_and_reuses_the_pull_request(world):
    world.deliver(world.verified())
    first = world.head
    world.deliver(world.verified(content="better\n"))
    assert world.head != first
    world.delivered_once()
    assert world.bare.read_file(NAME, f"devstral/issue-{world.number}", "README.md") == b"better\n"


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome.UNSOLVED,
        Outcome.REFUSED,
        Outcome.SETUP_FAILED,
        Outcome.QUESTION,
        Outcome.DUPLICATE,
        Outcome.ALREADY_FIXED,
        Outcome.NOT_REPRODUCIBLE,
    ],
)
def test_what_is_no_fix_is_told_and_not_pushed(world, outcome):
    world.deliver(world.verified(outcome))
    assert world.run.state is RunState.DELIVERED
    assert world.head is None
    assert world.github.pull_requests == []
    assert f"({outcome.value}; no pull request)" in world.comments()[0]
    assert "shown" in world.comments()[0]


def test_a_partial_result_refers_to_the_issue_and_does_not_close_it(world):
    world.deliver(world.verified(Outcome.PARTIAL))
    (pull,) = world.github.pull_requests
    assert f"Refs #{world.number}" in pull.body
    assert "Fixes" not in pull.body


def test_a_failed_run_says_so_in_its_comment(world):
    world.verified()
    with world.store.transaction() as session:
        states.override(session, world.run_id, RunState.FAILED, reason="turn 1 differs `x`\n@someone")
    world.deliver(world.run_id)
    assert "failed: `turn 1 differs 'x' @someone`" in world.comments()[0]
    assert world.head is None


def test_a_refusal_of_github_ends_the_run_with_its_reason(world):
    world.verified()
    world.forge.faults["open_pull_request"] = [ForgeRefused("403: no permission")]
    world.deliver(world.run_id)
    assert (world.run.state, world.run.reason) == (RunState.FAILED, "403: no permission")


def test_patience_ends_after_a_day(world):
    world.verified()
    with world.store.transaction() as session:
        ago = func.now() - timedelta(seconds=deliver.PATIENCE_SECONDS + 1)
        session.execute(update(Run).values(concluded_at=ago))
    world.forge.faults["git_token"] = [LOST]
    world.deliver(world.run_id)
    assert world.run.state is RunState.FAILED
    assert "given up" in (world.run.reason or "")


def test_a_failed_set_up_is_told_with_its_log_and_nothing_is_pushed(world):
    with world.store.transaction() as session:
        run_id, _ = requests.start(
            session,
            issue_request(world.number),
            clone_url=world.github.clone_url,
            base_branch="main",
            base_commit=world.commit,
            profile="small-24b",
            max_attempts=3,
            repository_config={},
            held_reason=setups.HELD,
        )
    world.run_id = run_id
    with world.store.transaction() as session:
        # As a set-up ends that was refused two hosts and prints what it likes.
        blocked = tuple(
            Blocked(host=host, port=443, reason="not on the list of allowed hosts")
            for host in ("evil.test", "more.test")
        )
        said = Captured(text="```\n@all <!-- devstral-fix:run x -->\n# not a headline", total_bytes=1, elided_bytes=0)
        nothing = Captured(text="", total_bytes=0, elided_bytes=0)
        result = ExecResult(status=ExecStatus.EXIT, returncode=1, stdout=said, stderr=nothing, seconds=1.0)
        reason = f"the set-up failed (exit status 1){named(blocked)}"
        assert setups.conclude(session, run_id, reason=reason, log=report(result, blocked))
    world.deliver(run_id)
    assert (world.run.state, world.run.outcome, world.head) == (RunState.DELIVERED, Outcome.SETUP_FAILED, None)
    (comment,) = world.comments()
    assert "the set-up failed (exit status 1); blocked: `evil.test:443`, `more.test:443`\n" in comment
    refused = [f"blocked: {host}:443: not on the list of allowed hosts\n" for host in ("evil.test", "more.test")]
    assert f"````text\n{''.join(refused)}{said.text}\n````" in comment


@pytest.mark.parametrize(("outcome", "conclusion"), [(Outcome.FIXED, "success"), (Outcome.PARTIAL, "neutral")])
def test_the_check_run_says_what_is_proven(world, outcome, conclusion):
    world.deliver(world.verified(outcome))
    assert [check.conclusion for check in world.github.check_runs] == [conclusion]


def test_without_the_right_to_make_check_runs_the_rest_is_delivered(world):
    world.verified()
    world.forge.faults["find_check_run"] = [ForgeRefused("403: not granted")]
    world.deliver(world.run_id)
    assert world.run.state is RunState.DELIVERED
    assert world.github.check_runs == []


def test_check_runs_can_be_turned_off(world):
    world.deliver = replace(world.deliver, check_runs=False)
    world.deliver(world.verified())
    assert (world.run.state, world.github.check_runs) == (RunState.DELIVERED, [])


def cancelling(world, monkeypatch, method, *, told_first):
    """Someone cancels while `method` is under way; the issue is told before it returns, or only afterwards."""
    effect = getattr(FakeForge, method)

    def during(forge, *args, **kwargs):
        with world.store.transaction() as session:
            assert requests.cancel(session, world.run_id, by="ann") is RunState.CANCELLED
        if told_first:
            world.deliver(world.run_id)
        done = effect(forge, *args, **kwargs)
        world.heartbeat.look(world.run_id)
        return done

    with monkeypatch.context() as patched:
        patched.setattr(FakeForge, method, during)
        world.deliver(world.run_id)


@pytest.mark.parametrize("told_first", [True, False])
def test_a_pull_request_opened_as_its_run_was_cancelled_is_closed(world, monkeypatch, told_first):
    world.verified()
    cancelling(world, monkeypatch, "open_pull_request", told_first=told_first)
    world.deliver(world.run_id)
    (pull,) = world.github.pull_requests
    assert pull.state == "closed"
    assert pull.body.startswith(f"<!-- devstral-fix:run {world.run_id} -->\n\n**Closed: `cancelled by ann`**")
    assert pull.body.count("Closed:") == 1
    (comment,) = world.comments()
    assert "cancelled: `cancelled by ann`" in comment
    assert f"Its pull request {pull.url} was closed." in comment
    assert world.github.check_runs == []
    assert world.run.state is RunState.CANCELLED
    world.deliver(world.verified())
    assert world.github.pull_requests[0] == pull, "the closed one stays closed"
    assert world.github.pull_requests[1].state == "open"
    assert world.run.state is RunState.DELIVERED


def test_a_run_cancelled_before_its_push_pushes_nothing(world, monkeypatch):
    world.verified()
    cancelling(world, monkeypatch, "git_token", told_first=False)
    assert (world.head, world.github.pull_requests) == (None, [])
    assert "cancelled by ann" in world.comments()[0]


def test_a_branch_left_by_a_cancelled_run_is_ours_to_replace(world, monkeypatch):
    """Red without `note_push`."""
    world.verified()
    cancelling(world, monkeypatch, "find_pull_request", told_first=False)
    first = world.head
    assert first is not None
    world.deliver(world.verified(content="better\n"))
    assert world.run.state is RunState.DELIVERED, world.run.reason
    assert world.head != first


def test_an_earlier_run_s_pull_request_stays_open_when_a_later_run_is_cancelled(world, monkeypatch):
    world.deliver(world.verified())
    world.verified(content="better\n")
    cancelling(world, monkeypatch, "edit_pull_request", told_first=False)
    (pull,) = world.github.pull_requests
    assert pull.state == "open"
    assert f"{pull.url} is of an earlier run and stays open" in world.comments()[0]


def test_a_pull_request_of_a_person_from_our_branch_stays_as_it_is(world, monkeypatch):
    """Red without the run's marker in `after_the_end`: it would be closed with our words on it."""
    world.deliver(world.verified())
    ours = world.github.pull_requests[0]
    world.github.pull_requests[0] = ours.model_copy(update={"state": "closed"})
    theirs = world.forge.open_pull_request(
        title="mine now", body="I took it over.", head=ours.head_branch, base="main", draft=False
    )
    world.verified(content="better\n")
    cancelling(world, monkeypatch, "git_token", told_first=False)
    assert world.run.state is RunState.CANCELLED
    assert world.github.pull_requests[1] == theirs
    assert theirs.url not in world.comments()[0]


def test_a_shutdown_hands_a_delivery_on_without_a_pause(world, monkeypatch):
    world.verified()
    token = FakeForge.git_token

    def ending(forge, access):
        world.heartbeat.interrupt_all()
        return token(forge, access)

    with monkeypatch.context() as patched:
        patched.setattr(FakeForge, "git_token", ending)
        world.deliver(world.run_id)
    with world.store.transaction() as session:
        due = session.scalar(select(Run.not_before <= func.now()))
    assert (world.run.state, world.run.lease_owner, world.run.attempt, due) == (RunState.CONCLUDED, None, 0, True)
    assert world.head is None


def test_the_comment_of_a_run_that_met_a_budget_says_what_holds_it(world):
    with world.store.transaction() as session:
        run_id = queue_run(session, world.number, commit=world.commit)
    world.deliver(run_id)
    assert world.comments() == [], "nothing holds it"
    with world.store.transaction() as session:
        day = session.scalar(select(today()))
        session.add(Account(scope=Scope.REPOSITORY, key=NAME, day=day, limit_usd=1, spent_usd=1))
    world.forge.create_comment(world.number, f"{texts.status_marker(world.number)}\n\nIn the queue: position 1 of 1.")
    world.deliver(run_id)
    (comment,) = world.comments()
    assert f"held: today's budget of {NAME} is used up; goes on at 00:00 UTC" in comment
    assert "position" not in comment
    world.deliver(run_id)
    assert world.comments() == [comment]
