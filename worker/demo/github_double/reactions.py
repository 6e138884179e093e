"""Reactions to issues and to their comments, which emulate lacks: our own reading of "Create reaction for an issue" and
"Create reaction for an issue comment" in GitHub's REST description (see `front`)."""

from __future__ import annotations

import itertools
import re
from typing import Any

from worker.demo.github_double.faults import Traffic
from worker.demo.github_double.serving import Reply, Request

CONTENTS = frozenset({"+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes"})
_PLACE = re.compile(r"^(/repos/[^/]+/[^/]+/issues/(?:comments/)?\d+)/reactions$")


class Reactions:
    """Remembered by place and by who reacted; the same reaction twice is one, answered with 200 instead of 201."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._made: dict[str, list[dict[str, Any]]] = {}
        self._ids = itertools.count(1)

    def place(self, request: Request) -> str | None:
        """The path of what is reacted to, where this is about reactions."""
        found = _PLACE.match(request.bare_path)
        return found[1] if found is not None and request.method in ("GET", "POST") else None

    def answer(self, request: Request, place: str) -> Reply:
        made = self._made.setdefault(place.lower(), [])
        if request.method == "GET":
            self._traffic.repaired("list reactions")
            return Reply.of(200, [_shown(one) for one in made])
        self._traffic.repaired("create a reaction")
        content = request.json().get("content")
        if content not in CONTENTS:
            return Reply.of(422, {"message": "Validation Failed", "status": "422"})
        by = request.headers.get("authorization", "")
        for known in made:
            if (known["content"], known["by"]) == (content, by):
                return Reply.of(200, _shown(known))
        reaction = {"id": next(self._ids), "node_id": "", "content": content, "by": by}
        made.append(reaction)
        return Reply.of(201, _shown(reaction))


def _shown(reaction: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in reaction.items() if key != "by"}
