"""What people say about a pull request of ours, from the review to the answer in its thread; and questions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import update

from agent.outcome import Outcome
from tests.factories import issue_request
from tests.fake_forge import After
from tests.fakes import call, say
from tests.integration.test_verify import REPORT
from tests.integration.whole import NAME, PROFILE, Whole
from worker.errors import ForgeUnavailable
from worker.runs import remarks, states
from worker.runs.asked import ChecksRequest, CommandRequest, ReviewRequest
from worker.runs.commands import Verb
from worker.stages.forge import FailedCheck, Review, ReviewComment
from worker.store import queries
from worker.store.models import DeliveryState, Run, RunKind, RunState

CONFIG = f"test: |\n  {REPORT}\ntest_report_format: junit\ntest_timeout_seconds: 20\n"
FILES = {"README.md": "hello\n", ".devstral-fix.yml": CONFIG}


def write(path: str, content: str):
    return call(("write_file", f'{{"path": "{path}", "content": "{content}", "overwrite": true}}'))


class Reviewed(Whole):
    """An issue that was fixed, and its pull request."""

    def __init__(self, store, tmp_path):
        super().__init__(store, tmp_path, FILES)
        self.number = self.github.open_issue()
        self.ask(issue_request(self.number))
        self.fixed = self.work(write("new.txt", "one\\ntwo\\n"), say("I made new.txt."))
        assert (self.fixed.state, self.fixed.outcome) == (RunState.DELIVERED, Outcome.FIXED), self.fixed.reason
        self.pull = self.github.pull_requests[0]
        self.branch = self.fixed.branch
        self._ids = iter(range(100, 1_000_000))

    def review(self, *said, body="", by="ann", sender=None, state="changes_requested", deliver=True):
        """`said`: (path, words); the delivery, with the ids of the comments."""
        number = self.pull.number
        comments = tuple(
            ReviewComment(id=next(self._ids), author=by, body=words, path=path, line=1, hunk="@@ -0,0 +1 @@\n+one")
            for path, words in said
        )
        review = Review(id=next(self._ids), author=by, state=state, body=body, comments=comments)
        self.github.reviews.setdefault(number, []).append(review)
        request = ReviewRequest(
            repository=NAME,
            installation_id=100,
            issue_number=number,
            sender=sender or by,
            sender_type="User",
            review_id=review.id,
            state=state,
            branch=self.branch,
        )
        return (self.ask(request) if deliver else request), [comment.id for comment in comments]

    def command(self, verb, words, *, on_pull_request=True, by="ann"):
        number = self.pull.number if on_pull_request else self.number
        where = self.github.comments.setdefault(number, [])
        if number not in self.github.issues:  # GitHub counts pull requests as issues, too
            self.github.issues[number] = self.github.issues[self.number].model_copy(
                update={"number": number, "is_pull_request": True}
            )
        said = self.github.write(number, f"/devstral {verb.value} {words}", by)
        assert said in where
        request = CommandRequest(
            repository=NAME,
            installation_id=100,
            issue_number=number,
            sender=by,
            sender_type="User",
            verb=verb,
            words=words,
            comment_id=said.id,
            on_pull_request=on_pull_request,
            title="T",
            body="B",
            issue_url="u",
            label="devstral-fix",
            asked_at=datetime.now(UTC),
        )
        return self.ask(request)

    def answers(self, comment_id):
        return [one.body for one in self.forge.thread(self.pull.number, comment_id) if one.answers == comment_id]

    @property
    def head(self):
        return self.bare.branch(NAME, self.branch)


@pytest.fixture
def world(store, tmp_path):
    world = Reviewed(store, tmp_path)
    # GitHub shows a pull request's comments as an issue's.
    world.github.issues[world.pull.number] = world.github.issues[world.number].model_copy(
        update={"number": world.pull.number, "is_pull_request": True, "labels": ()}
    )
    yield world
    world.heartbeat.close()


def test_a_review_becomes_a_commit_and_answers_in_its_threads(world):
    before, people = world.head, world.github
    delivery, (first, second) = world.review(("new.txt", "Say three."), ("README.md", "Why not here?"), body="Nearly.")
    run = world.newest()
    assert (delivery.state, delivery.run_id) == (DeliveryState.HANDLED, run.id)
    assert (run.kind, run.branch, run.head_commit, run.base_commit) == (
        RunKind.REVISE,
        world.branch,
        before,
        world.commit,
    )
    assert "queued for small-24b, asked for by @ann" in world.comments(world.pull.number)[0]

    run = world.work(
        write("new.txt", "one\\nthree\\n"),
        say("Changed.\n[1] I agree.\n[2] It says three now.\n[3] README.md is for users."),
    )
    assert (run.state, run.outcome) == (RunState.DELIVERED, Outcome.FIXED), run.reason
    told = world.model.conversation.opening if hasattr(world.model.conversation, "opening") else None
    assert told is None or "Say three." in told
    assert world.bare.ahead(NAME, "main", world.branch) == 2, "a commit on top, nothing replaced"
    assert world.file(world.branch, "new.txt") == "one\nthree\n"
    assert world.file(before, "new.txt") == "one\ntwo\n"
    (pull,) = people.pull_requests
    assert "failed without this change" in pull.body.lower() or "reproduced" in pull.body.lower()
    (one,), (two,) = world.answers(first), world.answers(second)
    assert "It says three now." in one
    assert "README.md is for users." in two
    assert people.resolved == {first}, "where the change shows it, and nowhere else"
    answers, status = sorted(world.comments(world.pull.number))
    assert answers.startswith("<!-- devstral-fix:answer")
    assert "> `Nearly.`\n\n@ann:\n\n```text\nI agree.\n```" in answers
    assert f"Commit {world.head}." in answers
    assert "fixed: " in status
    with world.store.transaction() as session:
        assert all(row.answered_at for row in remarks.of(session, run.id))
        row = queries.pull_request(session, NAME, world.branch)
        assert (row.run_id, row.head_commit) == (run.id, world.head)


def test_what_the_model_is_told_and_where_it_begins(world):
    world.review(("new.txt", "Say three."), body="Nearly.")
    pursue = world.pursuer(call(("bash", '{"command": "cat new.txt"}')), say("[1] no\n[2] no"))
    pursue()
    messages = [str(m) for m in world.model.conversations[0].messages]
    opening = next(m for m in messages if "Nearly." in m)
    assert "[1] by ann" in opening
    assert "[2] by ann, at new.txt:1" in opening
    assert "+two" in opening
    assert any("one\\ntwo" in m or "one\ntwo" in m for m in messages), "the workspace has the change in it"


def test_words_alone_are_an_answer(world):
    before = world.head
    _, (first,) = world.review(("new.txt", "Is this right?"))
    run = world.work(say("[1] Yes: two is what the issue asks."))
    assert (run.state, run.outcome) == (RunState.DELIVERED, Outcome.ANSWERED), run.reason
    assert world.head == before
    assert "two is what the issue asks" in world.answers(first)[0]
    assert world.github.resolved == set()
    assert "answered in words" in world.comments(world.pull.number)[0]


def test_a_revision_that_breaks_it_is_not_pushed(world):
    before = world.head
    _, (first,) = world.review(("new.txt", "Delete it."))
    run = world.work(call(("bash", '{"command": "mv new.txt old.txt"}')), say("[1] Done."))
    assert run.outcome is not Outcome.FIXED
    if run.outcome is Outcome.UNSOLVED:
        assert world.head == before
        assert "Nothing was changed: " in world.answers(first)[0]
    assert world.github.resolved == set()


def test_people_s_commits_are_built_on_and_never_replaced(world):
    theirs = world.bare.commit(NAME, {"people.txt": "ours\n"}, world.branch)
    _, (first,) = world.review(("new.txt", "Say three."))
    assert world.newest().head_commit == theirs
    run = world.work(write("new.txt", "three\\n"), say("[1] Done."))
    assert run.state is RunState.DELIVERED, run.reason
    assert world.file(world.branch, "people.txt") == "ours\n"
    assert world.bare.ahead(NAME, "main", world.branch) == 3
    assert world.answers(first)


def test_a_branch_that_moves_meanwhile_is_left_to_people(world):
    """Red without the check of where the branch is."""
    world.review(("new.txt", "Say three."))
    pursue = world.pursuer(write("new.txt", "three\\n"), say("[1] Done."))
    pursue()
    theirs = world.bare.commit(NAME, {"people.txt": "ours\n"}, world.branch)
    run = world.work()
    assert (run.state, world.head) == (RunState.FAILED, theirs)
    assert "moved while its change was revised" in run.reason
    assert "moved while its change was revised" in world.comments(world.pull.number)[0]


def test_a_later_review_joins_the_run_that_waits(world):
    world.review(("new.txt", "Say three."))
    delivery, _ = world.review(("new.txt", "And four."), by="octo-admin")
    (_, run) = world.runs()
    assert (delivery.run_id, delivery.reason) == (run.id, "part of the run that waits")
    with world.store.transaction() as session:
        assert [row.body for row in remarks.of(session, run.id)] == ["Say three.", "And four."]


def test_a_review_that_comes_while_one_is_worked_on_waits_and_is_seen_to(world):
    world.review(("new.txt", "Say three."))
    late = []

    def answer(_deadline, _cancel):
        late.append(world.review(("new.txt", "And four."))[0])
        return say("[1] no")

    world.work(answer)
    first, second = world.runs()[1], late[0]
    assert (second.state, second.reason, second.run_id) == (DeliveryState.HANDLED, "waits for a run's end", first.id)
    world.sweep()
    world.sweep()
    world.intake()
    run = world.newest()
    assert (run.id != first.id, run.requested_by) == (True, "ann")
    with world.store.transaction() as session:
        assert [row.body for row in remarks.of(session, run.id)] == ["And four."]
    world.work(say("[1] no"))
    world.sweep()
    world.intake()
    assert len(world.runs()) == 3, "each is seen to once"


def test_the_same_review_told_again_changes_nothing(world):
    _, _ = world.review(("new.txt", "Say three."))
    request = ReviewRequest(
        repository=NAME,
        installation_id=100,
        issue_number=world.pull.number,
        sender="ann",
        sender_type="User",
        review_id=world.github.reviews[world.pull.number][0].id,
        state="changes_requested",
        branch=world.branch,
    )
    delivery = world.ask(request)
    assert (delivery.state, delivery.reason) == (DeliveryState.IGNORED, "all of this was said before")
    assert len(world.runs()) == 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"by": "bob"}, "bob has read permission here"),
        ({"by": "stranger"}, "none permission"),
        ({"state": "approved", "body": "Good."}, "the review approves"),
        ({"sender": "octo-admin"}, "not its sender's own"),
    ],
)
def test_reviews_that_ask_for_nothing(world, changes, why):
    delivery, _ = world.review(("new.txt", "x"), **changes)
    assert delivery.state is DeliveryState.IGNORED
    assert why in delivery.reason
    assert len(world.runs()) == 1


def test_a_review_without_words_or_with_ours_alone(world):
    for body in ("", "  ", "<!-- devstral-fix:answer x -->"):
        assert world.review(body=body)[0].reason == "the review says nothing"
    assert len(world.runs()) == 1


def test_a_closed_pull_request_is_not_revised(world):
    closed = world.pull.model_copy(update={"state": "closed"})
    world.github.pull_requests[0] = closed
    delivery, _ = world.review(("new.txt", "x"))
    assert (delivery.state, delivery.reason) == (DeliveryState.IGNORED, "the pull request is closed")
    assert "not started: the pull request is closed" in world.comments(world.pull.number)[0]


def test_a_delivery_that_is_tried_again_answers_once(world):
    _, (first,) = world.review(("new.txt", "Say three."), body="Nearly.")
    world.forge.faults["reply"] = [After(ForgeUnavailable("lost"))]
    world.forge.faults["create_comment"] = [After(ForgeUnavailable("lost"))]
    world.forge.faults["edit_comment"] = [ForgeUnavailable("away")]
    run = world.work(write("new.txt", "three\\n"), say("[1] a\n[2] b"))
    for _ in range(4):
        if run.state is RunState.DELIVERED:
            break
        world.ready_again()
        world.deliver(run.id)
        run = world.newest()
    assert run.state is RunState.DELIVERED
    assert len(world.answers(first)) == 1
    assert len([c for c in world.comments(world.pull.number) if "devstral-fix:answer" in c]) == 1
    assert world.bare.ahead(NAME, "main", world.branch) == 2


def test_a_command_at_the_pull_request(world):
    delivery = world.command(Verb.REVISE, "Say three.\n\n```\nx\n```")
    run = world.work(write("new.txt", "three\\n"), say("Said three."))
    assert (delivery.run_id, run.kind) == (run.id, RunKind.REVISE)
    (answer,) = [c for c in world.comments(world.pull.number) if "devstral-fix:answer" in c]
    assert "```text\nSaid three.\n```" in answer
    assert world.file(world.branch, "new.txt") == "three\n"
    assert world.command(Verb.FIX, "Say four.").run_id == world.newest().id


def test_a_revision_needs_a_pull_request(world):
    delivery = world.command(Verb.REVISE, "x", on_pull_request=False)
    assert (delivery.state, delivery.reason) == (DeliveryState.IGNORED, "there is no pull request here to revise")


@pytest.mark.parametrize("on_pull_request", [True, False])
def test_a_question_is_answered_in_words_and_changes_nothing(world, on_pull_request):
    before, place = world.head, world.pull.number if on_pull_request else world.number
    statuses = list(world.comments(world.number))
    delivery = world.command(Verb.EXPLAIN, "Why two?", on_pull_request=on_pull_request)
    run = world.newest()
    assert (delivery.run_id, run.kind, run.place) == (run.id, RunKind.EXPLAIN, place)
    run = world.work(write("scratch.txt", "x"), say("Because of README.md:1."))
    assert (run.state, run.outcome) == (RunState.DELIVERED, Outcome.ANSWERED), run.reason
    (answer,) = [c for c in world.comments(place) if "devstral-fix:answer" in c]
    assert "> `Why two?`\n\n@ann:\n\n```text\nBecause of README.md:1.\n```" in answer
    assert (world.head, len(world.github.pull_requests)) == (before, 1)
    if not on_pull_request:
        assert world.comments(world.number)[: len(statuses)] == statuses, "the status comment is the fix's"


CHECK = FailedCheck(name="ci / test", text="1 failed: test_two", url="https://github.example/run/1")


def failed(world, *, head=None, suite=None):
    request = ChecksRequest(
        repository=NAME,
        installation_id=100,
        suite_id=suite or next(world._ids),
        branch=world.branch,
        head=head or world.head,
        sender="devstral-fixer[bot]",
        sender_type="Bot",
    )
    return world.ask(request)


def push_seen(world):
    """GitHub shows the pull request's newest commit."""
    world.github.pull_requests[0] = world.github.pull_requests[0].model_copy(update={"head_commit": world.head})


def test_failing_checks_are_seen_to_three_times_and_then_left_to_people(world):
    """Red without the count: it would go on for ever."""
    for turn in range(3):
        push_seen(world)
        world.github.failed_checks[world.head] = [CHECK]
        delivery = failed(world)
        assert delivery.state is DeliveryState.HANDLED, delivery.reason
        run = world.work(write("new.txt", f"try {turn}\\n"), say("[1] Mended."))
        assert (run.state, run.kind, run.requested_by) == (RunState.DELIVERED, RunKind.REVISE, "octo-admin")
    opening = str(world.model.conversations[0].messages)
    assert "1 failed: test_two" in opening
    push_seen(world)
    world.github.failed_checks[world.head] = [CHECK]
    for suite in (None, None):
        delivery = failed(world, suite=suite)
        assert (delivery.state, delivery.reason) == (DeliveryState.IGNORED, "the checks failed on 3 commits in a row")
    told = [c for c in world.comments(world.pull.number) if "devstral-fix:checks" in c]
    assert len(told) == 1
    assert "Nothing more is tried until somebody says what to do" in told[0]
    world.command(Verb.REVISE, "Look at the fixture.")
    world.work(write("new.txt", "fixture\\n"), say("Done."))
    push_seen(world)
    world.github.failed_checks[world.head] = [CHECK]
    assert failed(world).state is DeliveryState.HANDLED, "people said something since"


def test_checks_that_are_not_ours_to_see_to(world):
    push_seen(world)
    assert failed(world, head="9" * 40).reason == "the checks are not of a commit of ours"
    assert failed(world).reason == "no check of others has failed"
    world.github.pull_requests[0] = world.github.pull_requests[0].model_copy(update={"head_commit": "8" * 40})
    assert failed(world).reason == "the branch has moved since"
    assert len(world.runs()) == 1


def test_owners_may_leave_failing_checks_to_people(world):
    push_seen(world)
    with world.store.transaction() as session:
        session.execute(update(Run).values(repository_config={"follow_checks": False}))
    assert failed(world).reason == "the repository's settings leave failing checks to people"


def test_a_second_question_waits_for_its_turn(world):
    world.command(Verb.EXPLAIN, "Why two?")
    delivery = world.command(Verb.EXPLAIN, "Why?")
    assert delivery.state is DeliveryState.IGNORED
    assert "another question" in delivery.reason


def test_a_question_without_an_answer_says_so(world):
    world.command(Verb.EXPLAIN, "Why two?")
    with world.store.transaction() as session:
        lease = states.claim_next(session, profile=PROFILE, owner="w", seconds=60)
        states.advance(session, lease, RunState.FAILED, reason="the model is gone")
    world.deliver(lease.run_id)
    (answer,) = [c for c in world.comments(world.pull.number) if "devstral-fix:answer" in c]
    assert "No answer was found: `the model is gone`" in answer
