"""Commit statuses, which emulate lacks: our own reading of "Create a commit status" and "List commit statuses for a
reference" in GitHub's REST description (see `front`)."""

from __future__ import annotations

import itertools
import re
from typing import Any

from worker.demo.github_double.bare import BareRepositories
from worker.demo.github_double.faults import Traffic
from worker.demo.github_double.serving import Reply, Request

_CREATE = re.compile(r"^/repos/([^/]+/[^/]+)/statuses/([0-9a-f]{40})$")
_LIST = re.compile(r"^/repos/([^/]+/[^/]+)/commits/([0-9a-f]{40})/statuses$")
_STATES = frozenset({"error", "failure", "pending", "success"})


class Statuses:
    def __init__(self, repositories: BareRepositories, traffic: Traffic) -> None:
        self._repositories = repositories
        self._traffic = traffic
        self._made: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._ids = itertools.count(1)

    def answer(self, request: Request) -> Reply | None:
        """None where this is about no status."""
        created = _CREATE.match(request.bare_path) if request.method == "POST" else None
        listed = _LIST.match(request.bare_path) if request.method == "GET" else None
        if created is not None and self._repositories.exists(created[1]):
            self._traffic.repaired("create a commit status")
            return self._create(request, created[1], created[2])
        if listed is not None and self._repositories.exists(listed[1]):
            self._traffic.repaired("list commit statuses")
            return Reply.of(200, self._made.get((listed[1].lower(), listed[2]), []))
        return None

    def _create(self, request: Request, repository: str, head: str) -> Reply:
        given = request.json()
        description = given.get("description") or ""
        if not self._repositories.has_commit(repository, head) or given.get("state") not in _STATES:
            return Reply.of(422, {"message": "Validation Failed", "status": "422"})
        if len(description) > 140:
            return Reply.of(422, {"message": "Validation Failed: description is too long", "status": "422"})
        made = {
            "id": next(self._ids),
            "state": given["state"],
            "description": description,
            "context": given.get("context") or "default",
            "url": f"/repos/{repository}/statuses/{head}",
        }
        self._made.setdefault((repository.lower(), head), []).insert(0, made)
        return Reply.of(201, made)
