"""One execution of a test command on one tree, in a fresh sandbox: how it ended, and how each of its tests did."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from agent import evidence as rules
from agent.outcome import Execution
from agent.protocols import ExecResult, ExecStatus, Sandbox, SandboxLimits
from agent.reports import MAX_OUTPUT, Case, Format, Plan, ReportError, parse, readable, taken_apart
from worker.errors import ShuttingDown
from worker.stages.layer import spec
from worker.stages.ports import Layer, Repositories

KEPT_OUTPUT = 20_000  # characters of one execution's output that are stored: its head and its tail
NO_REPORT = "this test command gives no report"


def shown(result: ExecResult, form: Format | None = None) -> str:
    """Both streams as people read them, head and tail kept. With a `form` standard output is the report's."""
    text = readable(form, ("" if form else result.stdout.text) + result.stderr.text)
    if len(text) > KEPT_OUTPUT:
        half = KEPT_OUTPUT // 2
        text = f"{text[:half]}\n[{len(text) - KEPT_OUTPUT} characters left out]\n{text[-half:]}"
    return text if result.status is ExecStatus.EXIT else f"{text}\n[the service ended it: {result.status.value}]"


@dataclass(frozen=True, kw_only=True)
class Executor:
    """`check` raises what the work was interrupted for."""

    sandbox: Sandbox
    repositories: Repositories
    limits: SandboxLimits
    git_dir: Path
    layer: Layer | None
    plan: Plan
    timeout: float
    cancel: Event
    check: Callable[[], None]

    def __call__(self, tree: str) -> tuple[Execution, bool]:
        """The execution; and whether the command came to its own end. Broken off, it is none at all."""
        reported = self.plan.form is not None
        session = self.sandbox.open(spec(self.git_dir, tree, self.limits, self.layer))
        started = time.monotonic()
        try:
            result = session.exec(
                ["bash", "-c", self.plan.script],
                timeout=self.timeout,
                max_output=MAX_OUTPUT if reported else 1 << 20,
                cancel=self.cancel,
            )
        finally:
            session.close()
        self.check()
        if result.status is ExecStatus.CANCELLED:
            raise ShuttingDown("the tests were broken off")
        cases, note = self._cases(result, tree) if reported else (None, NO_REPORT)
        execution = Execution(
            command=self.plan.shown,
            outcome=rules.judge(result),
            returncode=result.returncode,
            seconds=time.monotonic() - started,
            output=shown(result, self.plan.form),
            note=note,
            cases=cases,
        )
        return execution, result.status is ExecStatus.EXIT

    def _cases(self, result: ExecResult, tree: str) -> tuple[Mapping[str, Case] | None, str]:
        assert self.plan.form is not None
        if result.status is not ExecStatus.EXIT:
            return None, f"the tests came to no end ({result.status.value})"
        try:
            files = frozenset(self.repositories.list_files(self.git_dir, tree))
            return parse(self.plan.form, taken_apart(result.stdout.text), files=files), ""
        except ReportError as error:
            return None, str(error)
