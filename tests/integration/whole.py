"""All stages of a run in one process, one after the other: real Postgres, real git; a model and workspaces to steer,
and a GitHub that passes the forge's contract. Nothing waits for a queue: `work` does what its messages ask for."""

from __future__ import annotations

import threading
from typing import Any
from uuid import UUID

from sqlalchemy import select, update

from agent.types import Limits, Price
from tests.fake_forge import FakeForge, FakeForges, FakeRepository
from tests.fakes import FakeModel
from tests.integration.world import FakeSandbox
from worker import wakes
from worker.adapters.layers import DiskLayers
from worker.adapters.repos import GitRepositories
from worker.demo.github_double.bare import BareRepositories
from worker.heartbeat import Heartbeat
from worker.runs.asked import Asked
from worker.stages.attempt import Solver
from worker.stages.baselines import KeptBaselines
from worker.stages.deliver import Deliver
from worker.stages.intake import Intake
from worker.stages.labels import StateLabels
from worker.stages.pursue import Pursue
from worker.stages.telling import Tell
from worker.stages.verification import Verifier
from worker.stages.verify import Verify
from worker.store import queries
from worker.store.models import Delivery, DeliveryState, Run
from worker.sweep import Sweep

NAME = "acme/textkit"
PROFILE = "small-24b"


class Whole:
    def __init__(self, store, tmp_path, files):
        self.store = store
        self.bare = BareRepositories(tmp_path / "origin")
        self.commit = self.bare.create(NAME, files, "main")
        self.github = FakeRepository(NAME, clone_url=f"file://{self.bare.path(NAME)}")
        self.github.permissions |= {"octo-admin": "admin", "ann": "write", "bob": "read"}
        self.github.has_branch = lambda name: self.bare.branch(NAME, name) is not None
        self.github.head_of = lambda name: self.bare.branch(NAME, name) or "0" * 40
        self.forge = FakeForge(self.github)
        self.forges = FakeForges(self.forge)
        self.repositories = GitRepositories(tmp_path / "repositories", allow_file=True)
        self.heartbeat = Heartbeat(store, seconds=3600)
        self.sandbox = FakeSandbox(tmp_path / "workspaces")
        self.layers = DiskLayers(tmp_path / "setups")
        self.sent: list[wakes.Wake] = []
        self.stopping = threading.Event()
        labels = StateLabels(prefix="devstral-fix")
        common = {"store": store, "heartbeat": self.heartbeat, "repositories": self.repositories}
        self.intake = Intake(**common, forges=self.forges, send=self.sent.append, profile=PROFILE, max_attempts=3)
        verifier = Verifier(sandbox=self.sandbox, repositories=self.repositories, baselines=KeptBaselines(store=store))
        self.verify = Verify(**common, verifier=verifier, layers=self.layers, send=self.sent.append, lease_seconds=60)
        self.deliver = Deliver(**common, forges=self.forges, lease_seconds=60, labels=labels)
        self.tell = Tell(store=store, forges=self.forges, labels=labels)
        self.sweep = Sweep(store=store, send=self.sent.append)
        self._keys = iter(range(1_000_000))

    def ask(self, request: Asked) -> Delivery:
        """A delivery of GitHub's, taken in; what it starts waits for `work`."""
        with self.store.transaction() as session:
            delivery_id = queries.insert_delivery(
                session,
                key=f"guid-{next(self._keys)}",
                event="test",
                action=None,
                repository=request.repository,
                issue_number=request.issue_number,
                body_sha256="0" * 64,
                request=request.model_dump(mode="json"),
                state=DeliveryState.RECEIVED,
            )
        self.intake()
        with self.store.transaction() as session:
            return session.get_one(Delivery, delivery_id)

    def pursuer(self, *answers: Any) -> Pursue:
        self.model = FakeModel(*answers)
        solver = Solver(
            model=self.model,
            sandbox=self.sandbox,
            repositories=self.repositories,
            limits=Limits(),
            price=Price(prompt=1.0, completion=2.0),
        )
        return Pursue(
            store=self.store,
            heartbeat=self.heartbeat,
            solver=solver,
            repositories=self.repositories,
            layers=self.layers,
            send=self.sent.append,
            profile=PROFILE,
            lease_seconds=60,
            stopping=self.stopping,
        )

    def work(self, *answers: Any) -> Run:
        """Until nothing is left to do; `answers` are the model's. The newest run, as it is then."""
        self.pursuer(*answers)()
        tasks = {wakes.VERIFY: self.verify, wakes.DELIVER: self.deliver}
        while due := [wake for wake in self.sent if wake.task in tasks]:
            self.sent.remove(due[0])
            assert due[0].id is not None
            tasks[due[0].task](due[0].id)
            self.ready_again()
        return self.newest()

    def ready_again(self) -> None:
        """As if every pause were over."""
        with self.store.transaction() as session:
            session.execute(update(Run).values(not_before=None))

    def runs(self) -> list[Run]:
        with self.store.transaction() as session:
            return list(session.scalars(select(Run).order_by(Run.id)))

    def newest(self) -> Run:
        return self.runs()[-1]

    def run(self, run_id: UUID) -> Run:
        with self.store.transaction() as session:
            return session.get_one(Run, run_id)

    def comments(self, number: int) -> list[str]:
        return [comment.body for comment in self.github.comments.get(number, [])]

    def file(self, branch: str, path: str) -> str:
        found = self.bare.read_file(NAME, branch, path)
        assert found is not None
        return found.decode()
