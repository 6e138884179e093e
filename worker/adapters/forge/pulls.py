"""Pull requests from branches of the repository itself."""

from __future__ import annotations

from functools import partial

import github
from github.PullRequest import PullRequest

from worker.adapters.forge import text
from worker.adapters.forge.border import translated
from worker.adapters.forge.connection import Connection
from worker.stages.forge import PullRequestRef


class Pulls(Connection):
    def find_pull_request(self, head_branch: str) -> PullRequestRef | None:
        owner = self._name.partition("/")[0]
        with translated(f"list the pull requests of {self._name}"):
            listed = self._repo.get_pulls(state="all", head=f"{owner}:{head_branch}", sort="created", direction="desc")
            ours = [_pull(pull) for pull in listed if self._is_from(pull, head_branch)]
        return max(ours, key=lambda pull: (pull.state == "open", pull.number), default=None)

    def pull_request(self, number: int) -> PullRequestRef:
        with translated(f"read pull request {self._name}#{number}"):
            return _pull(self._repo.get_pull(number))

    def open_pull_request(self, *, title: str, body: str, head: str, base: str, draft: bool) -> PullRequestRef:
        with translated(f"open a pull request of {head} on {self._name}"):
            create = partial(self._repo.create_pull, base, head, title=text.title(title), body=text.body(body))
            try:
                return _pull(create(draft=draft))
            except github.GithubException as refused:
                if not draft or refused.status != 422 or "draft" not in str(refused.data).lower():
                    raise
                return _pull(create(draft=False))

    def edit_pull_request(self, number: int, *, title: str, body: str) -> PullRequestRef:
        with translated(f"edit pull request {self._name}#{number}"):
            pull = self._repo.get_pull(number)
            pull.edit(title=text.title(title), body=text.body(body))
            return _pull(pull)

    def request_review(self, number: int, login: str) -> None:
        with translated(f"ask {login} to review {self._name}#{number}"):
            self._repo.get_pull(number).create_review_request(reviewers=[login])

    def close_pull_request(self, number: int, *, body: str) -> PullRequestRef:
        with translated(f"close pull request {self._name}#{number}"):
            pull = self._repo.get_pull(number)
            pull.edit(state="closed", body=text.body(body))
            return _pull(pull)

    def _is_from(self, pull: PullRequest, head_branch: str) -> bool:
        repo = pull.head.repo  # null when a fork was deleted
        return pull.head.ref == head_branch and repo is not None and repo.full_name.lower() == self._name.lower()


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
        base_branch=pull.base.ref,
        head_commit=pull.head.sha,
        # Of an open one GitHub names a commit here that it tried a merge with.
        merge_commit=pull.merge_commit_sha if pull.merged_at is not None else None,
    )
