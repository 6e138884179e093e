"""One object for the whole GitHub double: emulate behind our front, git over HTTP, and the webhook hop.

Everything listens on free ports of 127.0.0.1 and ends with `stop()` (or with this process). emulate is an independent
but lenient reading of GitHub; what we filled in (strict 401, 422 of pull requests, pull requests read as issues, the
git server) is our own reading of the documentation and no independent evidence. Nothing here is github.com.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from worker.demo.github_double.apps import Apps
from worker.demo.github_double.bare import BareRepositories
from worker.demo.github_double.emulator import Emulator, create_private
from worker.demo.github_double.faults import Fault, Logged, Traffic
from worker.demo.github_double.front import Front
from worker.demo.github_double.git_http import GitHttp
from worker.demo.github_double.hop import DeliveryRecord, Hop, sign
from worker.demo.github_double.repairs import Repairs
from worker.demo.github_double.serving import Reply, Request
from worker.demo.github_double.tokens import Token, Tokens
from worker.demo.node import node_command

ORGANISATION = "acme"
ADMIN, STRANGER = "octo-admin", "stranger"
_FALLBACK = "nobody"  # whom emulate takes an unknown token for; the front lets none through
_PERMISSIONS = {"contents": "write", "issues": "write", "pull_requests": "write", "checks": "write", "metadata": "read"}
_EVENTS = ["issues", "issue_comment", "pull_request", "pull_request_review", "pull_request_review_comment", "push"]


class GitHubDouble:
    """Started by construction (or `with`), stopped by `stop()`. All files are under `root`.

    Users: `octo-admin` (owner of the organisation `acme`) and `stranger` (no rights); the App is installed on `acme`.
    Repositories are created under `acme`.
    """

    app_id = 12345
    app_slug = "devstral-fixer"
    installation_id = 100

    def __init__(
        self,
        root: Path,
        receiver_url: str | None = None,
        *,
        node: Sequence[str] | None = None,
        node_modules: Path | None = None,
    ) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.webhook_secret = secrets.token_hex(16)
        self.admin_token = f"ghp_{secrets.token_hex(18)}"
        self.stranger_token = f"ghp_{secrets.token_hex(18)}"
        self.tokens = Tokens()
        self.tokens.add(self.admin_token, Token(permissions=_PERMISSIONS, login=ADMIN))
        self.tokens.add(self.stranger_token, Token(permissions=dict.fromkeys(_PERMISSIONS, "read"), login=STRANGER))
        self.repositories = BareRepositories(root / "repositories")
        pem = _private_key()
        self.private_key_path = root / "app.private-key.pem"
        create_private(self.private_key_path, pem)
        # No proxy of the environment: everything here is on loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._stack = contextlib.ExitStack()
        self._repairs: Repairs | None = None
        with contextlib.ExitStack() as starting:
            self._traffic = Traffic(root / "requests.jsonl")
            starting.callback(self._traffic.close)
            self._hop = Hop(receiver_url)
            starting.callback(self._hop.stop)
            self._git = GitHttp(self.repositories, self.tokens, self._traffic)
            starting.callback(self._git.stop)
            front = Front(self.tokens, self._traffic)
            starting.callback(front.stop)
            starting.callback(self._traffic.stop)
            emulator = Emulator(
                node=node or node_command(),
                node_modules=node_modules,
                directory=root,
                seed=self._seed(pem),
                base_url=front.url,
                probe=(self.admin_token, ADMIN),
                log_file=root / "emulate.log",
            )
            starting.callback(emulator.stop)
            front.connect(emulator.url, self._repair)
            self._stack = starting.pop_all()
        self.api_url = front.url
        self.emulator_pid = emulator.pid

    def _repair(self, forward: Callable[[Request], Reply]) -> Repairs:
        self.apps = Apps(forward, self._hop, self._traffic, self._app)
        self._repairs = Repairs(forward, self.repositories, self._traffic, self.admin_token, self.apps)
        return self._repairs

    def _app(self) -> dict[str, Any]:
        """What the conversion of a manifest answers."""
        return {
            "id": self.app_id,
            "slug": self.app_slug,
            "html_url": f"{self.api_url}/apps/{self.app_slug}",
            "pem": self.private_key_path.read_text(encoding="ascii"),
            "webhook_secret": self.webhook_secret,
            "client_id": "Iv1.double",
            "client_secret": secrets.token_hex(20),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every part; further calls do nothing."""
        self._stack.close()

    # -- addresses and the receiver

    @property
    def git_base_url(self) -> str:
        return self._git.url

    def git_url(self, repository: str) -> str:
        return f"{self._git.url}/{repository}.git"

    @property
    def receiver_url(self) -> str | None:
        """Where webhooks go; may be set at any time (None: they are only remembered)."""
        return self._hop.receiver_url

    @receiver_url.setter
    def receiver_url(self, url: str | None) -> None:
        self._hop.receiver_url = url

    # -- making things

    def create_repository(self, full_name: str, files: Mapping[str, str | bytes], default_branch: str = "main") -> str:
        """In emulate and as a bare repository with one commit, whose id (returned) depends only on `files`."""
        owner, _, name = full_name.partition("/")
        if owner != ORGANISATION:
            raise ValueError(f"repositories of the double belong to {ORGANISATION}, not {owner!r}")
        commit = self.repositories.create(full_name, files, default_branch)
        self.call("POST", f"/orgs/{owner}/repos", {"name": name, "auto_init": True})
        if default_branch != "main":
            head = self.call("GET", f"/repos/{full_name}/git/ref/heads/main")["object"]["sha"]
            self.call("POST", f"/repos/{full_name}/git/refs", {"ref": f"refs/heads/{default_branch}", "sha": head})
            self.call("PATCH", f"/repos/{full_name}", {"default_branch": default_branch})
        return commit

    def create_issue(self, repository: str, title: str, body: str, *, as_user: str = ADMIN) -> int:
        issue = self.call("POST", f"/repos/{repository}/issues", {"title": title, "body": body}, as_user=as_user)
        return int(issue["number"])

    def add_label(self, repository: str, number: int, label: str, *, as_user: str = ADMIN) -> None:
        """Creates the label if needed; emulate then sends the signed `issues.labeled` through the hop."""
        self.call("POST", f"/repos/{repository}/issues/{number}/labels", {"labels": [label]}, as_user=as_user)

    def call(self, method: str, path: str, value: object = None, *, as_user: str = ADMIN) -> Any:
        """A request to the API as one of the two users; RuntimeError with the answer when it is 4xx or 5xx."""
        token = {ADMIN: self.admin_token, STRANGER: self.stranger_token}[as_user]
        data = None if value is None else json.dumps(value).encode()
        headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.api_url}{path}", data=data, headers=headers, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=30) as response:
                text = response.read()
        except urllib.error.HTTPError as refused:
            with refused:
                raise RuntimeError(f"{method} {path}: {refused.code} {refused.read().decode()[:300]}") from None
        return json.loads(text) if text else None

    # -- webhooks

    def deliver(self, event: str, payload: Mapping[str, Any] | bytes, *, guid: str | None = None) -> DeliveryRecord:
        """Sign and post a webhook of our own to the receiver; with an earlier `guid` it is GitHub's redelivery."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "GitHub-Hookshot/double",
            "x-github-event": event,
            "x-hub-signature-256": sign((self.apps.secret or self.webhook_secret).encode(), body),
        }
        return self._hop.send(guid or str(uuid.uuid4()), headers, body)

    def deliveries(self) -> list[DeliveryRecord]:
        return self._hop.records()

    def wait_for_delivery(
        self,
        event: str,
        action: str | None = None,
        *,
        matches: Callable[[DeliveryRecord], bool] = lambda _: True,
        timeout: float = 10.0,
    ) -> DeliveryRecord:
        """The first delivery of that event (and action), past or to come, that `matches`; else TimeoutError."""

        def wanted(record: DeliveryRecord) -> bool:
            return record.event == event and (action is None or record.action == action) and matches(record)

        return self._hop.wait(wanted, timeout)

    # -- faults and the request log

    def fault(
        self,
        match: str,
        *,
        times: int = 1,
        status: int = 502,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        forward: bool = False,
        delay: float = 0.0,
        drop: bool = False,
    ) -> None:
        """Answer the next `times` requests to the API or git whose "METHOD path" starts with `match` this way."""
        shown = {"message": "Server Error"} if body is None else body
        self._traffic.add(Fault(match, times, status, shown, headers or {}, forward, delay, drop))

    def fault_is_spent(self, match: str) -> bool:
        """Whether every fault of this match was met as often as it was to be."""
        return self._traffic.spent(match)

    def clear_faults(self) -> None:
        self._traffic.clear_faults()

    def requests(self, match: str = "") -> list[Logged]:
        """What the API and git were asked so far, oldest first, whose "METHOD path" starts with `match`."""
        return [entry for entry in self._traffic.requests() if f"{entry.method} {entry.path}".startswith(match)]

    # -- reading final effects

    def issue(self, repository: str, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/repos/{repository}/issues/{number}")
        return found

    def comments(self, repository: str, number: int) -> list[dict[str, Any]]:
        return self._pages(f"/repos/{repository}/issues/{number}/comments")

    def review(
        self,
        repository: str,
        number: int,
        body: str = "",
        *,
        event: str = "REQUEST_CHANGES",
        comments: Sequence[tuple[str, int, str]] = (),
        as_user: str = ADMIN,
    ) -> int:
        """Hand in a review of a pull request; `comments`: path, position in the diff, words. Its id. emulate then sends
        the signed `pull_request_review.submitted` through the hop."""
        listed = [{"path": path, "position": position, "body": words} for path, position, words in comments]
        value = {"body": body, "event": event, "comments": listed}
        return int(self.call("POST", f"/repos/{repository}/pulls/{number}/reviews", value, as_user=as_user)["id"])

    def review_comments(self, repository: str, number: int) -> list[dict[str, Any]]:
        return self._pages(f"/repos/{repository}/pulls/{number}/comments")

    def resolved(self, comment_id: int) -> bool:
        """Whether the thread that began with a review's comment was resolved."""
        return self._repairs is not None and self._repairs.threads.resolved(comment_id)

    def reactions(self, repository: str, number: int, *, comment_id: int | None = None) -> list[str]:
        """Of an issue, or of a comment on one."""
        place = f"issues/{number}" if comment_id is None else f"issues/comments/{comment_id}"
        return [one["content"] for one in self.call("GET", f"/repos/{repository}/{place}/reactions")]

    def pull_requests(self, repository: str, state: str = "all") -> list[dict[str, Any]]:
        return self._pages(f"/repos/{repository}/pulls?state={urllib.parse.quote(state)}")

    def branch(self, repository: str, branch: str) -> str | None:
        """The commit a branch of the bare repository is at; None when there is none."""
        return self.repositories.branch(repository, branch)

    def _pages(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        separator = "&" if "?" in path else "?"
        page = 1
        while rows := self.call("GET", f"{path}{separator}per_page=100&page={page}"):
            found += rows
            page += 1
        return found

    def _seed(self, pem: str) -> dict[str, Any]:
        scopes = ["repo", "user", "admin:org", "admin:repo_hook"]
        users = [
            {"login": login, "name": login, "email": f"{login}@example.invalid"}
            for login in (_FALLBACK, ADMIN, STRANGER)
        ]
        app = {
            "app_id": self.app_id,
            "slug": self.app_slug,
            "name": "Devstral Fixer",
            "private_key": pem,
            "permissions": _PERMISSIONS,
            "events": _EVENTS,
            "webhook_url": self._hop.url,
            "webhook_secret": self.webhook_secret,
            "installations": [
                {"installation_id": self.installation_id, "account": ORGANISATION, "repository_selection": "all"}
            ],
        }
        members = [{"login": ADMIN, "role": "admin"}]
        return {
            "tokens": {
                self.admin_token: {"login": ADMIN, "scopes": scopes},
                self.stranger_token: {"login": STRANGER, "scopes": ["repo"]},
            },
            "github": {
                "users": users,
                "orgs": [{"login": ORGANISATION, "name": "Acme", "members": members}],
                "repos": [],
                "apps": [app],
            },
        }


def _private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()
