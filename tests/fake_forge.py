"""A forge in memory. It passes the same contract tests as the PyGithub adapter (tests/contracts)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import SecretStr

from agent.triage.backlog import BacklogIssue
from worker.errors import ForgeRefused
from worker.stages.forge import (
    BacklogPage,
    CheckRun,
    Comment,
    Conclusion,
    FailedCheck,
    Forge,
    Forges,
    Issue,
    LabelEvent,
    PullRequestRef,
    Reaction,
    RepositoryInfo,
    Review,
    ReviewComment,
)

BOT = "devstral-fixer[bot]"
BASE = "https://github.example"


@dataclass
class FakeRepository:
    """What GitHub would hold of one repository; tests change it freely. `branches` may be asked of real git."""

    full_name: str
    clone_url: str
    default_branch: str = "main"
    archived: bool = False
    permissions: dict[str, str] = field(default_factory=dict)
    issues: dict[int, Issue] = field(default_factory=dict)
    comments: dict[int, list[Comment]] = field(default_factory=dict)
    pull_requests: list[PullRequestRef] = field(default_factory=list)
    check_runs: list[CheckRun] = field(default_factory=list)
    reactions: list[tuple[int, int | None, Reaction]] = field(default_factory=list)
    drafts: bool = True
    review_requests: list[tuple[int, str]] = field(default_factory=list)
    statuses: dict[tuple[str, str], str] = field(default_factory=dict)
    label_events: dict[tuple[int, str], LabelEvent] = field(default_factory=dict)
    failed_checks: dict[str, list[FailedCheck]] = field(default_factory=dict)
    reviews: dict[int, list[Review]] = field(default_factory=dict)
    replies: list[ReviewComment] = field(default_factory=list)
    resolved: set[int] = field(default_factory=set)
    has_branch: Callable[[str], bool] = lambda _: True
    head_of: Callable[[str], str] = lambda _: "0" * 40

    def open_issue(self, title: str = "wrap() is one too wide", body: str = "", **changes: Any) -> int:
        number = 1 + len(self.issues) + len(self.pull_requests)
        values = {
            "number": number,
            "title": title,
            "body": body,
            "state": "open",
            "locked": False,
            "is_pull_request": False,
            "labels": (),
            "author": "octo-admin",
            "url": f"{BASE}/{self.full_name}/issues/{number}",
            **changes,
        }
        self.issues[number] = Issue(**values)
        return number

    def put_label(self, number: int, label: str, *, actor: str = "octo-admin", at: datetime | None = None) -> None:
        """As a person does."""
        issue = self.issues[number]
        self.issues[number] = issue.model_copy(update={"labels": (*issue.labels, label)})
        self.label_events[number, label.casefold()] = LabelEvent(
            id=1 + len(self.label_events),
            actor=actor,
            actor_id=7,
            is_bot=actor.endswith("[bot]"),
            at=at or datetime.now(UTC),
        )

    def write(self, number: int, body: str, author: str, **changes: Any) -> Comment:
        """A comment as GitHub keeps it; `changes` are fields of `Comment`."""
        count = 1 + sum(map(len, self.comments.values()))
        now = datetime.now(UTC)
        values = {
            "id": count,
            "body": body,
            "url": f"{BASE}/c/{count}",
            "author": author,
            "is_bot": author.endswith("[bot]"),
            "created_at": now,
            "updated_at": now,
            **changes,
        }
        comment = Comment(**values)
        self.comments.setdefault(number, []).append(comment)
        return comment


class FakeForge:
    """`faults` maps a method's name to errors it raises, one a call, before (or, if wrapped by `After`, after) the
    effect."""

    def __init__(self, repository: FakeRepository) -> None:
        self._repository = repository
        self.faults: dict[str, list[Exception | After]] = {}
        self.calls: list[str] = []

    def login(self) -> str:
        return BOT

    def repository(self) -> RepositoryInfo:
        self._begin("repository")
        r = self._repository
        return RepositoryInfo(
            full_name=r.full_name,
            default_branch=r.default_branch,
            archived=r.archived,
            disabled=False,
            clone_url=r.clone_url,
        )

    def issue(self, number: int) -> Issue:
        self._begin("issue")
        return self._issue(number)

    def labelled(self, label: str) -> Sequence[Issue]:
        self._begin("labelled")
        return tuple(i for i in self._repository.issues.values() if label in i.labels and i.state == "open")

    def backlog(self, page: int, *, labels: Sequence[str], since: datetime | None) -> BacklogPage:
        del since  # nothing here says when it changed
        self._begin("backlog")
        found = [
            BacklogIssue(number=i.number, title=i.title, body=i.body, labels=i.labels, author=i.author)
            for i in self._repository.issues.values()
            if i.state == "open" and not i.is_pull_request and set(labels) <= set(i.labels)
        ]
        return BacklogPage(issues=tuple(found[(page - 1) * 100 : page * 100]), more=len(found) >= page * 100)

    def labelled_by(self, number: int, label: str) -> LabelEvent | None:
        self._begin("labelled_by")
        return self._repository.label_events.get((number, label.casefold()))

    def permission(self, login: str) -> str:
        self._begin("permission")
        return self._repository.permissions.get(login, "none")

    def find_comment(self, number: int, marker: str) -> Comment | None:
        self._begin("find_comment")
        comments = self._repository.comments.get(number, [])
        return next((c for c in comments if c.author == BOT and marker in c.body), None)

    def comments(self, number: int) -> Sequence[Comment]:
        self._begin("comments")
        self._issue(number)
        return tuple(self._repository.comments.get(number, []))

    def react(self, number: int, reaction: Reaction, *, comment_id: int | None = None) -> None:
        after = self._begin("react")
        self._issue(number)
        if comment_id is not None and comment_id not in [c.id for c in self._repository.comments.get(number, [])]:
            raise ForgeRefused(f"no comment {comment_id}")
        if (number, comment_id, reaction) not in self._repository.reactions:
            self._repository.reactions.append((number, comment_id, reaction))
        self._end(after)

    def create_comment(self, number: int, body: str) -> Comment:
        after = self._begin("create_comment")
        self._issue(number)
        comment = self._repository.write(number, body, BOT)
        self._end(after)
        return comment

    def edit_comment(self, comment_id: int, body: str) -> Comment:
        after = self._begin("edit_comment")
        for comments in self._repository.comments.values():
            for i, comment in enumerate(comments):
                if comment.id == comment_id:
                    comments[i] = comment.model_copy(update={"body": body})
                    self._end(after)
                    return comments[i]
        raise ForgeRefused(f"no comment {comment_id}")

    def find_pull_request(self, head_branch: str) -> PullRequestRef | None:
        self._begin("find_pull_request")
        found = [p for p in self._repository.pull_requests if p.head_branch == head_branch]
        return max(found, key=lambda p: (p.state == "open", p.number), default=None)

    def pull_request(self, number: int) -> PullRequestRef:
        self._begin("pull_request")
        for reference in self._repository.pull_requests:
            if reference.number == number:
                return reference
        raise ForgeRefused(f"no pull request {number}")

    def review(self, number: int, review_id: int) -> Review:
        self._begin("review")
        self.pull_request(number)
        for review in self._repository.reviews.get(number, []):
            if review.id == review_id:
                return review
        raise ForgeRefused(f"no review {review_id}")

    def thread(self, number: int, comment_id: int) -> Sequence[ReviewComment]:
        self._begin("thread")
        said = [*(c for r in self._repository.reviews.get(number, []) for c in r.comments)]
        return tuple(c for c in [*said, *self._repository.replies] if comment_id in (c.id, c.answers))

    def reply(self, number: int, comment_id: int, body: str) -> None:
        after = self._begin("reply")
        (began, *_) = self.thread(number, comment_id) or [None]
        if began is None:
            raise ForgeRefused(f"no review comment {comment_id}")
        answer = began.model_copy(
            update={"id": 10_000 + len(self._repository.replies), "author": BOT, "body": body, "answers": comment_id}
        )
        self._repository.replies.append(answer)
        self._end(after)

    def resolve_threads(self, number: int, comment_ids: Sequence[int]) -> None:
        after = self._begin("resolve_threads")
        self.pull_request(number)
        self._repository.resolved.update(comment_ids)
        self._end(after)

    def open_pull_request(self, *, title: str, body: str, head: str, base: str, draft: bool) -> PullRequestRef:
        after = self._begin("open_pull_request")
        if not self._repository.has_branch(head) or not self._repository.has_branch(base):
            raise ForgeRefused("head or base is no branch")
        if any(p.head_branch == head and p.state == "open" for p in self._repository.pull_requests):
            raise ForgeRefused(f"a pull request for {head} exists")
        number = 1 + len(self._repository.issues) + len(self._repository.pull_requests)
        reference = PullRequestRef(
            number=number,
            url=f"{BASE}/{self._repository.full_name}/pull/{number}",
            state="open",
            merged=False,
            draft=draft and self._repository.drafts,
            head_branch=head,
            title=title,
            body=body,
            base_branch=base,
            head_commit=self._repository.head_of(head),
        )
        self._repository.pull_requests.append(reference)
        self._end(after)
        return reference

    def edit_pull_request(self, number: int, *, title: str, body: str) -> PullRequestRef:
        after = self._begin("edit_pull_request")
        for i, reference in enumerate(self._repository.pull_requests):
            if reference.number == number:
                changed = reference.model_copy(update={"title": title, "body": body})
                self._repository.pull_requests[i] = changed
                self._end(after)
                return changed
        raise ForgeRefused(f"no pull request {number}")

    def request_review(self, number: int, login: str) -> None:
        after = self._begin("request_review")
        self.pull_request(number)
        if self._repository.permissions.get(login, "none") == "none":
            raise ForgeRefused(f"{login} is no collaborator")
        if (number, login) not in self._repository.review_requests:
            self._repository.review_requests.append((number, login))
        self._end(after)

    def failed_checks(self, head: str) -> Sequence[FailedCheck]:
        self._begin("failed_checks")
        return tuple(self._repository.failed_checks.get(head, ()))

    def set_status(self, head: str, *, context: str, description: str) -> None:
        after = self._begin("set_status")
        self._repository.statuses[head, context] = description[:140]
        self._end(after)

    def close_pull_request(self, number: int, *, body: str) -> PullRequestRef:
        after = self._begin("close_pull_request")
        for i, reference in enumerate(self._repository.pull_requests):
            if reference.number == number:
                changed = reference.model_copy(update={"state": "closed", "body": body})
                self._repository.pull_requests[i] = changed
                self._end(after)
                return changed
        raise ForgeRefused(f"no pull request {number}")

    def add_label(self, number: int, label: str) -> None:
        after = self._begin("add_label")
        self._label(number, add=label)
        self._end(after)

    def remove_label(self, number: int, label: str) -> None:
        after = self._begin("remove_label")
        self._label(number, remove=label)
        self._end(after)

    def _label(self, number: int, *, add: str = "", remove: str = "") -> None:
        issue = self._issue(number)
        kept = tuple(name for name in issue.labels if name not in (add, remove))
        self._repository.issues[number] = issue.model_copy(update={"labels": (*kept, add) if add else kept})

    def find_check_run(self, head: str, name: str, external_id: str) -> CheckRun | None:
        self._begin("find_check_run")
        found = [c for c in self._repository.check_runs if (c.head, c.name, c.external_id) == (head, name, external_id)]
        return found[0] if found else None

    def create_check_run(
        self, *, head: str, name: str, external_id: str, conclusion: Conclusion, title: str, summary: str
    ) -> CheckRun:
        after = self._begin("create_check_run")
        number = len(self._repository.check_runs) + 1
        made = CheckRun(id=number, name=name, head=head, external_id=external_id, conclusion=conclusion)
        self._repository.check_runs.append(made)
        self._end(after)
        return made

    def git_token(self, access: Literal["read", "write"]) -> SecretStr:
        self._begin("git_token")
        return SecretStr(f"token-{access}")

    def _issue(self, number: int) -> Issue:
        try:
            return self._repository.issues[number]
        except KeyError as error:
            raise ForgeRefused(f"no issue {number}") from error

    def _begin(self, name: str) -> Exception | None:
        self.calls.append(name)
        fault = self.faults[name].pop(0) if self.faults.get(name) else None
        if isinstance(fault, After):
            return fault.error
        if fault is not None:
            raise fault
        return None

    @staticmethod
    def _end(after: Exception | None) -> None:
        if after is not None:
            raise after


@dataclass
class After:
    """The effect happens, and then the answer is lost."""

    error: Exception


class FakeForges:
    installations: tuple[tuple[str, int], ...] = ()

    def __init__(self, *forges: FakeForge) -> None:
        self.installations = tuple((forge._repository.full_name, 100) for forge in forges)
        self._forges = {forge._repository.full_name: forge for forge in forges}

    def installed(self) -> Sequence[tuple[str, int]]:
        return self.installations

    def open(self, repository: str, installation_id: int | None) -> Forge:
        del installation_id
        if repository not in self._forges:
            raise ForgeRefused(f"{repository} is not found, or not installed")
        return self._forges[repository]


def check_is_forge(forge: FakeForge, forges: FakeForges) -> tuple[Forge, Forges]:
    """mypy holds the fakes to the port."""
    return forge, forges
