"""Everything that a row of the table works against: the servers of `backing`, and the service's processes on them.

One site serves many rows; each row has issues of its own. Leases are short (by settings), so that recovery is quick.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.faults import processes
from tests.faults.backing import FILES, REPOSITORIES, Backing
from tests.faults.model_server import Plan
from tests.faults.processes import Process, Short, until
from worker.adapters.embedded import RedisServer
from worker.settings import PREFIX
from worker.up import free_port

LEASE_SECONDS, SWEEP_SECONDS = 3.0, 0.5
LABEL = "devstral-fix"
ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(__file__).parent / "plugin"
FINAL = ("delivered", "failed", "cancelled")
STANDARD = ("api", "default", "cpu", "gpu", "beat")


def lease_seconds() -> float:
    """Longer where the machine is busy: a heartbeat that comes late must not look like a fault."""
    return LEASE_SECONDS * processes.patience


@dataclass
class Case:
    """One issue, and how its run is to end. `cut` are the times (time.time(), from and until) at which its worker or
    its database was taken away: a call that was answered around then may be unpaid."""

    name: str
    repository: str
    number: int
    state: str = "delivered"
    cut: list[tuple[float, float, str]] = field(default_factory=list)


class Site(Backing):
    def __init__(self, root: Path, *, redis_kind: type[RedisServer] = RedisServer) -> None:
        super().__init__(root, redis_kind=redis_kind)
        self._names = itertools.count(1)
        self.processes: dict[str, Process] = {}
        self.lock = threading.Lock()
        self.plugin = ""  # of every process that is not told another
        self._stack.callback(self.end)
        self.port = free_port()
        self.double.receiver_url = f"http://127.0.0.1:{self.port}/webhooks/github"

    # -- processes

    def env(self, settings: Mapping[str, object] | None = None, plugin: str | None = None) -> dict[str, str]:
        plugin = self.plugin if plugin is None else plugin
        kept = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        kept["NO_PROXY"] = kept["no_proxy"] = "127.0.0.1"
        path = [str(PLUGIN)] if plugin else []
        kept["PYTHONPATH"] = os.pathsep.join([*path, str(ROOT)])
        own = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "DATA_DIR": self.root / "data",
            "WEBHOOK_SECRET": self.double.webhook_secret,
            "API_TOKEN": secrets.token_hex(16),
            "GITHUB_URL": self.double.api_url,
            "GIT_BASE_URL": self.double.git_base_url,
            "GITHUB_APP_ID": self.double.app_id,
            "GITHUB_APP_KEY_FILE": self.double.private_key_path,
            "MODEL": self.model.spec,
            "ISOLATION": "basic",
            "TRIGGER_LABEL": LABEL,
            "GPU_SLOTS": 4,
            "LEASE_SECONDS": lease_seconds(),
            "SWEEP_SECONDS": SWEEP_SECONDS,
            **(settings or {}),
        }
        return {**kept, **{PREFIX + name: str(value) for name, value in own.items()}, "FAULTS_PLUGIN": plugin}

    def arguments(self, name: str) -> list[str]:
        kind = name.partition("-")[0]
        if kind == "api":
            return ["serve", "--port", str(self.port)]
        return ["beat"] if kind == "beat" else ["work", "--role", kind]

    def start(self, name: str, *, settings: Mapping[str, object] | None = None, plugin: str | None = None) -> Process:
        """Start `api`, `beat` or a worker by its role; a second one of a kind is named `gpu-2`. Its readiness is
        waited for by `ready`."""
        if (there := self.processes.get(name)) is not None:
            there.stop()
        process = Process(
            name,
            self.arguments(name),
            env=self.env(settings, plugin),
            cwd=self.root,
            log=self.root / "logs" / f"{name}.log",
        )
        process.start()
        self.processes[name] = process
        return process

    def ready(self, *names: str, seconds: float = 60) -> None:
        """Until these processes say that they are at work."""
        for name in names:
            process = self.processes[name]

            def here(name: str = name, process: Process = process) -> bool:
                if not process.alive:
                    raise Short(f"{name} ended while it started: {process.lines()[-3:]}")
                return self.api_answers() if name == "api" else bool(process.lines()) or name.startswith("beat")

            until(f"{name} is at work", seconds, here)
        listening = [n for n in names if not n.startswith(("api", "beat"))]
        for name in listening:
            process = self.processes[name]
            until(f"{name} listens", seconds, lambda p=process: p.logged("worker_started"))

    def api_answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.suppress(OSError), opener.open(f"http://127.0.0.1:{self.port}/readyz", timeout=5):
            return True
        return False

    def standard(self) -> None:
        """The processes of one machine, each with its usual settings; what is there and well is left alone."""
        for name in [n for n in self.processes if n not in STANDARD]:
            self.processes.pop(name).stop()
        missing = [n for n in STANDARD if n not in self.processes or not self.processes[n].alive or self._special(n)]
        for name in missing:
            self.start(name)
        self.ready(*missing)

    def _special(self, name: str) -> bool:
        """Whether a process runs with settings or a plugin of a row's own."""
        fixed = {k: v for k, v in self.env().items() if k != PREFIX + "API_TOKEN"}
        there = self.processes[name].env
        return any(there.get(k) != v for k, v in fixed.items()) or len(there) != len(fixed) + 1

    def stop(self, *names: str) -> None:
        for name in names:
            if name in self.processes:
                self.processes.pop(name).stop()

    def restart(self, *names: str) -> None:
        self.stop(*names)
        self.standard()

    def end(self) -> None:
        """Everything at once."""
        self.model.release()
        for process in self.processes.values():
            if process.alive:
                process.send(signal.SIGCONT)
                process.send(signal.SIGTERM)
        for process in self.processes.values():
            process.stop(15)
        self.processes.clear()

    # -- what was taken away

    def cut(self, what: str, since: float, *cases: Case) -> None:
        """From `since` until now a worker or a server was taken away (of these cases; else of all)."""
        span = (since, time.time(), what)
        if cases:
            for case in cases:
                case.cut.append(span)
        else:
            self.cuts.append(span)

    # -- what is asked and what became of it

    def submit(
        self, kind: str, *, plan: Plan | None = None, label: bool = True, alone: bool = False, state: str = "delivered"
    ) -> Case:
        """A new issue, labelled (unless a row does so later); its webhook is on its way when this returns. `alone`: in
        a repository of its own, so that a fault of GitHub's hits no other run."""
        with self.lock:
            serial = next(self._names)
        name = f"{kind}-{serial}"
        if plan is not None:
            self.model.plan(name, plan)
        repository = REPOSITORIES[serial % len(REPOSITORIES)]
        if alone:
            repository = f"acme/{name}"
            self.double.create_repository(repository, FILES)
        number = self.double.create_issue(repository, f"case={name}", "answer.txt says broken.")
        case = Case(name, repository, number, state)
        if label:
            self.label(case)
        return case

    def label(self, case: Case) -> None:
        self.double.add_label(case.repository, case.number, LABEL)

    def runs(self, case: Case) -> list[dict[str, Any]]:
        """The runs of an issue, oldest first; none while the database is away."""
        try:
            return self.sql(
                "SELECT * FROM runs WHERE repository = %s AND issue_number = %s ORDER BY id",
                case.repository,
                case.number,
            )
        except psycopg.OperationalError:
            return []

    def run(self, case: Case) -> dict[str, Any]:
        found = self.runs(case)
        return found[0] if found else {}

    def in_state(self, case: Case, *states: str, seconds: float) -> dict[str, Any]:
        try:
            return until(
                f"{case.name} is {' or '.join(states)}",
                seconds,
                lambda: (run := self.run(case)) and run["state"] in states and run,
            )
        except Short as short:
            run = self.run(case)
            raise Short(f"{short} (it is {run.get('state')}: {run.get('reason')})") from None

    def finished(self, *cases: Case, seconds: float) -> None:
        deadline = time.monotonic() + seconds * processes.patience
        for case in cases:
            left = max(0.5, deadline - time.monotonic())
            self.in_state(case, *FINAL, seconds=left / processes.patience)

    def reached(self, rule: Any, seconds: float = 30) -> None:
        if not rule.reached.wait(seconds * processes.patience):
            raise Short(f"the model was not asked within {seconds * processes.patience:g} s")

    def owner(self, case: Case) -> int | None:
        """The pid of the worker that holds the run."""
        owner = self.run(case).get("lease_owner")
        return None if owner is None else int(str(owner).rpartition(":")[2])

    def abandon(self, cases: Sequence[Case]) -> None:
        """After a row that fell short: its runs must not disturb the next one's."""
        for case in cases:
            self.sql(
                "UPDATE runs SET state = 'cancelled', finished_at = now(), lease_token = lease_token + 1,"
                " lease_owner = NULL, lease_expires_at = NULL"
                " WHERE repository = %s AND issue_number = %s AND state IN ('queued', 'running', 'concluded')",
                case.repository,
                case.number,
            )
