"""People on GitHub (its double), and the service that looks after what they ask: webhooks arrive over HTTP, signed;
calls to the API go through PyGithub, git over HTTP. What the double lacks is repaired there by our own reading of
GitHub's documentation, and counted."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update

from agent.types import Limits
from tests.integration.test_verify import REPORT
from tests.stages import Stages
from worker.demo.github_double import GitHubDouble
from worker.demo.github_double.faults import Logged
from worker.stages import reconcile
from worker.stages.forge import Forges
from worker.stages.labels import StateLabels
from worker.stages.reconcile import Reconcile
from worker.stages.telling import Tell
from worker.store.models import Delivery, Run
from worker.store.session import Store

LABEL = "devstral-fix"
CONFIG = f"test: |\n  {REPORT}\ntest_report_format: junit\ntest_timeout_seconds: 20\n"
TEMPLATE = "<!-- thanks -->\n## Summary\n\n## How was it tested?\n\n- [ ] I read the guide\n"
FILES = {"README.md": "hello\n", ".devstral-fix.yml": CONFIG, ".github/pull_request_template.md": TEMPLATE}
_SERIAL = itertools.count(1)


class Clock:
    """Of the gate before GitHub, in seconds: time can pass at once."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Scene(Stages):
    """A repository of its own, `name`, on the double."""

    def __init__(self, store: Store, root: Path, double: GitHubDouble, forges: Forges, clock: Clock) -> None:
        super().__init__(store, root, forges)
        self.double = double
        self.clock = clock
        self.name = f"acme/widgets-{next(_SERIAL)}"
        self.commit = double.create_repository(self.name, FILES)
        self.began = len(double.requests())
        self.reconcile = Reconcile(store=store, forges=forges, send=self.sent.append, label=LABEL)
        self.labels = StateLabels(prefix=LABEL)
        self.limits = Limits()

    def issue(self, title: str = "new.txt is missing", body: str = "It should hold one line.") -> int:
        """Its webhook has been answered when this returns."""
        with self._told("issues", "opened", lambda p: p["repository"]["full_name"] == self.name):
            return self.double.create_issue(self.name, title, body)

    def label(self, number: int, *, as_user: str = "octo-admin") -> None:
        """As a person does; the webhook has been answered when this returns."""
        with self._told("issues", "labeled", lambda p: self._is(p, number) and p["label"]["name"] == LABEL):
            self.double.add_label(self.name, number, LABEL, as_user=as_user)

    def unlabel(self, number: int) -> None:
        with self._told("issues", "unlabeled", lambda p: self._is(p, number)):
            self.double.call("DELETE", f"/repos/{self.name}/issues/{number}/labels/{LABEL}")

    def say(self, number: int, body: str, *, as_user: str = "octo-admin") -> int:
        """A comment below an issue."""
        path = f"/repos/{self.name}/issues/{number}/comments"
        with self._told("issue_comment", "created", lambda p: self._is(p, number) and p["comment"]["body"] == body):
            return int(self.double.call("POST", path, {"body": body}, as_user=as_user)["id"])

    @contextmanager
    def _told(self, event: str, action: str, matches: Callable[[dict[str, Any]], bool]) -> Iterator[None]:
        """Until the webhook of what is done here was answered; one of before does not count."""
        before = {record.guid for record in self.double.deliveries()}
        yield
        self.double.wait_for_delivery(event, action, matches=lambda r: r.guid not in before and matches(r.payload))

    def webhook(self, event: str, payload: dict[str, Any]) -> int | None:
        """A webhook as GitHub sends it, where the double sends none or a lacking one: the receiver's status."""
        return self.double.deliver(event, payload).status

    def pull_request(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.double.call("GET", f"/repos/{self.name}/pulls/{number}")
        return found

    def event(self, number: int, action: str, **changes: Any) -> dict[str, Any]:
        """What GitHub sends of a pull request of ours; the double's heads are not those of git over HTTP."""
        pull = self.pull_request(number)
        pull["head"] |= {"sha": self.double.branch(self.name, pull["head"]["ref"])}
        pull["head"]["repo"] = {"full_name": self.name}
        return {
            "action": action,
            "number": number,
            "pull_request": pull | changes,
            "repository": {"full_name": self.name},
            "installation": {"id": self.double.installation_id},
            "sender": {"login": "octo-admin", "type": "User", "id": 2},
        }

    def labels_of(self, number: int) -> set[str]:
        return {label["name"] for label in self.double.issue(self.name, number)["labels"]}

    def comments_of(self, number: int) -> list[str]:
        return [comment["body"] for comment in self.double.comments(self.name, number)]

    def file(self, branch: str, path: str) -> str:
        found = self.double.repositories.read_file(self.name, branch, path)
        assert found is not None
        return found.decode()

    def event_of(self, number: int, action: str, *, head: str | None, **changes: Any) -> dict[str, Any]:
        """The same for one whose branch may be gone."""
        payload = self.event(number, action, **changes)
        payload["pull_request"]["head"] |= {"sha": head}
        return payload

    def show_head(self, number: int, head: str) -> None:
        """The double knows nothing of commits that were pushed over git: its next answer names this one."""
        pull = self.pull_request(number)
        pull["head"] |= {"sha": head}
        self.double.fault(f"GET /repos/{self.name}/pulls/{number}", status=200, body=pull, times=1)

    def tell_of_all(self) -> None:
        for run in self.runs():
            Tell(store=self.store, forges=self.forges, labels=self.labels)(run.id)

    def time_passes(self) -> None:
        """Every pause is over."""
        self.clock.ahead += 3600
        self.ready_again()
        with self.store.transaction() as session:
            session.execute(update(Delivery).values(claimed_until=None))

    def finish(self) -> None:
        """What is left to tell of runs that ended in the queue."""
        self.work()

    def reconcile_later(self) -> None:
        """The sweep for missed labels, once a webhook would have come."""
        with monkeypatched_grace():
            self.reconcile()

    def handle(self, *answers: Any) -> Run | None:
        """What came is taken in and worked on; the newest run, where there is one."""
        self.intake()
        self.work(*answers) if answers else None
        runs = self.runs()
        return runs[-1] if runs else None

    def deliveries(self) -> list[Delivery]:
        with self.store.transaction() as session:
            return session.query(Delivery).order_by(Delivery.id).all()

    def asked(self) -> list[Logged]:
        """Calls to the API since the scene began, by the service or by people."""
        return [entry for entry in self.double.requests()[self.began :] if entry.server == "api"]

    def repaired(self) -> Counter[str]:
        """Answers that are our own reading of the documentation, by what they answer."""
        return Counter(entry.repair for entry in self.asked() if entry.repair is not None)

    def _is(self, payload: dict[str, Any], number: int) -> bool:
        return payload["repository"]["full_name"] == self.name and payload["issue"]["number"] == number


@contextmanager
def monkeypatched_grace() -> Iterator[None]:
    """As if the labels were put on long ago."""
    before, reconcile.GRACE = reconcile.GRACE, timedelta()
    try:
        yield
    finally:
        reconcile.GRACE = before


def written(path: str, content: str) -> tuple[str, str]:
    """The call that writes a file."""
    return ("write_file", json.dumps({"path": path, "content": content, "overwrite": True}))
