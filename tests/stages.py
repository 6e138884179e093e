"""All stages of a run in one process, one after the other: real Postgres, real git; a model and workspaces to steer.
Nothing waits for a queue: `work` does what its messages ask for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select, update

from agent.types import Limits, Price
from tests.fakes import FakeModel
from tests.integration.world import FakeSandbox
from worker import wakes
from worker.adapters.layers import DiskLayers
from worker.adapters.repos import GitRepositories
from worker.heartbeat import Heartbeat
from worker.runs.asked import Asked
from worker.stages.attempt import Solver
from worker.stages.baselines import KeptBaselines
from worker.stages.deliver import Deliver
from worker.stages.forge import Forges
from worker.stages.intake import Intake
from worker.stages.labels import StateLabels
from worker.stages.pursue import Pursue
from worker.stages.telling import Tell
from worker.stages.verification import Verifier
from worker.stages.verify import Verify
from worker.store import queries
from worker.store.models import Delivery, DeliveryState, Run
from worker.store.session import Store
from worker.sweep import Sweep

PROFILE = "small-24b"


class Stages:
    """`root` holds mirrors, workspaces and layers."""

    def __init__(self, store: Store, root: Path, forges: Forges, *, allow_file: bool = False) -> None:
        self.store = store
        self.forges = forges
        self.repositories = GitRepositories(root / "repositories", allow_file=allow_file)
        self.heartbeat = Heartbeat(store, seconds=3600)
        self.sandbox = FakeSandbox(root / "workspaces")
        self.layers = DiskLayers(root / "setups")
        self.sent: list[wakes.Wake] = []
        self.stopping = threading.Event()
        labels = StateLabels(prefix="devstral-fix")
        self.intake = Intake(
            store=store,
            heartbeat=self.heartbeat,
            repositories=self.repositories,
            forges=forges,
            send=self.sent.append,
            profile=PROFILE,
            max_attempts=3,
            labels=labels,
        )
        self.verify = Verify(
            store=store,
            heartbeat=self.heartbeat,
            repositories=self.repositories,
            verifier=Verifier(
                sandbox=self.sandbox, repositories=self.repositories, baselines=KeptBaselines(store=store)
            ),
            layers=self.layers,
            send=self.sent.append,
            lease_seconds=60,
        )
        self.deliver = Deliver(
            store=store,
            heartbeat=self.heartbeat,
            repositories=self.repositories,
            forges=forges,
            lease_seconds=60,
            labels=labels,
        )
        self.tell = Tell(store=store, forges=forges, labels=labels)
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

    def pursuer(self, *answers: Any, profile: str = PROFILE, **options: Any) -> Pursue:
        """`options` are fields of `Pursue`."""
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
            profile=profile,
            lease_seconds=60,
            stopping=self.stopping,
            **options,
        )

    def work(self, *answers: Any, **options: Any) -> Run:
        """Until nothing is left to do; `answers` are the model's. The newest run, as it is then."""
        self.pursuer(*answers, **options)()
        return self.follow()

    def follow(self) -> Run:
        """What the messages that were sent ask for, but for permits."""
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
