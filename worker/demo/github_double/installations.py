"""What an installation's token may see, which emulate has no route for: our own reading of "List repositories
accessible to the app installation" in GitHub's REST description (see `front`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from worker.demo.github_double.bare import BareRepositories
from worker.demo.github_double.faults import Traffic
from worker.demo.github_double.serving import Reply, Request

_PATH = "/installation/repositories"


class Installations:
    """The one App is installed on all repositories."""

    def __init__(
        self,
        forward: Callable[[Request], Reply],
        traffic: Traffic,
        repositories: BareRepositories,
        as_admin: Mapping[str, str],
    ) -> None:
        self._forward = forward
        self._traffic = traffic
        self._repositories = repositories
        self._as_admin = as_admin

    def answer(self, request: Request) -> Reply | None:
        """None where this is about something else."""
        if request.method != "GET" or request.bare_path != _PATH:
            return None
        self._traffic.repaired("list an installation's repositories")
        rows = [
            self._forward(Request("GET", f"/repos/{name}", self._as_admin, b"")) for name in self._repositories.names()
        ]
        found = [json.loads(row.body) for row in rows if row.status == 200]
        return Reply.of(200, {"total_count": len(found), "repositories": found})
