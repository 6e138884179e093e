"""What emulate lacks of GitHub and this product meets: our own reading of the documentation (see `front`)."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

from worker.demo.github_double.apps import Apps
from worker.demo.github_double.bare import BareRepositories
from worker.demo.github_double.faults import Traffic
from worker.demo.github_double.installations import Installations
from worker.demo.github_double.reactions import Reactions
from worker.demo.github_double.serving import Reply, Request
from worker.demo.github_double.statuses import Statuses
from worker.demo.github_double.threads import Threads

_PULLS = re.compile(r"^/repos/([^/]+/[^/]+)/pulls$")
_CHECKS = re.compile(r"^/repos/([^/]+/[^/]+)/check-runs$")
_CHECKS_OF = re.compile(r"^/repos/([^/]+/[^/]+)/commits/([0-9a-f]{40})/check-runs$")
_ISSUE = re.compile(r"^/repos/([^/]+/[^/]+)/issues/(\d+)$")
_ISSUE_KEYS = ("number", "id", "node_id", "title", "body", "state", "locked", "user", "labels", "html_url", "comments")


def _invalid(*errors: dict[str, str]) -> Reply:
    """As "Troubleshooting the REST API" shows a failed validation."""
    url = "https://docs.github.com/rest/pulls/pulls#create-a-pull-request"
    return Reply.of(
        422, {"message": "Validation Failed", "errors": list(errors), "documentation_url": url, "status": "422"}
    )


class Repairs:
    """`before` answers a request in emulate's place (None: forward it); `after` may replace what emulate said."""

    def __init__(
        self,
        forward: Callable[[Request], Reply],
        repositories: BareRepositories,
        traffic: Traffic,
        admin_token: str,
        apps: Apps,
    ) -> None:
        self._forward = forward
        self._as_admin = {"authorization": f"token {admin_token}", "content-type": "application/json"}
        self._repositories = repositories
        self._traffic = traffic
        self._reactions = Reactions(traffic)
        self.threads = Threads(forward, traffic)
        self._statuses = Statuses(repositories, traffic)
        self._installations = Installations(forward, traffic, repositories, self._as_admin)
        self._apps = apps
        self._checks: dict[tuple[str, str], list[Any]] = {}  # what emulate made for commits that it does not know

    def before(self, request: Request) -> Reply | None:
        created = _PULLS.match(request.bare_path)
        if request.method == "POST" and created and self._repositories.exists(created[1]):
            return self._refuse_pull(request, created[1])
        checks = _CHECKS.match(request.bare_path)
        if request.method == "POST" and checks and self._repositories.exists(checks[1]):
            head = str(request.json().get("head_sha", ""))
            if not self._repositories.has_commit(checks[1], head):
                self._traffic.repaired("create a check run")
                return Reply.of(422, {"message": f"No commit found for SHA: {head}", "status": "422"})
        place = self._reactions.place(request)
        if place is not None:
            return self._react(request, place)
        parts = (self.threads, self._statuses, self._installations, self._apps)
        return next((reply for part in parts if (reply := part.answer(request)) is not None), None)

    def _react(self, request: Request, place: str) -> Reply:
        there = self._forward(Request("GET", place, request.headers, b""))
        if there.status == 404 and "/comments/" not in place:
            there = self._forward(Request("GET", place.replace("/issues/", "/pulls/"), request.headers, b""))
        return there if there.status >= 400 else self._reactions.answer(request, place)

    def after(self, request: Request, reply: Reply) -> Reply:
        issue = _ISSUE.match(request.bare_path)
        if request.method == "GET" and issue and reply.status == 404:
            return self._pull_as_issue(request, issue[1], issue[2]) or reply
        checks = _CHECKS.match(request.bare_path)
        if request.method == "POST" and checks and reply.status == 201:
            made = _json(reply)
            self._checks.setdefault((checks[1].lower(), made["head_sha"]), []).append(made)
        listed = _CHECKS_OF.match(request.bare_path)
        if request.method == "GET" and listed and reply.status == 404:
            return self._checks_of(request, listed[1], listed[2]) or reply
        return reply

    def conditional(self, request: Request, reply: Reply) -> Reply:
        """As "Best practices for using the REST API" says of conditional requests: an answer has an ETag, and one that
        did not change since is 304, without a body. How long it may be kept, and that it depends on who asks, are the
        headers of the examples in "Getting started with the REST API"."""
        if request.method != "GET" or reply.status != 200:
            return reply
        who = request.headers.get("authorization", "").encode()
        etag = f'W/"{hashlib.sha256(who + reply.body).hexdigest()}"'
        own = {"cache-control": "private, max-age=60, s-maxage=60", "etag": etag, "vary": "Accept, Authorization"}
        headers = [(name, value) for name, value in reply.headers if name.lower() not in own]
        if request.headers.get("if-none-match") == etag:
            self._traffic.repaired("not modified")
            kept = [(name, value) for name, value in headers if name.lower() != "content-type"]
            return Reply(304, [*kept, *own.items()])
        return Reply(200, [*headers, *own.items()], reply.body)

    def _checks_of(self, request: Request, repository: str, head: str) -> Reply | None:
        """As "List check runs for a Git reference": emulate does not know commits that were pushed over git."""
        if not self._repositories.exists(repository) or not self._repositories.has_commit(repository, head):
            return None
        self._traffic.repaired("list check runs")
        name = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query).get("check_name", [None])[0]
        found = [c for c in self._checks.get((repository.lower(), head), []) if name in (None, c["name"])]
        return Reply.of(200, {"total_count": len(found), "check_runs": found})

    def _refuse_pull(self, request: Request, repository: str) -> Reply | None:
        """422 as in "Create a pull request": the branches exist, differ, and have no open pull request yet."""
        wanted = request.json()
        head, base = str(wanted.get("head", "")), str(wanted.get("base", ""))
        owner, _, branch = head.rpartition(":")
        owner = owner or repository.partition("/")[0]
        branches = self._repositories.branches(repository)
        refused: Reply | None = None
        if branch not in branches:
            refused = _invalid({"resource": "PullRequest", "field": "head", "code": "invalid"})
        elif base not in branches:
            refused = _invalid({"resource": "PullRequest", "field": "base", "code": "invalid"})
        elif self._repositories.ahead(repository, base, branch) == 0:
            message = f"No commits between {base} and {branch}"
            refused = _invalid({"resource": "PullRequest", "code": "custom", "message": message})
        elif self._has_open(request, branch, base):
            message = f"A pull request already exists for {owner}:{branch}."
            refused = _invalid({"resource": "PullRequest", "code": "custom", "message": message})
        if refused is None:
            self._mirror(repository, branch, base)
        else:
            self._traffic.repaired("create a pull request")
        return refused

    def _mirror(self, repository: str, branch: str, base: str) -> None:
        """Let emulate know a branch that was pushed over git (its own commit id there is the base's: the two stores
        are separate). Otherwise it would make the branch itself, and ask the token for contents:write."""
        refs = f"/repos/{repository}/git"
        if self._forward(Request("GET", f"{refs}/ref/heads/{branch}", self._as_admin, b"")).status == 200:
            return
        found = _json(self._forward(Request("GET", f"{refs}/ref/heads/{base}", self._as_admin, b"")))
        made = {"ref": f"refs/heads/{branch}", "sha": found["object"]["sha"]}
        self._forward(Request("POST", f"{refs}/refs", self._as_admin, json.dumps(made).encode()))

    def _has_open(self, request: Request, branch: str, base: str) -> bool:
        listing = Request("GET", f"{request.bare_path}?state=open&per_page=100", request.headers, b"")
        pulls = _json(self._forward(listing))
        return isinstance(pulls, list) and any(
            pull["head"]["ref"] == branch and pull["base"]["ref"] == base for pull in pulls
        )

    def _pull_as_issue(self, request: Request, repository: str, number: str) -> Reply | None:
        """As "Get an issue" says: a pull request is an issue too, told apart by the `pull_request` key."""
        pull = self._forward(Request("GET", f"/repos/{repository}/pulls/{number}", request.headers, b""))
        value = _json(pull)
        if pull.status != 200 or not isinstance(value, dict):
            return None
        self._traffic.repaired("get an issue that is a pull request")
        issue = {key: value.get(key) for key in _ISSUE_KEYS}
        issue["url"] = value["url"].replace("/pulls/", "/issues/")
        issue["repository_url"] = value["url"].rpartition("/pulls/")[0]
        issue["pull_request"] = {"url": value["url"], "html_url": value["html_url"]}
        return Reply.of(200, issue)


def _json(reply: Reply) -> Any:
    try:
        return json.loads(reply.body)
    except ValueError:
        return None
