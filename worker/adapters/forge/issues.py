"""Issues, and what pull requests share with them: comments, labels, reactions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import github
from github.Issue import Issue as GitHubIssue
from github.IssueComment import IssueComment

from agent.triage.backlog import BacklogIssue
from worker.adapters.forge import text
from worker.adapters.forge.border import translated
from worker.adapters.forge.connection import Connection, author_of
from worker.errors import ForgeRefused
from worker.stages.forge import BacklogPage, Comment, Issue, LabelEvent, Reaction

MOST_COMMENTS, PAGE = 1_000, 100


class Issues(Connection):
    def issue(self, number: int) -> Issue:
        with translated(f"read {self._name}#{number}"):
            found = self._repo.get_issue(number)
            lives_in = str(found.raw_data.get("repository_url", "")).rpartition("/repos/")[2]
            result = _issue(found)
        if lives_in and lives_in.lower() != self._name.lower():  # GitHub redirects to where an issue went
            raise ForgeRefused(f"{self._name}#{number} was transferred to {lives_in}#{result.number}")
        return result

    def labelled(self, label: str) -> Sequence[Issue]:
        with translated(f"list the issues of {self._name} with a label"):
            listed = self._repo.get_issues(state="open", labels=[label], sort="created", direction="asc")
            return tuple(_issue(found) for found in listed if "pull_request" not in found.raw_data)

    def backlog(self, page: int, *, labels: Sequence[str], since: datetime | None) -> BacklogPage:
        wanted = {"state": "open", "sort": "created", "direction": "asc", "per_page": PAGE, "page": page}
        if labels:
            wanted["labels"] = ",".join(labels)
        if since is not None:
            wanted["since"] = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with translated(f"list page {page} of the open issues of {self._name}"):
            # Raw: PyGithub's lists know no page to begin with.
            _, data = self._repo.requester.requestJsonAndCheck("GET", f"{self._repo.url}/issues", parameters=wanted)
            issues = tuple(_of_backlog(entry) for entry in data if "pull_request" not in entry)
            return BacklogPage(issues=issues, more=len(data) >= PAGE)

    def labelled_by(self, number: int, label: str) -> LabelEvent | None:
        wanted = label.strip().casefold()
        newest: LabelEvent | None = None
        with translated(f"list the events of {self._name}#{number}"):
            for event in self._repo.get_issue(number).get_events():
                named = event.label.name if event.event == "labeled" and event.label is not None else ""
                if named.strip().casefold() == wanted and event.actor is not None:
                    actor = event.actor
                    newest = LabelEvent(
                        id=event.id,
                        actor=actor.login,
                        actor_id=actor.id,
                        is_bot=actor.type == "Bot" or actor.login.endswith("[bot]"),
                        at=event.created_at,
                    )
        return newest

    def find_comment(self, number: int, marker: str) -> Comment | None:
        us = self._identity.login().casefold()
        with translated(f"list the comments of {self._name}#{number}"):
            for comment in self._repo.get_issue(number).get_comments():
                if marker in (comment.body or "") and author_of(comment.user).casefold() == us:
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

    def comments(self, number: int) -> Sequence[Comment]:
        with translated(f"list the comments of {self._name}#{number}"):
            listed = self._repo.get_issue(number).get_comments()
            return tuple(_comment(comment) for comment in itertools.islice(listed, MOST_COMMENTS))

    def react(self, number: int, reaction: Reaction, *, comment_id: int | None = None) -> None:
        what = f"#{number}" if comment_id is None else f"comment {comment_id}"
        with translated(f"react to {what} of {self._name}"):
            issue = self._repo.get_issue(number)
            # An answer of 200 instead of 201 says that the reaction was there.
            (issue if comment_id is None else issue.get_comment(comment_id)).create_reaction(reaction)

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


def _issue(found: GitHubIssue) -> Issue:
    return Issue(
        number=found.number,
        title=found.title,
        body=found.body or "",
        state="closed" if found.state == "closed" else "open",
        locked=bool(found.locked),
        is_pull_request="pull_request" in found.raw_data,
        labels=tuple(label.name for label in found.labels),
        author=author_of(found.user),
        url=found.html_url,
    )


def _comment(comment: IssueComment) -> Comment:
    return Comment(
        id=comment.id,
        body=comment.body or "",
        url=comment.html_url,
        author=author_of(comment.user),
        is_bot=comment.user is not None and comment.user.type == "Bot",
        created_at=comment.created_at,
        updated_at=comment.updated_at,
    )


def _of_backlog(entry: dict[str, Any]) -> BacklogIssue:
    return BacklogIssue(
        number=entry["number"],
        title=entry["title"] or "",
        body=entry["body"] or "",
        labels=tuple(label["name"] for label in entry["labels"]),
        author=(entry["user"] or {}).get("login"),  # null: a deleted account's
        created_at=entry["created_at"],
        updated_at=entry["updated_at"],
        comments=entry["comments"],
    )
