"""Real worker processes over the run's Postgres and Redis, a model server that tests steer, and a repository."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from sqlalchemy import select

from tests.factories import issue_request
from worker import wakes
from worker.adapters.repos import GitRepositories
from worker.demo.github_double.bare import BareRepositories
from worker.queue import Publisher, make_app
from worker.runs import requests
from worker.store.models import Run
from worker.store.session import Store

REPOSITORY = "acme/textkit"
PROFILE = "small-24b"
PATIENCE = 60.0  # seconds; a loaded machine starts a Python process slowly


@dataclass
class Service:
    """What the processes share. `settings` are variables without their prefix."""

    store: Store
    database_url: str
    redis_url: str
    directory: Path
    settings: dict[str, str] = field(default_factory=dict)
    commit: str = ""

    def __post_init__(self) -> None:
        bare = BareRepositories(self.directory / "origin")
        self.commit = bare.create(REPOSITORY, {"README.md": "hello\n"}, "main")
        repositories = GitRepositories(self.directory / "data" / "repositories", allow_file=True)
        repositories.fetch(REPOSITORY, f"file://{bare.path(REPOSITORY)}", None)
        self._publisher = Publisher(make_app(self.redis_url))

    def close(self) -> None:
        self._publisher.close()

    def queue(self, number: int = 1) -> UUID:
        with self.store.transaction() as session:
            run_id, _ = requests.start(
                session,
                issue_request(number),
                clone_url="u",
                base_branch="main",
                base_commit=self.commit,
                profile=PROFILE,
                max_attempts=3,
                repository_config={},
            )
        self.wake(wakes.permit(PROFILE))
        return run_id

    def wake(self, wake: wakes.Wake) -> None:
        self._publisher.send(wake)

    def run(self, run_id: UUID) -> Run:
        with self.store.transaction() as session:
            return session.get_one(Run, run_id)

    def runs(self) -> list[Run]:
        with self.store.transaction() as session:
            return list(session.scalars(select(Run).order_by(Run.id)))

    @property
    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("DEVSTRAL_FIX_")}
        given = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "DATA_DIR": str(self.directory / "data"),
            "ISOLATION": "basic",
            "PROFILE": PROFILE,
            **self.settings,
        }
        root = str(Path(__file__).parents[1])
        return clean | {"PYTHONPATH": root} | {f"DEVSTRAL_FIX_{k}": v for k, v in given.items()}

    def command(self, *arguments: str, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """One of ours, run to its end in a directory of its own."""
        return subprocess.run(
            [sys.executable, "-m", "worker.cli", *arguments],
            env=self.environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=patience,
        )

    @contextmanager
    def worker(
        self, role: str, name: str = "worker", *, starting: Callable[[], object] = lambda: None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A worker process that is there and consumes; killed at the end if it still lives. Its log is `NAME.log`.
        `starting` waits for a start that takes longer than others."""
        log_file = self.directory / f"{name}.log"
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.cli", "work", "--role", role],
                env=self.environment,
                cwd=self.directory,
                stdout=log,
                stderr=log,
            )
        try:
            starting()
            wait_until(lambda: process.poll() is not None or "worker_started" in log_file.read_text())
            assert process.poll() is None, log_file.read_text()
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def wait_until(true: Callable[[], object], seconds: float = PATIENCE) -> float:
    """How long it took; AssertionError when it did not come. Other processes: asking is the only way to know."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, "it did not happen in time"
        time.sleep(0.02)  # another process: asking is the only way to know
    return time.monotonic() - started


def processes(word: str) -> list[int]:
    """Processes on this machine with `word` as an argument of theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in arguments:
            found.append(int(entry.name))
    return found
