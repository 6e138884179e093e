"""One contract for the forge that tests fake and the forge that talks to GitHub (here: its double)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.fake_forge import After, FakeForge, FakeForges, FakeRepository
from tests.github_double import app_forges, push_branch, running_double
from worker.demo.github_double import GitHubDouble
from worker.errors import ForgeRefused, ForgeUnavailable
from worker.stages.forge import FailedCheck, Forge, Forges, Review, ReviewComment

REPOSITORY = "acme/widgets"
MARKER = "<!-- devstral-fix:test -->"
SAID = ("Rename it.", "Why?")


@dataclass
class Subject:
    forge: Forge
    forges: Forges
    new_issue: Callable[[], int]
    label: Callable[[int, str], None]
    branch: Callable[[str], str]
    lose_answer: Callable[[str, int], None]
    new_review: Callable[[int], int]
    check: Callable[[str, str], object]
    resolved: Callable[[int], bool]


@pytest.fixture(scope="module")
def double(tmp_path_factory) -> Iterator[GitHubDouble]:
    with running_double(tmp_path_factory.mktemp("double")) as double:
        double.create_repository(REPOSITORY, {"a.py": "x = 1\n"})
        yield double


def fake_review(repository: FakeRepository, number: int) -> int:
    said = [
        ReviewComment(id=500 + n, author="octo-admin", body=body, path="a.py", line=None, hunk="")
        for n, body in enumerate(SAID)
    ]
    made = Review(id=50, author="octo-admin", state="changes_requested", body="Nearly.", comments=tuple(said))
    repository.reviews.setdefault(number, []).append(made)
    return made.id


def fake_check(repository: FakeRepository, head: str, conclusion: str) -> None:
    if conclusion == "failure":
        repository.failed_checks.setdefault(head, []).append(FailedCheck(name="ci", text="Tests\n\n1 failed", url="u"))


def fake_subject() -> Subject:
    branches = {"main"}
    repository = FakeRepository(REPOSITORY, clone_url="file:///none", has_branch=branches.__contains__)
    repository.permissions["octo-admin"] = "admin"
    forge = FakeForge(repository)
    methods = {"comment": "create_comment", "pull": "open_pull_request", "check": "create_check_run"}
    return Subject(
        forge=forge,
        forges=FakeForges(forge),
        new_issue=lambda: repository.open_issue("A bug", "It breaks."),
        label=repository.put_label,
        branch=lambda name: (branches.add(name), "a" * 40)[1],
        new_review=lambda number: fake_review(repository, number),
        check=lambda head, conclusion: fake_check(repository, head, conclusion),
        resolved=repository.resolved.__contains__,
        lose_answer=lambda what, _: forge.faults.update({methods[what]: [After(ForgeUnavailable("lost"))]}),
    )


@pytest.fixture(params=["fake", "github"])
def subject(request, tmp_path) -> Iterator[Subject]:
    if request.param == "fake":
        yield fake_subject()
        return
    double: GitHubDouble = request.getfixturevalue("double")
    paths = {
        "comment": "POST /repos/acme/widgets/issues/{}/comments",
        "pull": "POST /repos/acme/widgets/pulls",
        "check": "POST /repos/acme/widgets/check-runs",
    }
    forges = app_forges(double)
    yield Subject(
        forge=forges.open(REPOSITORY, double.installation_id),
        forges=forges,
        new_issue=lambda: double.create_issue(REPOSITORY, "A bug", "It breaks."),
        label=lambda number, label: double.add_label(REPOSITORY, number, label),
        branch=lambda name: push_branch(double, REPOSITORY, name, tmp_path / name.replace("/", "-")),
        check=lambda head, conclusion: double.call(
            "POST",
            f"/repos/{REPOSITORY}/check-runs",
            {
                "name": "ci",
                "head_sha": head,
                "status": "completed",
                "conclusion": conclusion,
                "output": {"title": "Tests", "summary": "1 failed"},
            },
        ),
        new_review=lambda number: double.review(REPOSITORY, number, "Nearly.", comments=[("a.py", 1, s) for s in SAID]),
        resolved=double.resolved,
        lose_answer=lambda what, number: double.fault(paths[what].format(number), status=502, forward=True),
    )
    double.clear_faults()


def test_what_is_there_is_found(subject):
    number = subject.new_issue()
    issue = subject.forge.issue(number)
    assert (issue.number, issue.title, issue.body, issue.state) == (number, "A bug", "It breaks.", "open")
    assert (issue.locked, issue.is_pull_request, issue.labels) == (False, False, ())
    assert subject.forge.repository().default_branch == "main"
    assert subject.forge.permission("octo-admin") == "admin"


def test_what_is_not_there_is_refused(subject):
    with pytest.raises(ForgeRefused):
        subject.forge.issue(999_999)
    with pytest.raises(ForgeRefused):
        subject.forge.create_comment(999_999, "x")
    with pytest.raises(ForgeRefused):
        subject.forge.edit_comment(999_999, "x")
    assert subject.forge.permission("who-is-this") == "none"
    with pytest.raises(ForgeRefused):
        subject.forges.open("acme/absent", 100).repository()


def test_a_comment_is_found_by_its_marker_and_edited_in_place(subject):
    number = subject.new_issue()
    assert subject.forge.find_comment(number, MARKER) is None
    made = subject.forge.create_comment(number, f"{MARKER}\nqueued")
    found = subject.forge.find_comment(number, MARKER)
    assert found is not None
    assert (found.id, found.body) == (made.id, f"{MARKER}\nqueued")
    edited = subject.forge.edit_comment(made.id, f"{MARKER}\ndone")
    assert (edited.id, edited.body) == (made.id, f"{MARKER}\ndone")
    assert subject.forge.find_comment(number, "another marker") is None


def test_a_comment_whose_answer_was_lost_is_there(subject):
    number = subject.new_issue()
    subject.lose_answer("comment", number)
    with pytest.raises(ForgeUnavailable):
        subject.forge.create_comment(number, MARKER)
    assert subject.forge.find_comment(number, MARKER) is not None


def test_a_pull_request_is_opened_once_found_and_edited(subject):
    subject.branch("devstral/issue-1")
    words = {"head": "devstral/issue-1", "base": "main", "draft": True}
    assert subject.forge.find_pull_request("devstral/issue-1") is None
    made = subject.forge.open_pull_request(title="T", body="B", **words)
    assert (made.draft, made.state, made.merged, made.head_branch) == (True, "open", False, "devstral/issue-1")
    with pytest.raises(ForgeRefused):
        subject.forge.open_pull_request(title="T", body="B", **words)
    edited = subject.forge.edit_pull_request(made.number, title="T2", body="B2")
    found = subject.forge.find_pull_request("devstral/issue-1")
    assert found == edited
    assert found is not None
    assert (found.number, found.title, found.body) == (made.number, "T2", "B2")


def test_a_pull_request_from_no_branch_is_refused(subject):
    with pytest.raises(ForgeRefused):
        subject.forge.open_pull_request(title="T", body="B", head="devstral/none", base="main", draft=True)
    with pytest.raises(ForgeRefused):
        subject.forge.edit_pull_request(999_999, title="T", body="B")


def test_a_pull_request_whose_answer_was_lost_is_there(subject):
    subject.branch("devstral/issue-2")
    subject.lose_answer("pull", 0)
    with pytest.raises(ForgeUnavailable):
        subject.forge.open_pull_request(title="T", body="B", head="devstral/issue-2", base="main", draft=True)
    assert subject.forge.find_pull_request("devstral/issue-2") is not None


def test_a_pull_request_is_closed_and_closing_it_again_is_harmless(subject):
    subject.branch("devstral/issue-3")
    words = {"head": "devstral/issue-3", "base": "main", "draft": True}
    made = subject.forge.open_pull_request(title="T", body=MARKER, **words)
    for _ in range(2):
        closed = subject.forge.close_pull_request(made.number, body=f"{MARKER}\nclosed")
        assert (closed.state, closed.merged, closed.body) == ("closed", False, f"{MARKER}\nclosed")
    assert subject.forge.find_pull_request("devstral/issue-3") == closed


def test_labels_twice_are_the_same_as_once(subject):
    number = subject.new_issue()
    for _ in range(2):
        subject.forge.add_label(number, "in-work")
    assert subject.forge.issue(number).labels == ("in-work",)
    for _ in range(2):
        subject.forge.remove_label(number, "in-work")
    assert subject.forge.issue(number).labels == ()
    with pytest.raises(ForgeRefused):
        subject.forge.add_label(999_999, "in-work")


def check_run(subject, head, external_id, conclusion="success"):
    words = {"head": head, "name": "devstral-fix", "conclusion": conclusion, "title": "fixed", "summary": "shown"}
    return subject.forge.create_check_run(external_id=external_id, **words)


def test_a_check_run_is_found_by_its_commit_name_and_id(subject):
    head = subject.branch("devstral/issue-4")
    assert subject.forge.find_check_run(head, "devstral-fix", "run-1") is None
    made = check_run(subject, head, "run-1")
    check_run(subject, head, "run-2", "neutral")
    assert subject.forge.find_check_run(head, "devstral-fix", "run-1") == made
    found = subject.forge.find_check_run(head, "devstral-fix", "run-2")
    assert found is not None
    assert (found.conclusion, found.head, found.external_id) == ("neutral", head, "run-2")
    assert subject.forge.find_check_run(head, "another", "run-1") is None


def test_a_check_run_whose_answer_was_lost_is_there(subject):
    head = subject.branch("devstral/issue-5")
    subject.lose_answer("check", 0)
    with pytest.raises(ForgeUnavailable):
        check_run(subject, head, "run-1")
    assert subject.forge.find_check_run(head, "devstral-fix", "run-1") is not None


def test_we_know_under_which_name_we_write(subject):
    comment = subject.forge.create_comment(subject.new_issue(), MARKER)
    assert comment.author == subject.forge.login()


def test_comments_and_reactions(subject):
    number = subject.new_issue()
    ours = subject.forge.create_comment(number, "ours")
    assert list(subject.forge.comments(number)) == [ours]
    assert (ours.is_bot, ours.created_at is not None) == (True, True)
    for _ in range(2):
        subject.forge.react(number, "eyes")
        subject.forge.react(number, "+1", comment_id=ours.id)
    for refused in ({"number": 999_999}, {"number": number, "comment_id": 999_999}):
        with pytest.raises(ForgeRefused):
            subject.forge.react(reaction="eyes", **refused)
    with pytest.raises(ForgeRefused):
        subject.forge.comments(999_999)


def test_a_pull_request_by_its_number(subject):
    subject.branch("devstral/issue-77")
    made = subject.forge.open_pull_request(title="T", body="B", head="devstral/issue-77", base="main", draft=True)
    found = subject.forge.pull_request(made.number)
    assert (found.number, found.state, found.merged, found.draft) == (made.number, "open", False, True)
    assert (found.head_branch, found.base_branch) == ("devstral/issue-77", "main")
    assert len(found.head_commit) == 40
    with pytest.raises(ForgeRefused):
        subject.forge.pull_request(999_999)


def test_a_review_and_answers_in_its_threads(subject):
    subject.branch("devstral/issue-78")
    pull = subject.forge.open_pull_request(title="T", body="B", head="devstral/issue-78", base="main", draft=True)
    review_id = subject.new_review(pull.number)
    review = subject.forge.review(pull.number, review_id)
    assert (review.author, review.state, review.body) == ("octo-admin", "changes_requested", "Nearly.")
    assert tuple(c.body for c in review.comments) == SAID
    assert {(c.author, c.path, c.answers) for c in review.comments} == {("octo-admin", "a.py", None)}
    first, second = review.comments
    assert [c.id for c in subject.forge.thread(pull.number, first.id)] == [first.id]
    subject.forge.reply(pull.number, first.id, "Done.")
    began, answer = subject.forge.thread(pull.number, first.id)
    assert (began.id, answer.body, answer.answers) == (first.id, "Done.", first.id)
    for _ in range(2):
        subject.forge.resolve_threads(pull.number, [first.id])
    assert subject.resolved(first.id)
    assert not subject.resolved(second.id)
    with pytest.raises(ForgeRefused):
        subject.forge.review(pull.number, 999_999)
    with pytest.raises(ForgeRefused):
        subject.forge.reply(pull.number, 999_999, "x")
    assert list(subject.forge.thread(pull.number, 999_999)) == []


def test_a_review_is_asked_for_and_a_status_set(subject):
    head = subject.branch("devstral/issue-79")
    pull = subject.forge.open_pull_request(title="T", body="B", head="devstral/issue-79", base="main", draft=True)
    for _ in range(2):
        subject.forge.request_review(pull.number, "octo-admin")
        subject.forge.set_status(head, context="devstral-fix", description="fixed\n" + "x" * 300)
    with pytest.raises(ForgeRefused):
        subject.forge.request_review(999_999, "octo-admin")


def test_a_backlog_is_listed_page_by_page(subject):
    numbers = [subject.new_issue() for _ in range(3)]
    for number in numbers:
        subject.label(number, "in the backlog")
    pages = []
    while not pages or pages[-1].more:
        pages.append(subject.forge.backlog(len(pages) + 1, labels=["in the backlog"], since=None))
    assert [issue.number for page in pages for issue in page.issues] == numbers
    assert pages[0].issues[0].labels == ("in the backlog",)
    assert pages[0].issues[0].title == subject.forge.issue(numbers[0]).title
    assert subject.forge.backlog(len(pages) + 1, labels=["in the backlog"], since=None).issues == ()


def test_labelled_issues_and_who_labelled_them(subject):
    one, other, third = (subject.new_issue() for _ in range(3))
    subject.label(one, "wanted")
    subject.label(third, "other")
    subject.label(one, "other")
    assert [issue.number for issue in subject.forge.labelled("wanted")] == [one]
    assert [issue.number for issue in subject.forge.labelled("other")] == [one, third]
    assert list(subject.forge.labelled("nobody's")) == []
    event = subject.forge.labelled_by(one, "Wanted")
    assert event is not None
    assert (event.actor, event.is_bot, event.at.tzinfo is not None) == ("octo-admin", False, True)
    assert subject.forge.labelled_by(other, "wanted") is None
    again = subject.forge.labelled_by(one, "other")
    assert again is not None
    assert again.id != event.id


def test_where_an_app_is_installed(subject):
    assert (REPOSITORY, 100) in list(subject.forges.installed())


def test_checks_of_others_that_failed(subject):
    head = subject.branch("devstral/issue-80")
    assert list(subject.forge.failed_checks(head)) == []
    subject.check(head, "success")
    subject.check(head, "failure")
    subject.forge.create_check_run(
        head=head, name="devstral-fix", external_id="x", conclusion="neutral", title="t", summary="s"
    )
    (failed,) = subject.forge.failed_checks(head)
    assert (failed.name, failed.text) == ("ci", "Tests\n\n1 failed")
