"""What the PyGithub adapter sends passes the gate, all of it, and reads that repeat are asked conditionally."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from github import Auth, Github
from pydantic import SecretStr
from urllib3.connection import HTTPConnection

from tests.github_double import options, push_branch, running_double
from worker import compose
from worker.adapters.forge import Gate, GitHubForges, Passages, Rates
from worker.adapters.forge.client import connect
from worker.adapters.forge.gate import Price, Resource
from worker.demo.github_double import GitHubDouble
from worker.errors import ForgeRefused, ForgeUnavailable
from worker.observe import Watch
from worker.settings import Settings
from worker.stages.forge import Forge

REPOSITORY = "acme/widgets"


class Recording(Gate):
    """Lets everybody in, and remembers whom."""

    def __init__(self) -> None:
        super().__init__(Rates())
        self.entered: list[tuple[str, Price]] = []

    def enter(self, account: str, price: Price, resource: Resource = "core") -> None:
        del resource
        self.entered.append((account, price))


@dataclass
class Asking:
    """A forge, what it asked of the double, and what passed its gate."""

    double: GitHubDouble
    is_app: bool
    gate: Recording = field(default_factory=Recording)
    told: list[tuple[str, str, int]] = field(default_factory=list)
    before: int = 0

    def __post_init__(self) -> None:
        passages = Passages(gate=self.gate, told=lambda *answer: self.told.append(answer))
        if self.is_app:
            double = self.double
            self.forges = GitHubForges.for_app(double.app_id, double.private_key_path, options(double), passages)
        else:
            token = SecretStr(self.double.admin_token)
            self.forges = GitHubForges.for_token(token, options(self.double), passages)
        self.forge = self.forges.open(REPOSITORY, None)

    def requests(self, call: Callable[[], object]) -> list[tuple[str, str, int]]:
        self.before = len(self.double.requests())
        call()
        return [(e.method, e.path, e.status) for e in self.double.requests()[self.before :] if e.server == "api"]


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHubDouble]:
    with running_double(tmp_path_factory.mktemp("double")) as double:
        double.create_repository(REPOSITORY, {"a.py": "x = 1\n"})
        double.create_issue(REPOSITORY, "A bug", "It breaks.")
        for branch in ("devstral/app", "devstral/token"):
            push_branch(double, REPOSITORY, branch, tmp_path_factory.mktemp("work") / "w")
        yield double


@pytest.fixture(params=["app", "token"])
def asking(request: pytest.FixtureRequest, double: GitHubDouble) -> Iterator[Asking]:
    yield Asking(double, request.param == "app")
    double.clear_faults()


def calls(asking: Asking) -> dict[str, Callable[[], object]]:
    """One call of every method of the port: what asks GitHub, in an order that can be followed."""
    forge, head = asking.forge, asking.double.branch(REPOSITORY, "main") or ""
    pull: list[int] = []
    remarks: list[int] = []
    branch = "devstral/app" if asking.is_app else "devstral/token"

    def opened() -> None:
        made = forge.open_pull_request(title="T", body="B", head=branch, base="main", draft=True)
        pull.append(made.number)

    def checked(call: Callable[..., object], **named: Any) -> None:
        if asking.is_app:
            call(**named)
        else:  # no App, no check runs
            with pytest.raises(ForgeRefused):
                call(**named)

    def reviewed() -> None:
        review_id = asking.double.review(REPOSITORY, pull[0], "Nearly.", comments=[("a.py", 1, "why?")])
        asking.before = len(asking.double.requests())  # that was the double's own doing
        remarks.extend(comment.id for comment in forge.review(pull[0], review_id).comments)

    shown = {"head": head, "name": "n", "external_id": "1"}
    return {
        "login": forge.login,
        "repository": forge.repository,
        "issue": lambda: forge.issue(1),
        "labelled": lambda: forge.labelled("seen"),
        "backlog": lambda: forge.backlog(1, labels=["seen"], since=datetime(2026, 1, 1, tzinfo=UTC)),
        "labelled_by": lambda: forge.labelled_by(1, "seen"),
        "permission": lambda: forge.permission("octo-admin"),
        "create_comment": lambda: forge.create_comment(1, "<!-- m -->"),
        "find_comment": lambda: forge.find_comment(1, "<!-- m -->"),
        "edit_comment": lambda: forge.edit_comment(getattr(forge.find_comment(1, "<!-- m -->"), "id", 0), "n"),
        "comments": lambda: forge.comments(1),
        "react": lambda: forge.react(1, "eyes"),
        "find_pull_request": lambda: forge.find_pull_request(branch),
        "open_pull_request": opened,
        "pull_request": lambda: forge.pull_request(pull[0]),
        "request_review": lambda: forge.request_review(pull[0], "octo-admin"),
        "failed_checks": lambda: forge.failed_checks(head),
        "set_status": lambda: forge.set_status(head, context="c", description="d"),
        "review": reviewed,
        "thread": lambda: forge.thread(pull[0], remarks[0]),
        "reply": lambda: forge.reply(pull[0], remarks[0], "Done."),
        "resolve_threads": lambda: forge.resolve_threads(pull[0], remarks),
        "edit_pull_request": lambda: forge.edit_pull_request(pull[0], title="T2", body="B2"),
        "close_pull_request": lambda: forge.close_pull_request(pull[0], body="B3"),
        "add_label": lambda: forge.add_label(1, "seen"),
        "remove_label": lambda: forge.remove_label(1, "seen"),
        "create_check_run": lambda: checked(
            forge.create_check_run, **shown, conclusion="success", title="T", summary="S"
        ),
        "find_check_run": lambda: checked(forge.find_check_run, **shown),
        "git_token": lambda: forge.git_token("write"),
    }


def test_nothing_goes_around_the_gate(asking: Asking) -> None:
    of_port = {name for name in vars(Forge) if not name.startswith("_")}
    made = calls(asking)
    assert of_port == set(made), "say in `calls` how the new method is called"
    silent = set()
    for name, call in made.items():
        asking.gate.entered.clear()
        asked = asking.requests(call)
        writes = sum(method != "GET" and path != "/graphql" for method, path, _ in asked)
        assert len(asking.gate.entered) == len(asked), (name, asked)
        mutations = 1 if name == "resolve_threads" else 0
        assert sum(price.points == 5 for _, price in asking.gate.entered) == writes + mutations, name
        if not asked:
            silent.add(name)
    assert silent <= ({"login"} if asking.is_app else {"git_token", "create_check_run", "find_check_run", "login"})


def test_the_list_of_installations_passes_too(asking: Asking) -> None:
    asked = asking.requests(asking.forges.installed)
    assert len(asking.gate.entered) == len(asked)
    assert bool(asked) is asking.is_app


def test_requests_count_for_whom_github_counts_them(asking: Asking) -> None:
    asking.forge.repository()
    asking.forge.create_comment(1, "x")
    accounts = [account for account, _ in asking.gate.entered]
    if asking.is_app:  # finding the installation and its token are the App's own
        assert accounts == ["app:12345", "app:12345", "installation:100", "installation:100"]
    else:
        assert set(accounts) == {accounts[0]}
        assert accounts[0].startswith("token:")
        assert asking.double.admin_token not in accounts[0]
    assert [status for _, _, status in asking.told][-2:] == [200, 201]
    assert [kind for _, kind, _ in asking.told][-2:] == ["read", "write"]


def test_clients_that_pygithub_makes_of_ours_pass_too(asking: Asking) -> None:
    """Its requesters are copied in several places; a copy has the same retry object."""
    auth = Auth.Token(asking.double.admin_token)
    client = connect(auth, options(asking.double), Passages(gate=asking.gate).of("a"))
    for requester in (
        client.requester,
        client.requester.withLazy(lazy=False),
        client.requester.withAuth(Auth.Token(asking.double.admin_token)),
        client.requester.withApiVersion("2022-11-28"),
    ):
        requester.requestJsonAndCheck("GET", "/user")
        requester.close()
    assert [account for account, _ in asking.gate.entered] == ["a"] * 4


def test_other_clients_of_the_process_are_left_alone(asking: Asking) -> None:
    asking.forge.repository()
    asking.gate.entered.clear()
    with Github(auth=Auth.Token(asking.double.admin_token), base_url=asking.double.api_url) as client:
        assert client.get_user().login == "octo-admin"
    assert asking.gate.entered == []


def test_a_retried_read_passes_each_time(asking: Asking) -> None:
    asking.forge.repository()
    asking.gate.entered.clear()
    asking.told.clear()
    asking.double.fault("GET /repos/acme/widgets/issues/1", times=2, status=502)
    assert len(asking.requests(lambda: asking.forge.issue(1))) == 3
    assert len(asking.gate.entered) == 3
    assert [status for _, _, status in asking.told] == [502, 502, 200]


def test_connections_stay_open(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyGithub takes injected classes for those of tests, and would open a connection for every request."""
    asking.forge.repository()
    opened: list[int] = []
    connect_before = HTTPConnection.connect

    def noted(connection: HTTPConnection) -> None:
        opened.append(connection.port)
        connect_before(connection)

    monkeypatch.setattr(HTTPConnection, "connect", noted)
    for _ in range(3):
        asking.forge.issue(1)
    assert opened == []


def test_reads_that_repeat_cost_nothing_and_are_never_old(asking: Asking) -> None:
    number = asking.double.create_issue(REPOSITORY, "First", "x")
    reads: tuple[Callable[[], object], ...] = (
        lambda: asking.forge.issue(number),
        asking.forge.repository,
        lambda: asking.forge.permission("octo-admin"),
        lambda: asking.forge.find_comment(number, "m"),
    )
    first = [read() for read in reads]
    for read, value in zip(reads, first, strict=True):
        ((_, _, status),) = asking.requests(lambda read=read, value=value: _same(read(), value))
        assert status == 304
    assert [status for _, _, status in asking.told][-4:] == [304] * 4
    asking.double.call("PATCH", f"/repos/{REPOSITORY}/issues/{number}", {"title": "Second"})
    assert asking.forge.issue(number).title == "Second"
    asking.forge.create_comment(number, "now m is here")
    assert asking.forge.find_comment(number, "m is here") is not None


def _same(now: object, then: object) -> None:
    assert now == then


def test_nobody_is_answered_with_what_another_one_may_see(double: GitHubDouble) -> None:
    passages = Passages()
    number = double.create_issue(REPOSITORY, "Hidden", "x")
    double.create_repository("acme/hidden", {"a": "b"})
    for token, title in ((double.admin_token, "Hidden"), (double.stranger_token, None)):
        forge = GitHubForges.for_token(SecretStr(token), options(double), passages).open(REPOSITORY, None)
        before = len(double.requests())
        assert title in (None, forge.issue(number).title)
        if title is None:
            forge.issue(number)
            statuses = [entry.status for entry in double.requests()[before:]]
            assert statuses[0] == 200  # not 304: what the other one had kept is not its own


def test_an_answer_that_was_dropped_meanwhile_is_asked_for_anew(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking.forge.issue(1)
    kept = asking.forge._passage.kept  # type: ignore[attr-defined]
    get, seen = kept.get, []

    def only_the_first_look(key: tuple[str, str]) -> bytes | None:
        seen.append(key)
        return get(key) if len(seen) == 1 else None

    monkeypatch.setattr(type(kept), "get", lambda _, key: only_the_first_look(key))
    asked = asking.requests(lambda: asking.forge.issue(1))
    assert [status for _, _, status in asked] == [304, 200]


def test_a_full_minute_postpones_and_asks_nothing(double: GitHubDouble) -> None:
    gate = Gate(Rates(content_per_minute=2, content_per_hour=0, points_per_minute=0), max_wait=0)
    token = SecretStr(double.admin_token)
    forge = GitHubForges.for_token(token, options(double), Passages(gate=gate)).open(REPOSITORY, None)
    forge.create_comment(1, "one")
    forge.create_comment(1, "two")
    before = len(double.requests("POST"))
    with pytest.raises(ForgeUnavailable, match=r"comment on acme/widgets#1: .* 2 content per minute") as postponed:
        forge.create_comment(1, "three")
    assert postponed.value.retry_after is not None
    assert 50 < postponed.value.retry_after <= 60
    assert len(double.requests("POST")) == before
    assert forge.issue(1).number == 1  # reads go on


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_one_forge_was_told_holds_for_the_next(double: GitHubDouble, redis_url: str, method: str) -> None:
    def forge() -> Forge:
        gate = Gate(Rates(), redis_url=redis_url, max_wait=0)
        return GitHubForges.for_app(double.app_id, double.private_key_path, options(double), Passages(gate=gate)).open(
            REPOSITORY, 100
        )

    first, second = forge(), forge()
    body = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}
    double.fault(f"{method} /repos/acme/widgets/issues/1", status=403, body=body)
    with pytest.raises(ForgeUnavailable) as told:
        first.issue(1) if method == "GET" else first.create_comment(1, "x")
    assert told.value.retry_after == pytest.approx(60, abs=2)
    before = len(double.requests())
    with pytest.raises(ForgeUnavailable, match="asked installation:100 to wait") as heard:
        second.issue(1)
    assert heard.value.retry_after == pytest.approx(60, abs=3)
    assert [e.path for e in double.requests()[before:]] == ["/app/installations/100/access_tokens"]
    double.clear_faults()


def test_the_settings_reach_the_gate_and_the_metrics_tell_of_it(double: GitHubDouble, redis_url: str) -> None:
    settings = Settings(
        _env_file=None,
        github_url=double.api_url,
        github_token=double.admin_token,
        redis_url=redis_url,
        github_content_per_minute=0,
        github_content_per_hour=1,
    )
    watch = Watch()
    forge = compose.make_forges(settings, watch).open(REPOSITORY, None)
    forge.issue(1)
    forge.issue(1)
    forge.create_comment(1, "one")
    again = compose.make_forges(settings).open(REPOSITORY, None)  # another process would be no different
    with pytest.raises(ForgeUnavailable, match="1 content per hour"):
        again.create_comment(1, "two")
    counted = {
        (sample.labels["kind"], sample.labels["status"]): sample.value
        for metric in watch.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "devstral_fix_github_requests_total"
    }
    assert counted == {("read", "200"): 1, ("read", "304"): 1, ("write", "201"): 1}
    waits = [
        sample.value
        for metric in watch.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "devstral_fix_github_wait_seconds_count"
    ]
    assert waits == [3]
