"""What the stages of a run need of GitHub: one repository's side of it.

The adapter raises `ForgeUnavailable` and `ForgeRefused` of `worker.errors` only. Times are in UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol

from pydantic import SecretStr

from agent.triage.backlog import BacklogIssue
from agent.types import Frozen

Conclusion = Literal["success", "neutral"]
Reaction = Literal["eyes", "confused", "+1", "-1"]


class Issue(Frozen):
    """An issue as the forge shows it now."""

    number: int
    title: str
    body: str
    state: Literal["open", "closed"]
    locked: bool
    is_pull_request: bool
    labels: tuple[str, ...]
    author: str
    url: str


class BacklogPage(Frozen):
    """`more`: another page may follow."""

    issues: tuple[BacklogIssue, ...]
    more: bool


class LabelEvent(Frozen):
    """Who put a label on an issue, and when."""

    id: int
    actor: str
    actor_id: int | None
    is_bot: bool
    at: datetime


class RepositoryInfo(Frozen):
    full_name: str
    default_branch: str
    archived: bool
    disabled: bool
    clone_url: str


class Comment(Frozen):
    id: int
    body: str
    url: str
    author: str
    is_bot: bool = False
    created_at: datetime | None = None
    updated_at: datetime | None = None


class PullRequestRef(Frozen):
    number: int
    url: str
    state: Literal["open", "closed"]
    merged: bool
    draft: bool
    head_branch: str
    title: str
    body: str
    base_branch: str
    head_commit: str
    merge_commit: str | None = None  #: of a merged one: where its change is on the base branch


class ReviewComment(Frozen):
    """At lines of a change. `answers`: the comment that its thread began with, where it is a reply."""

    id: int
    author: str
    body: str
    path: str
    line: int | None
    hunk: str
    answers: int | None = None


class Review(Frozen):
    id: int
    author: str
    state: str
    body: str
    comments: tuple[ReviewComment, ...]


class CheckRun(Frozen):
    """What a commit shows of us. `external_id` is ours: it is found by it."""

    id: int
    name: str
    head: str
    external_id: str
    conclusion: str


class FailedCheck(Frozen):
    """A check of continuous integration that failed; `text` is what it says, bounded."""

    name: str
    text: str
    url: str


class Forge(Protocol):
    """One repository's side of GitHub, for one installation. Nothing here repeats a write blindly: callers find
    what they wrote before by its marker (`find_comment`, `find_pull_request`, `find_check_run`); adding or removing a
    label twice is the same as once."""

    def login(self) -> str:
        """Under which name GitHub shows what we write."""

    def repository(self) -> RepositoryInfo: ...

    def issue(self, number: int) -> Issue: ...

    def labelled(self, label: str) -> Sequence[Issue]:
        """Open issues that have the label; no pull requests."""

    def backlog(self, page: int, *, labels: Sequence[str], since: datetime | None) -> BacklogPage:
        """Open issues, the oldest first, a hundred a page less the pull requests among them; `page` from 1. Those with
        all `labels`, that changed at `since` or later."""

    def labelled_by(self, number: int, label: str) -> LabelEvent | None:
        """The newest event that put the label on; None where GitHub doesn't tell who that was."""

    def permission(self, login: str) -> str:
        """`admin`, `maintain`, `write`, `triage`, `read` or `none` (also for an unknown login)."""

    def find_comment(self, number: int, marker: str) -> Comment | None:
        """The first comment on an issue, written by us, whose body contains `marker`."""

    def comments(self, number: int) -> Sequence[Comment]:
        """All comments on an issue or pull request, oldest first; the first thousand where there are more."""

    def create_comment(self, number: int, body: str) -> Comment: ...

    def edit_comment(self, comment_id: int, body: str) -> Comment: ...

    def react(self, number: int, reaction: Reaction, *, comment_id: int | None = None) -> None:
        """To an issue or pull request, or to a comment on it. Twice is the same as once."""

    def find_pull_request(self, head_branch: str) -> PullRequestRef | None:
        """The newest pull request from `head_branch` of this repository, open ones first."""

    def pull_request(self, number: int) -> PullRequestRef: ...

    def open_pull_request(self, *, title: str, body: str, head: str, base: str, draft: bool) -> PullRequestRef:
        """Where the repository's plan has no drafts, it is none: the answer says so."""

    def edit_pull_request(self, number: int, *, title: str, body: str) -> PullRequestRef: ...

    def request_review(self, number: int, login: str) -> None:
        """Of a pull request. ForgeRefused where GitHub lets that person review nothing here."""

    def close_pull_request(self, number: int, *, body: str) -> PullRequestRef:
        """Closed without merging, with `body` saying why; closing a closed one only changes its body."""

    def review(self, number: int, review_id: int) -> Review:
        """Of a pull request, with the comments that were handed in with it."""

    def thread(self, number: int, comment_id: int) -> Sequence[ReviewComment]:
        """The comments on a pull request's change that belong to the thread which began with `comment_id`."""

    def reply(self, number: int, comment_id: int, body: str) -> None:
        """In the thread that began with a review's comment. Not looked up: see `thread`."""

    def resolve_threads(self, number: int, comment_ids: Sequence[int]) -> None:
        """The threads that began with these; those that are resolved, or can't be, stay as they are."""

    def add_label(self, number: int, label: str) -> None: ...

    def remove_label(self, number: int, label: str) -> None:
        """Also when the issue does not have it."""

    def find_check_run(self, head: str, name: str, external_id: str) -> CheckRun | None:
        """Ours on the commit `head`. ForgeRefused where check runs can't be had (a plain token, no permission)."""

    def create_check_run(
        self, *, head: str, name: str, external_id: str, conclusion: Conclusion, title: str, summary: str
    ) -> CheckRun:
        """A completed one; ForgeRefused as above."""

    def failed_checks(self, head: str) -> Sequence[FailedCheck]:
        """Of other services, on a commit: check runs that failed or timed out."""

    def set_status(self, head: str, *, context: str, description: str) -> None:
        """A commit status of success, for who can't make check runs: at most 140 characters, and no page. Twice shows
        the newest."""

    def git_token(self, access: Literal["read", "write"]) -> SecretStr:
        """A token for git over HTTP, for this repository alone where the authentication can narrow it."""


class Forges(Protocol):
    """Where a forge for one repository comes from; one per process, on the `default` worker."""

    def open(self, repository: str, installation_id: int | None) -> Forge: ...

    def installed(self) -> Sequence[tuple[str, int]]:
        """Every repository that an App is installed on, with the installation; empty for who is none."""
