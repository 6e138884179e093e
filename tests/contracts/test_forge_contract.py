"""The forge against the GitHub double, as an App and with a plain token: one contract, two identities.

What the double's own repairs answer is our reading of GitHub's documentation, not evidence about GitHub.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import get_type_hints

import pytest
from pydantic import SecretStr

from tests.github_double import app_forges, git, options, push_branch, running_double
from worker.adapters.forge import ClientOptions, GitHubForges, text
from worker.adapters.forge.github import GitHubForge
from worker.demo.github_double import GitHubDouble
from worker.errors import ForgeRefused, ForgeUnavailable, SettingsError
from worker.stages.forge import Forge, Forges

REPOSITORY = "acme/widgets"
_SERIAL = iter(range(1_000_000))


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHubDouble]:
    with running_double(tmp_path_factory.mktemp("double")) as double:
        double.create_repository(REPOSITORY, {"a.py": "x = 1\n"})
        double.create_repository("acme/other", {"b.py": "y = 1\n"})
        yield double


@dataclass
class Subject:
    double: GitHubDouble
    forges: GitHubForges
    forge: Forge
    login: str
    is_app: bool
    started: int

    def asked(self, match: str) -> int:
        """How often the double was asked this since the test began."""
        return sum(f"{e.method} {e.path}".startswith(match) for e in self.double.requests()[self.started :])

    def issue(self, title: str = "A bug", body: str = "It breaks.") -> int:
        return self.double.create_issue(REPOSITORY, title, body)


@pytest.fixture(params=["app", "token"])
def subject(request: pytest.FixtureRequest, double: GitHubDouble) -> Iterator[Subject]:
    is_app = request.param == "app"
    if is_app:
        forges, login = app_forges(double), f"{double.app_slug}[bot]"
    else:
        forges = GitHubForges.for_token(SecretStr(double.admin_token), options(double))
        login = "octo-admin"
    forge = forges.open(REPOSITORY, double.installation_id)
    yield Subject(double, forges, forge, login, is_app, len(double.requests()))
    double.clear_faults()


def test_the_adapter_has_every_method_of_the_ports() -> None:
    for port, adapter in ((Forge, GitHubForge), (Forges, GitHubForges)):
        for name, wanted in vars(port).items():
            if not name.startswith("_"):
                assert get_type_hints(getattr(adapter, name)) == get_type_hints(wanted), name


def test_repository(subject: Subject) -> None:
    found = subject.forge.repository()
    assert (found.full_name, found.default_branch) == (REPOSITORY, "main")
    assert not found.archived
    assert not found.disabled
    assert found.clone_url == subject.double.git_url(REPOSITORY)


def test_issue_as_it_is_now(subject: Subject) -> None:
    number = subject.issue("Wörter 🙂", "Text")
    subject.double.add_label(REPOSITORY, number, "devstral-fix")
    found = subject.forge.issue(number)
    assert (found.number, found.title, found.body, found.state) == (number, "Wörter 🙂", "Text", "open")
    assert (found.labels, found.author, found.locked, found.is_pull_request) == (
        ("devstral-fix",),
        "octo-admin",
        False,
        False,
    )
    assert found.url.endswith(f"/{REPOSITORY}/issues/{number}")
    subject.double.call("PATCH", f"/repos/{REPOSITORY}/issues/{number}", {"state": "closed", "title": "Now"})
    again = subject.forge.issue(number)
    assert (again.state, again.title) == ("closed", "Now")


def test_unknown_things_are_refused(subject: Subject) -> None:
    with pytest.raises(ForgeRefused, match="404"):
        subject.forge.issue(999_999)
    with pytest.raises(ForgeRefused):
        subject.forge.create_comment(999_999, "x")
    with pytest.raises(ForgeRefused):
        subject.forge.edit_comment(999_999, "x")
    with pytest.raises(ForgeRefused):
        subject.forges.open("acme/absent", subject.double.installation_id).repository()


@pytest.mark.parametrize("name", ["", "acme", "a/b/c", "../b", "a/..", "a/b?x=1", "a b/c", "a/b\n"])
def test_a_name_that_is_none_is_refused(subject: Subject, name: str) -> None:
    with pytest.raises(ForgeRefused):
        subject.forges.open(name, None)


def test_permission_fails_closed(subject: Subject) -> None:
    assert subject.forge.permission("octo-admin") == "admin"
    assert subject.forge.permission("stranger") == "none"
    assert subject.forge.permission("no such/login?x=1") == "none"
    subject.double.fault("GET /repos/acme/widgets/collaborators/octo-admin", times=9, status=500)
    with pytest.raises(ForgeUnavailable):
        subject.forge.permission("octo-admin")


@pytest.mark.parametrize(
    ("answer", "role"),
    [
        ({"permission": "read", "role_name": "triage"}, "triage"),
        ({"permission": "write", "role_name": "maintain"}, "maintain"),
        ({"permission": "write", "role_name": "our own role"}, "write"),
        ({"permission": "write"}, "write"),
        ({"permission": "owner"}, "none"),
        ({}, "none"),
    ],
)
def test_the_role_counts_where_github_names_one(subject: Subject, answer: dict[str, str], role: str) -> None:
    subject.double.fault("GET /repos/acme/widgets/collaborators/stranger", status=200, body=answer)
    assert subject.forge.permission("stranger") == role


def test_comments_are_ours_and_edited_in_place(subject: Subject) -> None:
    number = subject.issue()
    marker = "<!-- devstral-fix:status -->"
    subject.double.call("POST", f"/repos/{REPOSITORY}/issues/{number}/comments", {"body": marker}, as_user="stranger")
    assert subject.forge.find_comment(number, marker) is None
    made = subject.forge.create_comment(number, f"{marker}\nworking")
    assert made.author == subject.login
    assert made.url.endswith(f"#issuecomment-{made.id}")
    assert subject.forge.find_comment(number, marker) == made
    edited = subject.forge.edit_comment(made.id, f"{marker}\ndone")
    assert (edited.id, edited.body) == (made.id, f"{marker}\ndone")
    assert [comment["body"] for comment in subject.double.comments(REPOSITORY, number)] == [marker, edited.body]
    assert subject.forge.find_comment(number, "<!-- another -->") is None


def test_all_comments_with_who_and_when(subject: Subject) -> None:
    number = subject.issue()
    subject.double.call("POST", f"/repos/{REPOSITORY}/issues/{number}/comments", {"body": "it is"}, as_user="stranger")
    ours = subject.forge.create_comment(number, "ours")
    first, second = subject.forge.comments(number)
    assert (first.author, first.body, first.is_bot) == ("stranger", "it is", False)
    assert second == ours
    assert second.is_bot == subject.is_app
    assert first.created_at is not None
    assert second.created_at is not None
    assert first.created_at <= second.created_at <= datetime.now(UTC)
    assert first.created_at.tzinfo is not None
    with pytest.raises(ForgeRefused):
        subject.forge.comments(999_999)


def test_reactions_are_given_once(subject: Subject) -> None:
    number = subject.issue()
    comment = subject.forge.create_comment(number, "x")
    for _ in range(2):
        subject.forge.react(number, "eyes")
        subject.forge.react(number, "confused", comment_id=comment.id)
    assert subject.double.reactions(REPOSITORY, number) == ["eyes"]
    assert subject.double.reactions(REPOSITORY, number, comment_id=comment.id) == ["confused"]
    with pytest.raises(ForgeRefused):
        subject.forge.react(999_999, "eyes")
    with pytest.raises(ForgeRefused):
        subject.forge.react(number, "eyes", comment_id=999_999)


def test_a_comment_is_found_behind_many_others(subject: Subject) -> None:
    number = subject.issue()
    for n in range(101):
        subject.double.call("POST", f"/repos/{REPOSITORY}/issues/{number}/comments", {"body": f"noise {n}"})
    made = subject.forge.create_comment(number, "<!-- m --> last")
    assert subject.forge.find_comment(number, "<!-- m -->") == made


def test_outgoing_text_is_made_acceptable(subject: Subject) -> None:
    number = subject.issue()
    made = subject.forge.create_comment(number, "<!-- m -->\x00\ud800é" + "x" * 70_000)
    assert made.body.startswith("<!-- m -->éxxx")
    assert len(made.body) == text.BODY_CHARS
    assert "cut here" in made.body[-100:]


def test_a_processed_write_whose_answer_was_lost_is_not_repeated(subject: Subject) -> None:
    number = subject.issue()
    subject.double.fault(f"POST /repos/acme/widgets/issues/{number}/comments", forward=True)
    with pytest.raises(ForgeUnavailable, match="502"):
        subject.forge.create_comment(number, "<!-- m --> hello")
    found = subject.forge.find_comment(number, "<!-- m -->")
    assert found is not None
    assert len(subject.double.comments(REPOSITORY, number)) == 1
    assert subject.asked(f"POST /repos/acme/widgets/issues/{number}/comments") == 1


def test_a_lost_connection_is_no_refusal(subject: Subject) -> None:
    number = subject.issue()
    subject.double.fault(f"POST /repos/acme/widgets/issues/{number}/comments", drop=True)
    with pytest.raises(ForgeUnavailable):
        subject.forge.create_comment(number, "x")
    assert subject.double.comments(REPOSITORY, number) == []


def test_reads_are_tried_again(subject: Subject) -> None:
    number = subject.issue()
    subject.double.fault(f"GET /repos/acme/widgets/issues/{number}", times=3)
    assert subject.forge.issue(number).number == number
    subject.double.fault(f"GET /repos/acme/widgets/issues/{number}", times=4)
    with pytest.raises(ForgeUnavailable):
        subject.forge.issue(number)


_LIMITED = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}

_PRIMARY = {"message": "API rate limit exceeded for installation ID 100."}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("status", "headers", "body", "wait"),
    [
        (403, {"Retry-After": "20"}, _LIMITED, 20),
        (429, {"Retry-After": "20"}, _LIMITED, 20),
        (503, {"Retry-After": "20"}, {}, 20),
        (403, {}, _LIMITED, 60),
        (429, {}, {"message": "Too many requests"}, 60),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "+20"}, _PRIMARY, 20),
    ],
    ids=["403-after", "429-after", "503-after", "403-secondary", "429-bare", "403-primary"],
)
def test_a_long_wait_is_handed_back(
    subject: Subject, method: str, status: int, headers: dict[str, str], body: dict[str, str], wait: float
) -> None:
    number = subject.issue()
    subject.forge.issue(number)  # an App's token is there
    headers = {
        name: str(int(time.time()) + int(value)) if "Reset" in name else value for name, value in headers.items()
    }
    subject.double.fault(
        f"{method} /repos/acme/widgets/issues/{number}", times=9, status=status, headers=headers, body=body
    )
    begin = time.monotonic()
    call = (
        partial(subject.forge.issue, number) if method == "GET" else partial(subject.forge.create_comment, number, "x")
    )
    with pytest.raises(ForgeUnavailable) as caught:
        call()
    assert time.monotonic() - begin < 5
    assert caught.value.retry_after == pytest.approx(wait, abs=3)
    assert subject.asked(f"{method} /repos/acme/widgets/issues/{number}") <= 2  # one was ours, before the fault


def test_a_short_wait_is_kept(subject: Subject) -> None:
    number = subject.issue()
    subject.double.fault(
        f"GET /repos/acme/widgets/issues/{number}", status=403, headers={"Retry-After": "1"}, body=_LIMITED
    )
    begin = time.monotonic()
    assert subject.forge.issue(number).number == number
    assert time.monotonic() - begin >= 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, {"message": "Resource not accessible by integration"}),
        (404, {"message": "Not Found"}),
        (410, {"message": "This issue was deleted"}),
        (422, {"message": "Validation Failed", "errors": [{"field": "body", "code": "invalid"}]}),
    ],
)
def test_a_refusal_says_what_github_said(subject: Subject, status: int, body: dict[str, object]) -> None:
    number = subject.issue()
    for method in ("GET", "POST"):
        subject.double.fault(f"{method} /repos/acme/widgets/issues/{number}", status=status, body=body)
    with pytest.raises(ForgeRefused, match=f"{status} {body['message']}"):
        subject.forge.issue(number)
    with pytest.raises(ForgeRefused, match=f"{status} {body['message']}") as caught:
        subject.forge.create_comment(number, "x")
    assert subject.double.admin_token not in str(caught.value)


def test_a_refused_token_is_asked_for_anew(subject: Subject) -> None:
    number = subject.issue()
    subject.forge.issue(number)
    subject.double.fault(
        f"GET /repos/acme/widgets/issues/{number}", status=401, body={"message": "Bad credentials"}, times=1
    )
    tokens = subject.asked("POST /app/installations/")
    with pytest.raises(ForgeUnavailable, match="401 Bad credentials") as caught:
        subject.forge.issue(number)
    assert caught.value.retry_after == 30
    assert subject.forge.issue(number).number == number
    assert subject.asked("POST /app/installations/") == tokens + subject.is_app


@pytest.mark.parametrize("body", [[], "text", {"number": "seven"}, {"message": "fine"}])
def test_an_answer_that_is_not_githubs_is_no_crash(subject: Subject, body: object) -> None:
    number = subject.issue()
    subject.double.fault(f"GET /repos/acme/widgets/issues/{number}", times=9, status=200, body=body)
    with pytest.raises(ForgeUnavailable, match="not what GitHub sends"):
        subject.forge.issue(number)


def test_an_issue_that_moved_is_refused(subject: Subject) -> None:
    number = subject.issue()
    elsewhere = subject.double.create_issue("acme/other", "moved here", "")
    location = f"{subject.double.api_url}/repos/acme/other/issues/{elsewhere}"
    subject.double.fault(
        f"GET /repos/acme/widgets/issues/{number}", status=301, headers={"Location": location}, body={"url": location}
    )
    with pytest.raises(ForgeRefused, match="transferred"):
        subject.forge.issue(number)


def test_pull_requests(subject: Subject, tmp_path: Path) -> None:
    branch = f"devstral/issue-{next(_SERIAL)}-{subject.is_app}"
    assert subject.forge.find_pull_request(branch) is None
    with pytest.raises(ForgeRefused, match=r"422 Validation Failed; head invalid"):
        subject.forge.open_pull_request(title="T", body="B", head=branch, base="main", draft=True)
    push_branch(subject.double, REPOSITORY, branch, tmp_path / "work")
    made = subject.forge.open_pull_request(
        title="A\ntitle\x00", body="<!-- m -->\ud800B", head=branch, base="main", draft=True
    )
    assert (made.title, made.body, made.head_branch) == ("A title", "<!-- m -->B", branch)
    assert (made.state, made.merged, made.draft) == ("open", False, True)
    assert subject.forge.find_pull_request(branch) == made
    with pytest.raises(ForgeRefused, match="already exists"):
        subject.forge.open_pull_request(title="T", body="B", head=branch, base="main", draft=True)
    edited = subject.forge.edit_pull_request(made.number, title="New", body="Text")
    assert (edited.number, edited.title, edited.body) == (made.number, "New", "Text")
    (shown,) = [pull for pull in subject.double.pull_requests(REPOSITORY) if pull["head"]["ref"] == branch]
    assert (shown["title"], shown["body"], shown["user"]["login"]) == ("New", "Text", subject.login)
    assert subject.forge.issue(made.number).is_pull_request

    def close(number: int) -> None:
        subject.double.call("PATCH", f"/repos/{REPOSITORY}/pulls/{number}", {"state": "closed"})

    close(made.number)
    closed = subject.forge.find_pull_request(branch)
    assert closed is not None
    assert (closed.number, closed.state, closed.merged) == (made.number, "closed", False)
    second = subject.forge.open_pull_request(title="T", body="B", head=branch, base="main", draft=False)
    third = push_and_open_other(subject, branch, tmp_path)
    assert subject.forge.find_pull_request(branch) == second
    close(second.number)
    newest = subject.forge.find_pull_request(branch)
    assert newest is not None
    assert newest.number == second.number
    assert third not in (made.number, second.number)


def push_and_open_other(subject: Subject, branch: str, tmp_path: Path) -> int:
    """A pull request of a branch whose name only begins the same."""
    push_branch(subject.double, REPOSITORY, f"{branch}-2", tmp_path / "other")
    return subject.forge.open_pull_request(title="T", body="B", head=f"{branch}-2", base="main", draft=True).number


def test_a_pull_request_whose_answer_was_lost_is_found(subject: Subject, tmp_path: Path) -> None:
    branch = f"devstral/lost-{next(_SERIAL)}"
    push_branch(subject.double, REPOSITORY, branch, tmp_path / "work")
    subject.double.fault("POST /repos/acme/widgets/pulls", forward=True)
    with pytest.raises(ForgeUnavailable):
        subject.forge.open_pull_request(title="T", body="B", head=branch, base="main", draft=True)
    found = subject.forge.find_pull_request(branch)
    assert found is not None
    assert subject.asked("POST /repos/acme/widgets/pulls") == 1


def test_git_tokens(subject: Subject, tmp_path: Path) -> None:
    read = subject.forge.git_token("read").get_secret_value()
    write = subject.forge.git_token("write").get_secret_value()
    url = subject.double.git_url(REPOSITORY)
    assert git("ls-remote", url, cwd=tmp_path, token=read).returncode == 0
    assert git("ls-remote", url, cwd=tmp_path, token=write).returncode == 0
    other = git("ls-remote", subject.double.git_url("acme/other"), cwd=tmp_path, token=write)
    if not subject.is_app:
        assert read == write == subject.double.admin_token
        return
    assert other.returncode != 0  # narrowed to its repository
    granted = subject.double.tokens.minted()
    for token, access in ((read, "read"), (write, "write")):
        assert granted[token].permissions == {"contents": access, "metadata": "read"}
        assert granted[token].repositories == {REPOSITORY}


def test_an_app_mints_no_more_than_it_must(double: GitHubDouble) -> None:
    forges = app_forges(double)
    before = len(double.requests("POST /app/installations"))
    for _ in range(3):
        forge = forges.open(REPOSITORY, None)
        forge.repository()
        forge.git_token("read")
    assert len(double.requests("POST /app/installations")) - before == 2  # one for the API, one for git
    forges.open("acme/other", None).repository()
    assert len(double.requests("POST /app/installations")) - before == 3


def test_an_app_that_is_not_installed_is_refused(double: GitHubDouble) -> None:
    with pytest.raises(ForgeRefused, match="installation"):
        app_forges(double).open("elsewhere/thing", None).repository()
    with pytest.raises(ForgeRefused, match="token"):
        app_forges(double).open(REPOSITORY, 999).repository()


def test_a_server_that_is_not_there(double: GitHubDouble) -> None:
    nowhere = ClientOptions(api_url="http://127.0.0.1:9", max_wait=0, retry_backoff=0, timeout=2)
    forges = GitHubForges.for_token(SecretStr("x"), nowhere)
    with pytest.raises(ForgeUnavailable, match="can't be reached"):
        forges.open(REPOSITORY, None).repository()


def test_credentials_are_checked_when_built(double: GitHubDouble, tmp_path: Path) -> None:
    bad = tmp_path / "key.pem"
    bad.write_text("no key")
    for file in (bad, tmp_path / "absent", tmp_path):
        with pytest.raises(SettingsError, match="DEVSTRAL_FIX_GITHUB_APP_KEY_FILE"):
            GitHubForges.for_app(1, file)
    with pytest.raises(SettingsError, match="DEVSTRAL_FIX_GITHUB_TOKEN"):
        GitHubForges.for_token(SecretStr(" "))
    stranger = GitHubForges.for_token(SecretStr("ghp_unknown"), options(double))
    with pytest.raises(ForgeUnavailable, match="401"):
        stranger.open(REPOSITORY, None).repository()


def test_loopback_has_no_pace_and_github_has_its_own() -> None:
    assert ClientOptions(api_url="http://127.0.0.1:1").pace() == (0.0, 0.0)
    assert ClientOptions().pace() == (0.25, 1.0)
    assert ClientOptions(seconds_between_requests=0, seconds_between_writes=2).pace() == (0, 2)


def test_a_commit_status_is_short_and_the_newest_counts(subject: Subject, tmp_path: Path) -> None:
    head = push_branch(subject.double, REPOSITORY, f"devstral/s{next(_SERIAL)}", tmp_path / "w")
    subject.forge.set_status(head, context="devstral-fix", description="one")
    subject.forge.set_status(head, context="devstral-fix", description="two\n" + "x" * 300)
    newest, before = subject.double.call("GET", f"/repos/{REPOSITORY}/commits/{head}/statuses")
    assert (before["description"], newest["state"]) == ("one", "success")
    assert (newest["description"][:5], len(newest["description"])) == ("two x", 140)
    with pytest.raises(ForgeRefused):
        subject.forge.set_status("0" * 40, context="devstral-fix", description="x")


def test_a_plan_without_drafts_gets_a_pull_request_that_is_none(subject: Subject, tmp_path: Path) -> None:
    """As GitHub is reported to answer: 422, "Draft pull requests are not supported in this repository."."""
    branch = f"devstral/d{next(_SERIAL)}"
    push_branch(subject.double, REPOSITORY, branch, tmp_path / "w")
    refused = {"message": "Validation Failed", "errors": [{"message": "Draft pull requests are not supported"}]}
    subject.double.fault("POST /repos/acme/widgets/pulls", status=422, body=refused)
    made = subject.forge.open_pull_request(title="T", body="B", head=branch, base="main", draft=True)
    assert not made.draft
    subject.double.fault("POST /repos/acme/widgets/pulls", status=422, body={"message": "Validation Failed"})
    with pytest.raises(ForgeRefused):
        subject.forge.open_pull_request(title="T", body="B", head=branch, base="main", draft=True)
