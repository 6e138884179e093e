"""Threads of reviews, which emulate has no routes for: our own reading of "Create a reply for a review comment" in
GitHub's REST description, and of `reviewThreads` and `resolveReviewThread` in its GraphQL schema (see `front`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from worker.demo.github_double.faults import Traffic
from worker.demo.github_double.serving import Reply, Request

_REPLIES = re.compile(r"^(/repos/[^/]+/[^/]+/pulls)/(\d+)/comments/(\d+)/replies$")
_NOT_FOUND = {"message": "Not Found", "status": "404"}


class Threads:
    def __init__(self, forward: Callable[[Request], Reply], traffic: Traffic) -> None:
        self._forward = forward
        self._traffic = traffic
        self._resolved: set[str] = set()

    def answer(self, request: Request) -> Reply | None:
        """None where this is about no thread."""
        replies = _REPLIES.match(request.bare_path)
        if request.method == "POST" and replies is not None:
            self._traffic.repaired("reply to a review comment")
            return self._reply(request, *replies.groups())
        if request.method == "POST" and request.bare_path == "/graphql":
            return self._graphql(request)
        return None

    def _reply(self, request: Request, pulls: str, number: str, comment: str) -> Reply:
        """emulate takes a reply as a comment of its own that names the one it answers."""
        there = self._forward(Request("GET", f"{pulls}/comments/{comment}", request.headers, b""))
        if there.status != 200:
            return Reply.of(404, _NOT_FOUND)
        original = json.loads(there.body)
        body = {
            "body": request.json().get("body"),
            "in_reply_to_id": original.get("in_reply_to_id") or original["id"],
            "path": original["path"],
            "line": original["line"],
            "commit_id": original["commit_id"],
        }
        return self._forward(Request("POST", f"{pulls}/{number}/comments", request.headers, json.dumps(body).encode()))

    def _graphql(self, request: Request) -> Reply | None:
        asked = request.json()
        query, given = str(asked.get("query", "")), asked.get("variables") or {}
        if "resolveReviewThread" in query:
            self._traffic.repaired("resolve a review thread")
            self._resolved.add(str(given.get("id")))
            return Reply.of(200, {"data": {"resolveReviewThread": {"thread": {"isResolved": True}}}})
        if "reviewThreads" in query:
            self._traffic.repaired("list review threads")
            return self._listed(request, given)
        return None

    def _listed(self, request: Request, given: dict[str, Any]) -> Reply:
        path = f"/repos/{given.get('owner')}/{given.get('name')}/pulls/{given.get('number')}/comments?per_page=100"
        listed = self._forward(Request("GET", path, request.headers, b""))
        if listed.status != 200:
            return Reply.of(200, {"data": {"repository": None}, "errors": [{"type": "NOT_FOUND"}]})
        nodes = [
            {
                "id": f"PRRT_{one['id']}",
                "isResolved": f"PRRT_{one['id']}" in self._resolved,
                "comments": {"nodes": [{"databaseId": one["id"]}]},
            }
            for one in json.loads(listed.body)
            if one.get("in_reply_to_id") is None
        ]
        threads = {"nodes": nodes, "pageInfo": {"hasNextPage": False, "endCursor": None}}
        return Reply.of(200, {"data": {"repository": {"pullRequest": {"reviewThreads": threads}}}})

    def resolved(self, comment_id: int) -> bool:
        return f"PRRT_{comment_id}" in self._resolved
