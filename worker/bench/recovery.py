"""How soon a run goes on after its worker was killed: from SIGKILL to the next claim.

Two GPU workers, a model server that never answers, short leases. The killed one is whoever holds the run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from worker.bench import claims
from worker.bench.records import Figure, figure
from worker.bench.waiting import SILENT_SERVER
from worker.compose import make_repositories
from worker.demo.github_double.bare import BareRepositories
from worker.queue import Publisher, make_app
from worker.runs import requests
from worker.settings import PREFIX
from worker.store import trajectories
from worker.store.models import Run, RunState
from worker.store.session import Store
from worker.supervisor import Child, Supervisor
from worker.wakes import permit

LEASE, SWEEP, SLACK, TIMES = 6.0, 1.0, 2.0, 5
REPOSITORY = "acme/recovery"


def _held(store: Store, run_id: UUID, *, attempts: int, seconds: float) -> str:
    """Wait for the run's so-many-th attempt; who holds it. TimeoutError."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with store.transaction() as session:
            run = session.get_one(Run, run_id)
            if run.state is RunState.RUNNING and len(trajectories.attempts(session, run_id)) >= attempts:
                assert run.lease_owner is not None
                return run.lease_owner
        time.sleep(0.005)
    raise TimeoutError(f"the run was not claimed within {seconds:g} s")


def after_a_kill(store: Store, redis_url: str, root: Path, env: Mapping[str, str], *, command: str) -> list[Figure]:
    bare = BareRepositories(root / "origin")
    commit = bare.create(REPOSITORY, {"README.md": "bench\n"}, "main")
    mirrors = make_repositories(Path(env[PREFIX + "DATA_DIR"]), allow_file=True)
    mirrors.fetch(REPOSITORY, f"file://{bare.path(REPOSITORY)}", None)
    server = subprocess.Popen([sys.executable, "-c", SILENT_SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    publisher = Publisher(make_app(redis_url))
    spans = []
    try:
        own = {
            "MODEL": f"openai:http://127.0.0.1:{int(server.stdout.readline())}/v1#silent",
            "LEASE_SECONDS": f"{LEASE:g}",
            "SWEEP_SECONDS": f"{SWEEP:g}",
            "GITHUB_TOKEN": "bench",
        }
        programs = [("default", "default"), ("gpu-1", "gpu"), ("gpu-2", "gpu")]
        children = [Child(name, ["work", "--role", role], root / f"{name}.log") for name, role in programs]
        children.append(Child("beat", ["beat"], root / "beat.log"))
        environment = {**env, **{PREFIX + k: v for k, v in own.items()}}
        with Supervisor(children, env=environment, cwd=root, grace=10):
            for number in range(1, TIMES + 1):
                with store.transaction() as session:
                    run_id = claims.queued(session, number, repository=REPOSITORY, commit=commit, attempts=9)
                publisher.send(permit("small-24b"))
                holder = _held(store, run_id, attempts=1, seconds=60)
                server.stdout.readline()  # its call is in flight
                os.kill(int(holder.rpartition(":")[2]), signal.SIGKILL)
                killed = time.monotonic()
                _held(store, run_id, attempts=2, seconds=60)
                spans.append(time.monotonic() - killed)
                server.stdout.readline()
                with store.transaction() as session:
                    requests.cancel(session, run_id, by="bench")
    finally:
        publisher.close()
        server.kill()
        server.wait()
    name = f"SIGKILL to the next claim, lease {LEASE:g} s, worst of {TIMES}"
    return [figure(name, max(spans), "s", goal=LEASE + SWEEP + SLACK, command=command)]
