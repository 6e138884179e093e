"""Whether a patch resolves an instance: its tests, run in a fresh sandbox on base + patch + the instance's own tests.

The files of the test patch are the instance's, whatever the patch did to them, and how tests are run (conftest.py, the
runner's configuration) is the base's and the test patch's, as for evidence. What the tests then report is believed:
this measures a model, and is no evidence for a delivery.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from agent.protocols import ExecStatus, Mount, Sandbox, SandboxLimits
from agent.reports import Case, Format, ReportError, parse
from worker.errors import BadPatch, ShuttingDown
from worker.evals.instances import Instance
from worker.stages.held_back import held_back
from worker.stages.layer import spec
from worker.stages.ports import Layer, Repositories

_SECONDS = 900.0
_PACKAGES = "/opt/packages"
_REPORT = "/tmp/report.xml"  # noqa: S108 - inside the sandbox, gone with the command


@dataclass(frozen=True)
class Score:
    """`broken`: tests that have to pass and do not, `failing` of FAIL_TO_PASS, `worse` of PASS_TO_PASS. `problem` says
    why nothing could be run."""

    resolved: bool
    failing: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()
    problem: str = ""


def layer_of(instance: Instance) -> Layer | None:
    """What the sandbox is shown of the instance's packages (`bin/` and `site/`)."""
    if instance.packages is None:
        return None
    return Layer(
        mounts=(Mount(source=instance.packages, target=_PACKAGES),),
        env={
            "PYTHONPATH": f"/workspace:/workspace/src:{_PACKAGES}/site",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
        },
        path=(f"{_PACKAGES}/bin",),
    )


@dataclass(frozen=True, kw_only=True)
class Scorer:
    sandbox: Sandbox
    repositories: Repositories
    limits: SandboxLimits = field(default_factory=SandboxLimits)

    def score(self, instance: Instance, git_dir: Path, patch: str, cancel: Event | None = None) -> Score:
        """ShuttingDown once `cancel` is set."""
        try:
            outcomes = self.outcomes(instance, git_dir, patch, cancel)
        except BadPatch as error:
            return Score(resolved=False, failing=instance.fail_to_pass, problem=str(error)[:300])
        failing = tuple(test for test in instance.fail_to_pass if outcomes.get(test) != "passed")
        worse = tuple(test for test in instance.pass_to_pass if outcomes.get(test) != "passed")
        problem = "" if outcomes else "the tests reported nothing"
        return Score(resolved=not failing and not worse, failing=failing, worse=worse, problem=problem)

    def outcomes(self, instance: Instance, git_dir: Path, patch: str, cancel: Event | None = None) -> Mapping[str, str]:
        """Test id → passed, failed or skipped, of all tests in the files that the instance names. BadPatch;
        ShuttingDown once `cancel` is set."""
        base = instance.base_commit
        tests = self.repositories.apply(git_dir, base, instance.test_patch)
        paths = [change.path for change in self.repositories.patch(git_dir, base, tests).files]
        solved = self.repositories.apply(git_dir, base, patch)
        change = self.repositories.patch(git_dir, base, solved)
        held = held_back(self.repositories, git_dir, change, instance.test_command)
        tree = self.repositories.overlay(git_dir, solved, base, held) if held else solved
        tree = self.repositories.overlay(git_dir, tree, tests, paths)
        files = sorted({test.split("::")[0] for test in (*instance.fail_to_pass, *instance.pass_to_pass)})
        options = f"-q -p no:cacheprovider -o junit_family=xunit1 --junitxml={_REPORT}"
        command = f"{instance.test_command} {options} {shlex.join(files)} >/dev/null 2>&1; cat {_REPORT}"
        session = self.sandbox.open(spec(git_dir, tree, self.limits, layer_of(instance)))
        try:
            done = session.exec(["bash", "-c", command], timeout=_SECONDS, max_output=32 << 20, cancel=cancel)
        finally:
            session.close()
        if done.status is ExecStatus.CANCELLED:
            raise ShuttingDown("the tests were broken off")
        try:
            cases = parse(Format.JUNIT, done.stdout.text.encode(), files=self.repositories.list_files(git_dir, tree))
        except ReportError:
            return {}
        return {test: "failed" if case is Case.ERROR else case.value for test, case in cases.items()}
