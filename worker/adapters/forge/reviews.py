"""Reviews of pull requests: what was said at which lines, and answers in the same threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from github.PullRequestComment import PullRequestComment

from worker.adapters.forge import text
from worker.adapters.forge.border import translated
from worker.adapters.forge.connection import Connection, author_of
from worker.errors import ForgeRefused
from worker.stages.forge import Review, ReviewComment

# The REST API knows no threads. The first comment of each is what it began with.
_THREADS = """
query($owner: String!, $name: String!, $number: Int!, $after: String) {
  repository(owner: $owner, name: $name) { pullRequest(number: $number) {
    reviewThreads(first: 100, after: $after) {
      nodes { id isResolved comments(first: 1) { nodes { databaseId } } }
      pageInfo { hasNextPage endCursor }
    }
  } }
}
"""
_RESOLVE = "mutation($id: ID!) { resolveReviewThread(input: {threadId: $id}) { thread { isResolved } } }"
_MOST_PAGES = 10


class Reviews(Connection):
    def review(self, number: int, review_id: int) -> Review:
        with translated(f"read review {review_id} of {self._name}#{number}"):
            pull = self._repo.get_pull(number)
            found = pull.get_review(review_id)
            # A review's own list of comments names no lines; the pull request's does.
            of_it = [_comment(one) for one in pull.get_review_comments() if one.pull_request_review_id == review_id]
            return Review(
                id=found.id,
                author=author_of(found.user),
                state=found.state.lower(),
                body=found.body or "",
                comments=tuple(of_it),
            )

    def thread(self, number: int, comment_id: int) -> Sequence[ReviewComment]:
        with translated(f"list the review comments of {self._name}#{number}"):
            listed = map(_comment, self._repo.get_pull(number).get_review_comments())
            return tuple(comment for comment in listed if comment_id in (comment.id, comment.answers))

    def reply(self, number: int, comment_id: int, body: str) -> None:
        with translated(f"reply to review comment {comment_id} of {self._name}#{number}"):
            self._repo.get_pull(number).create_review_comment_reply(comment_id, text.body(body))

    def resolve_threads(self, number: int, comment_ids: Sequence[int]) -> None:
        with translated(f"resolve threads of {self._name}#{number}"):
            for thread in self._threads(number):
                first = thread["comments"]["nodes"][:1]
                if first and first[0]["databaseId"] in comment_ids and not thread["isResolved"]:
                    self._ask(_RESOLVE, {"id": thread["id"]})

    def _threads(self, number: int) -> list[dict[str, Any]]:
        owner, _, name = self._name.partition("/")
        found: list[dict[str, Any]] = []
        after: str | None = None
        for _ in range(_MOST_PAGES):
            data = self._ask(_THREADS, {"owner": owner, "name": name, "number": number, "after": after})
            page = data["repository"]["pullRequest"]["reviewThreads"]
            found += page["nodes"]
            if not page["pageInfo"]["hasNextPage"]:
                break
            after = page["pageInfo"]["endCursor"]
        return found

    def _ask(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        _, answer = self._client.requester.graphql_query(query, variables)
        if answer.get("errors"):
            raise ForgeRefused(f"GraphQL on {self._name}: {str(answer['errors'])[:300]}")
        data: dict[str, Any] = answer["data"]
        return data


def _comment(comment: PullRequestComment) -> ReviewComment:
    raw = comment.raw_data
    line = raw.get("line") or raw.get("original_line")  # the first is null where the line is gone by now
    return ReviewComment(
        id=comment.id,
        author=author_of(comment.user),
        body=comment.body or "",
        path=comment.path or "",
        line=line if isinstance(line, int) else None,
        hunk=comment.diff_hunk or "",
        answers=raw.get("in_reply_to_id"),
    )
