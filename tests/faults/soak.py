"""Many runs under random faults, in an order that a seed decides; then everything is counted.

The processes are those of `up`, supervised as `up` does, with a second GPU worker to take over. A webhook that was
not accepted (Postgres was away) is sent again under its GUID, as GitHub does when it is asked to.
"""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg

from tests.faults.examine import Findings, examine
from tests.faults.processes import Short, until
from tests.faults.site import FINAL, Case, Site, lease_seconds
from tests.faults.table import Result
from worker.supervisor import Child, Supervisor
from worker.up import children

WINDOW = 8  # runs under way at once
DRAIN_SECONDS = 240
CANCELLED = 0.04  # of the runs
ATTEMPTS = 50  # so that it is never the number of faults that ends a run


class Soak:
    def __init__(self, site: Site, supervisor: Supervisor, *, runs: int, seconds: float, seed: int) -> None:
        self.site = site
        self.supervisor = supervisor
        self.runs = runs
        self.seconds = seconds
        self.random = random.Random(seed)
        self.happened: Counter[str] = Counter()
        self.cases: list[Case] = []
        self._open: list[Case] = []
        self._quiet = threading.Event()
        self._problems: list[str] = []

    def run(self) -> None:
        """File the runs, with faults beside it, and wait for the last."""
        started = time.monotonic()
        faults = threading.Thread(target=self._faults, name="faults", daemon=True)
        faults.start()
        try:
            for count in range(self.runs):
                # Spread over four fifths of the time; when runs are slow, the window holds the next one back.
                due = started + count * 0.8 * self.seconds / self.runs
                self._wait(lambda due=due: time.monotonic() >= due and len(self._unfinished()) < WINDOW)
                self._submit(count)
            left = max(0.0, started + self.seconds - time.monotonic())
            with suppress(Short):
                until("all runs ended early", left, lambda: not self._unfinished())
        finally:
            self._quiet.set()
            faults.join(60)
            self.site.double.clear_faults()
            self.site.model.release()
        with suppress(Short):
            until("the last runs ended", DRAIN_SECONDS, lambda: not self._unfinished())
        if self._problems:
            raise Short("; ".join(self._problems[:3]))

    def _wait(self, condition: Callable[[], bool]) -> None:
        until("the next run may be filed", self.seconds + DRAIN_SECONDS, condition)

    def _submit(self, count: int) -> None:
        chance = self.random.random()
        cancelled = chance < CANCELLED
        case = self.site.submit("soak", label=False, state="delivered|cancelled" if cancelled else "delivered")
        if 0.1 < chance < 0.2:
            for _ in range(2):
                self.site.model.rule(case.name, 1, status=500)
            self.happened["model 500"] += 2
        elif 0.2 < chance < 0.25:
            self.site.model.rule(case.name, 1, seconds=4)
            self.happened["model slow"] += 1
        elif 0.25 < chance < 0.3:
            self.site.model.rule(case.name, 0, broken=True)
            self.happened["model broke off"] += 1
        self.cases.append(case)
        self._open.append(case)
        self.site.label(case)
        self._accepted(case)
        if cancelled:
            self._cancel(case, hold=count % 2 == 0)

    def _accepted(self, case: Case) -> None:
        """Until the API took the webhook; a redelivery keeps its GUID."""
        where = (case.repository, case.number)
        record = self.site.double.wait_for_delivery(
            "issues",
            "labeled",
            matches=lambda d: (d.payload["repository"]["full_name"], d.payload["issue"]["number"]) == where,
            timeout=30,
        )
        guid, body = record.guid, record.body
        while record.status != 202:
            self.happened["webhook redelivered"] += 1
            time.sleep(0.3)
            record = self.site.double.deliver("issues", body, guid=guid)

    def _cancel(self, case: Case, *, hold: bool) -> None:
        if hold:
            held = self.site.model.hold(case.name, 1)
            with suppress(Short):
                self.site.reached(held, seconds=40)
        with suppress(Short):
            run = until("there is a run to cancel", 60, lambda: self.site.run(case))
            command = [sys.executable, "-m", "worker.cli", "runs", "cancel", str(run["id"]), "--by", "soak"]
            subprocess.run(
                command, env=self.site.env(), cwd=self.site.root, check=False, capture_output=True, timeout=60
            )
            self.happened["cancel"] += 1
        if hold:
            held.open.set()

    def _unfinished(self) -> list[Case]:
        try:
            rows = self.site.sql("SELECT repository, issue_number FROM runs WHERE state = ANY(%s)", list(FINAL))
        except psycopg.OperationalError:
            return self._open
        ended = {(row["repository"], row["issue_number"]) for row in rows}
        self._open = [case for case in self._open if (case.repository, case.number) not in ended]
        return self._open

    # -- faults

    def _faults(self) -> None:
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._kill, 6),
            (self._freeze, 3),
            (self._redis, 3),
            (self._flush, 1),
            (self._postgres, 2),
            (self._github, 6),
            (self._model_down, 2),
            (self._duplicate, 4),
        ]
        bodies, weights = zip(*kinds, strict=True)
        while not self._quiet.wait(self.random.uniform(1.0, 4.0)):
            body = self.random.choices(bodies, weights)[0]
            try:
                body()
            except (Short, OSError, psycopg.Error) as error:
                self._problems.append(f"the fault {body.__name__} could not be made: {error}")

    def _child(self, *prefixes: str) -> Child:
        return self.random.choice([c for c in self.supervisor.children if c.name.startswith(prefixes)])

    def _signal(self, child: Child, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            assert child.process is not None
            child.process.send_signal(number)

    def _kill(self) -> None:
        child, since = self._child("gpu", "gpu", "cpu", "default", "beat"), time.time()
        self._signal(child, signal.SIGKILL)
        self.happened[f"kill -9 {child.name}"] += 1
        if child.name.startswith("gpu"):
            self.site.cut("killed", since)

    def _freeze(self) -> None:
        child, since = self._child("gpu", "cpu", "default"), time.time()
        self._signal(child, signal.SIGSTOP)
        self._quiet.wait(lease_seconds() + self.random.uniform(0.5, 2))  # the fault is that this much time passes
        self._signal(child, signal.SIGCONT)
        self.happened[f"SIGSTOP {child.name}"] += 1
        if child.name.startswith("gpu"):
            self.site.cut("frozen", since)

    def _redis(self) -> None:
        self.site.kill_redis()
        self.site.start_redis()
        self.happened["kill -9 Redis"] += 1

    def _flush(self) -> None:
        client = self.site.redis_client()
        client.flushall()
        client.close()
        self.happened["FLUSHALL"] += 1

    def _postgres(self) -> None:
        self.site.restart_postgres(self.random.choice([signal.SIGINT, signal.SIGKILL]))
        self.happened["Postgres restart"] += 1

    def _github(self) -> None:
        """Of requests that only the service makes."""
        if not self._open:
            return
        case = self.random.choice(self._open)
        repository = f"/repos/{case.repository}"
        path = self.random.choice(
            [
                f"POST {repository}/issues/{case.number}/comments",
                f"PATCH {repository}/issues/comments",
                f"POST {repository}/pulls",
                f"POST /{case.repository}.git/git-receive-pack",
                f"GET {repository}/issues/{case.number}",
            ]
        )
        self.site.double.fault(path, forward=not path.startswith("GET"))
        self.happened["GitHub 502"] += 1

    def _model_down(self) -> None:
        self.site.model.down.set()
        self._quiet.wait(self.random.uniform(0.5, 2))
        self.site.model.down.clear()
        self.happened["model server 500"] += 1

    def _duplicate(self) -> None:
        accepted = [d for d in self.site.double.deliveries() if d.action == "labeled" and d.status == 202]
        if accepted:
            record = self.random.choice(accepted)
            self.site.double.deliver("issues", record.body, guid=record.guid)
            self.happened["webhook twice"] += 1


def soak(root: Path, *, runs: int, seconds: float, seed: int | None) -> Iterator[Result]:
    """One row: what happened, what was lost and doubled over all runs."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    print(f"\nSoak: {runs} runs under random faults for {seconds:g} s, --seed {seed}", flush=True)
    logging.getLogger("worker.supervisor").setLevel(logging.ERROR)  # restarts are what the soak is about
    started, why, findings = time.monotonic(), "", Findings()
    with Site(root) as site:
        settings = {"MAX_ATTEMPTS": ATTEMPTS, "MAX_OPEN_PULL_REQUESTS": "0", "MAX_PULL_REQUESTS_PER_DAY": "0"}
        programs = children(site.port, log_dir=root / "logs")
        programs.append(Child("gpu-2", ["work", "--role", "gpu"], root / "logs" / "gpu-2.log"))
        with Supervisor(programs, env=site.env(settings), cwd=root, grace=20) as supervisor:
            until("the API answers", 120, site.api_answers)
            busy = Soak(site, supervisor, runs=runs, seconds=seconds, seed=seed)
            try:
                busy.run()
            except Short as short:
                why = str(short)
            findings = examine(site, busy.cases)
            states = Counter(str(site.run(case).get("state")) for case in busy.cases)
    calls = f"{findings.answered} calls answered, {findings.booked} booked, {findings.unpaid} cut before they could be"
    counted = ", ".join(f"{what} {times}" for what, times in sorted(busy.happened.items()))
    ends = ", ".join(f"{times} {state}" for state, times in states.items())
    bad = why or findings.lost or findings.doubled
    yield Result(
        name=f"soak of {len(busy.cases)} runs, seed {seed}",
        proof=f"{counted}; {ends}; {calls}",
        findings=findings,
        verdict="FAILED" if bad else "passed",
        why=why,
        seconds=time.monotonic() - started,
    )
