"""One repository on GitHub, as the stages of a run see it."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path
from typing import Literal

import github
from github import Github
from github.CheckRun import CheckRun as GitHubCheckRun
from github.IssueComment import IssueComment
from github.NamedUser import NamedUser
from github.Organization import Organization
from github.PullRequest import PullRequest
from pydantic import SecretStr

from worker.adapters.forge import text
from worker.adapters.forge.auth import AppIdentity, Identity, TokenIdentity
from worker.adapters.forge.border import translated
from worker.adapters.forge.client import ClientOptions, connect
from worker.errors import ForgeRefused
from worker.stages.ports import CheckRun, Comment, Conclusion, Forge, Issue, PullRequestRef, RepositoryInfo

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/(?!\.{1,2}$)[A-Za-z0-9._-]+")
_ROLES = ("admin", "maintain", "write", "triage", "read", "none")


class GitHubForges:
    """Forges that share an identity and its tokens. Safe to use from several threads; a forge is for one."""

    def __init__(self, identity: Identity, options: ClientOptions) -> None:
        self._identity = identity
        self._options = options

    @classmethod
    def for_app(cls, app_id: int, private_key: Path, options: ClientOptions | None = None) -> GitHubForges:
        """SettingsError when the key can't be read or is none."""
        options = options or ClientOptions()
        return cls(AppIdentity(app_id, private_key, options), options)

    @classmethod
    def for_token(cls, token: SecretStr, options: ClientOptions | None = None) -> GitHubForges:
        """With a personal access token; SettingsError when it is empty."""
        options = options or ClientOptions()
        return cls(TokenIdentity(token, options), options)

    def open(self, repository: str, installation_id: int | None) -> Forge:
        """Asks GitHub nothing yet. Without an `installation_id` an App looks its own up when it first needs it."""
        if not _NAME.fullmatch(repository):
            raise ForgeRefused(f"not a repository name: {repository[:200]!r}")
        return GitHubForge(repository, installation_id, self._identity, self._options)


class GitHubForge:
    def __init__(
        self, repository: str, installation_id: int | None, identity: Identity, options: ClientOptions
    ) -> None:
        self._name = repository
        self._installation_id = installation_id
        self._identity = identity
        self._options = options
        self._client = connect(identity.api_auth(repository, installation_id), options)
        self._repo = self._client.get_repo(repository)
        self._checks: Github | None = None

    def login(self) -> str:
        return self._identity.login()

    def repository(self) -> RepositoryInfo:
        with translated(f"read {self._name}"):
            found = self._client.get_repo(self._name)  # anew: PyGithub keeps what an object once read
            base = self._options.git_base_url
            return RepositoryInfo(
                full_name=found.full_name,
                default_branch=found.default_branch,
                archived=found.archived,
                disabled=bool(found.disabled),
                clone_url=found.clone_url if base is None else f"{base.rstrip('/')}/{found.full_name}.git",
            )

    def issue(self, number: int) -> Issue:
        with translated(f"read {self._name}#{number}"):
            found = self._repo.get_issue(number)
            lives_in = str(found.raw_data.get("repository_url", "")).rpartition("/repos/")[2]
            result = Issue(
                number=found.number,
                title=found.title,
                body=found.body or "",
                state="closed" if found.state == "closed" else "open",
                locked=bool(found.locked),
                is_pull_request="pull_request" in found.raw_data,
                labels=tuple(label.name for label in found.labels),
                author=_author(found.user),
                url=found.html_url,
            )
        if lives_in and lives_in.lower() != self._name.lower():  # GitHub redirects to where an issue went
            raise ForgeRefused(f"{self._name}#{number} was transferred to {lives_in}#{result.number}")
        return result

    def permission(self, login: str) -> str:
        path = f"/repos/{self._name}/collaborators/{urllib.parse.quote(login, safe='')}/permission"
        with translated(f"read the permission of {login} on {self._name}"):
            try:
                _, data = self._client.requester.requestJsonAndCheck("GET", path)
            except github.UnknownObjectException:
                return "none"
            # `permission` knows only admin, write, read and none; a custom role's name is none of ours.
            for role in (data.get("role_name"), data.get("permission")):
                if role in _ROLES:
                    return str(role)
            return "none"

    def find_comment(self, number: int, marker: str) -> Comment | None:
        us = self._identity.login().casefold()
        with translated(f"list the comments of {self._name}#{number}"):
            for comment in self._repo.get_issue(number).get_comments():
                if marker in (comment.body or "") and _author(comment.user).casefold() == us:
                    return _comment(comment)
        return None

    def create_comment(self, number: int, body: str) -> Comment:
        with translated(f"comment on {self._name}#{number}"):
            return _comment(self._repo.get_issue(number).create_comment(text.body(body)))

    def edit_comment(self, comment_id: int, body: str) -> Comment:
        with translated(f"edit comment {comment_id} of {self._name}"):
            # The number isn't part of a comment's address; PyGithub only offers the way through an issue.
            comment = self._repo.get_issue(1).get_comment(comment_id)
            comment.edit(text.body(body))
            return _comment(comment)

    def find_pull_request(self, head_branch: str) -> PullRequestRef | None:
        owner = self._name.partition("/")[0]
        with translated(f"list the pull requests of {self._name}"):
            listed = self._repo.get_pulls(state="all", head=f"{owner}:{head_branch}", sort="created", direction="desc")
            ours = [_pull(pull) for pull in listed if self._is_from(pull, head_branch)]
        return max(ours, key=lambda pull: (pull.state == "open", pull.number), default=None)

    def open_pull_request(self, *, title: str, body: str, head: str, base: str, draft: bool) -> PullRequestRef:
        with translated(f"open a pull request of {head} on {self._name}"):
            return _pull(self._repo.create_pull(base, head, title=text.title(title), body=text.body(body), draft=draft))

    def edit_pull_request(self, number: int, *, title: str, body: str) -> PullRequestRef:
        with translated(f"edit pull request {self._name}#{number}"):
            pull = self._repo.get_pull(number)
            pull.edit(title=text.title(title), body=text.body(body))
            return _pull(pull)

    def close_pull_request(self, number: int, *, body: str) -> PullRequestRef:
        with translated(f"close pull request {self._name}#{number}"):
            pull = self._repo.get_pull(number)
            pull.edit(state="closed", body=text.body(body))
            return _pull(pull)

    def add_label(self, number: int, label: str) -> None:
        with translated(f"label {self._name}#{number}"):
            self._repo.get_issue(number).add_to_labels(label)

    def remove_label(self, number: int, label: str) -> None:
        with translated(f"take a label off {self._name}#{number}"):
            issue = self._repo.get_issue(number)
            try:
                issue.remove_from_labels(label)
            except github.UnknownObjectException:
                if any(there.name.casefold() == label.casefold() for there in issue.get_labels()):
                    raise

    def find_check_run(self, head: str, name: str, external_id: str) -> CheckRun | None:
        with translated(f"list the check runs of {self._name}@{head[:12]}"):
            commit = self._for_checks().get_repo(self._name).get_commit(head)
            for found in commit.get_check_runs(check_name=name, filter="all"):
                if found.external_id == external_id:
                    return _check(found)
        return None

    def create_check_run(
        self, *, head: str, name: str, external_id: str, conclusion: Conclusion, title: str, summary: str
    ) -> CheckRun:
        with translated(f"make a check run on {self._name}@{head[:12]}"):
            made = (
                self._for_checks()
                .get_repo(self._name)
                .create_check_run(
                    name,
                    head,
                    external_id=external_id,
                    status="completed",
                    conclusion=conclusion,
                    output={"title": text.title(title), "summary": text.body(summary)},
                )
            )
            return _check(made)

    def _for_checks(self) -> Github:
        if self._checks is None:
            auth = self._identity.checks_auth(self._name, self._installation_id)
            if auth is None:
                raise ForgeRefused("check runs are for Apps alone")
            self._checks = connect(auth, self._options)
        return self._checks

    def git_token(self, access: Literal["read", "write"]) -> SecretStr:
        return self._identity.git_token(self._name, self._installation_id, access)

    def _is_from(self, pull: PullRequest, head_branch: str) -> bool:
        repo = pull.head.repo  # null when a fork was deleted
        return pull.head.ref == head_branch and repo is not None and repo.full_name.lower() == self._name.lower()


def _author(user: NamedUser | Organization | None) -> str:
    return user.login if user is not None else "ghost"  # what GitHub shows for a deleted account


def _comment(comment: IssueComment) -> Comment:
    return Comment(id=comment.id, body=comment.body or "", url=comment.html_url, author=_author(comment.user))


def _check(check: GitHubCheckRun) -> CheckRun:
    return CheckRun(
        id=check.id,
        name=check.name,
        head=check.head_sha,
        external_id=check.external_id or "",
        conclusion=check.conclusion or "",
    )


def _pull(pull: PullRequest) -> PullRequestRef:
    return PullRequestRef(
        number=pull.number,
        url=pull.html_url,
        state="closed" if pull.state == "closed" else "open",
        # A list has no `merged`, and asking for it would fetch each pull request; `merged_at` is in both.
        merged=pull.merged_at is not None,
        draft=bool(pull.draft),
        head_branch=pull.head.ref,
        title=pull.title,
        body=pull.body or "",
    )
