"""A queued run and what a permit needs to work on it: real Postgres, real git, a model and workspaces to steer."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

from agent.protocols import Isolation, Model, SandboxSpec
from agent.types import Limits, Price
from tests.factories import issue_request
from tests.fakes import FakeModel, FakeSession
from worker import wakes
from worker.adapters.layers import DiskLayers
from worker.adapters.repos import GitRepositories
from worker.demo.github_double.bare import BareRepositories
from worker.errors import SandboxUnavailable
from worker.heartbeat import Heartbeat
from worker.runs import requests
from worker.stages.attempt import Solver
from worker.stages.pursue import Pursue
from worker.store.models import Run

WRITE = ("write_file", '{"path": "new.txt", "content": "made\\n"}')


class FakeSandbox:
    """Workspaces are plain directories; `broken` makes opening fail as a real sandbox would."""

    isolation = Isolation.BASIC
    capabilities: frozenset[str] = frozenset()

    def __init__(self, root: Path) -> None:
        self._root = root
        self._count = 0
        self.broken = False

    def open(self, spec: SandboxSpec) -> FakeSession:
        if self.broken:
            raise SandboxUnavailable("the sandbox did not start")
        self._count += 1
        work = self._root / f"work-{self._count}"
        work.mkdir(parents=True)
        session = FakeSession(work, spec.git_dir)
        session.reset(spec.tree)
        return session


class World:
    def __init__(self, store, tmp_path):
        self.store = store
        bare = BareRepositories(tmp_path / "origin")
        self.commit = bare.create("acme/textkit", {"README.md": "hello\n"}, "main")
        self.repositories = GitRepositories(tmp_path / "repositories", allow_file=True)
        self.repositories.fetch("acme/textkit", f"file://{bare.path('acme/textkit')}", None)
        self.layers = DiskLayers(tmp_path / "setups")
        self.sandbox = FakeSandbox(tmp_path / "workspaces")
        self.sent: list[wakes.Wake] = []
        self.stopping = threading.Event()
        self.heartbeat = Heartbeat(store, seconds=3600)  # beats only when a test says so
        with store.transaction() as session:
            self.run_id, _ = requests.start(
                session,
                issue_request(),
                clone_url="u",
                base_branch="main",
                base_commit=self.commit,
                profile="small-24b",
                max_attempts=2,
                repository_config={},
            )

    def pursuer(
        self,
        model: Model,
        *,
        limits: Limits = Limits(),  # noqa: B008 - a value
        price: Price = Price(prompt=1.0, completion=2.0),  # noqa: B008
        **options: Any,
    ) -> Pursue:
        """One permit for this model; `options` are fields of `Pursue`."""
        solver = Solver(model=model, sandbox=self.sandbox, repositories=self.repositories, limits=limits, price=price)
        return Pursue(
            store=self.store,
            heartbeat=self.heartbeat,
            solver=solver,
            repositories=self.repositories,
            layers=self.layers,
            send=self.sent.append,
            profile="small-24b",
            lease_seconds=60,
            stopping=self.stopping,
            **options,
        )

    def pursue(self, *answers) -> None:
        self.pursuer(FakeModel(*answers))()

    @property
    def run(self) -> Run:
        with self.store.transaction() as session:
            return session.get_one(Run, self.run_id)

    def count(self, table) -> int:
        with self.store.transaction() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0

    def ready_again(self) -> None:
        with self.store.transaction() as session:
            session.execute(update(Run).values(not_before=None))


def taken_over_during(answer, action):
    """An answer during which something else happens."""

    def generate(_deadline, _cancel):
        action()
        return answer

    return generate
