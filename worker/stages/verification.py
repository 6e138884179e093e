"""The evidence: the repository's own test command, run by the service in fresh sandboxes before and after a patch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from agent import comparison as tests
from agent import infrastructure, noticed, tampering
from agent.comparison import Comparison
from agent.hygiene import Violation, is_test_path, printable
from agent.outcome import Detail, Evidence, Execution, Patch, Stage, TestOutcome
from agent.protocols import Sandbox, SandboxLimits
from agent.reports import Case, command_for
from worker.runs.baselines import Key
from worker.stages.baselines import Baselines, NotKept
from worker.stages.config import RepositoryConfig
from worker.stages.execution import Executor
from worker.stages.held_back import held_back
from worker.stages.ports import Layer, Repositories

MOST_RUNS = 4  # executions of the test command for one run, where the base's has to be executed, too
MARGIN_SECONDS = 120.0  # for the workspace around one execution


def refusal(violations: Sequence[Violation]) -> str:
    """Why a patch may not be delivered, for people."""
    told = "; ".join(f"{printable(v.path)}: {v.reason}" for v in violations[:10])
    more = f"; and {len(violations) - 10} more" if len(violations) > 10 else ""
    return f"the change may not be delivered: {told}{more}"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is verified. `setup_key`: of the layer that its sandboxes show."""

    git_dir: Path
    repository: str
    patch: Patch
    settings: RepositoryConfig
    setup_key: str | None = None
    layer: Layer | None = None


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What was executed; `comparison` where the outcome of each test is known; `doubts` as `rules.decide` has them."""

    evidence: tuple[Evidence, ...] = ()
    comparison: Comparison | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """Runs the test command on the base (once for all runs of a commit), on the base with the patch's tests, and on the
    patched tree; there once more where something fails that did not before. Where the patch brings no tests, the base
    is executed once more instead, when only that can show what was repaired."""

    sandbox: Sandbox
    repositories: Repositories
    baselines: Baselines = field(default_factory=NotKept)
    sandbox_limits: SandboxLimits = field(default_factory=SandboxLimits)

    def verify(
        self,
        subject: Subject,
        *,
        cancel: Event,
        record: Callable[[Evidence], None],
        check: Callable[[], None] = lambda: None,
    ) -> Taken:
        """Take the evidence for a patch, each piece recorded as it comes. Nothing without a test command or patch.
        BaselineBusy where another run executes the base's tests now; what `check` raises, once `cancel` is set."""
        if subject.settings.test is None or subject.patch.empty:
            return Taken()
        return _Taking(self, subject, cancel, record, check).take()


class _Taking:
    """One patch's evidence in the making."""

    def __init__(
        self,
        verifier: Verifier,
        subject: Subject,
        cancel: Event,
        record: Callable[[Evidence], None],
        check: Callable[[], None],
    ) -> None:
        patch, settings = subject.patch, subject.settings
        assert settings.test is not None
        self._verifier, self._subject, self._record = verifier, subject, record
        self._repositories, self._git_dir, self._base = verifier.repositories, subject.git_dir, patch.base_commit
        scripts = self._npm_scripts()
        self._told = "\n".join([settings.test, *infrastructure.scripts_behind(settings.test, scripts)])
        self._execute = Executor(
            sandbox=verifier.sandbox,
            repositories=verifier.repositories,
            limits=verifier.sandbox_limits,
            git_dir=subject.git_dir,
            layer=subject.layer,
            plan=command_for(settings.test, settings.test_report_format, settings.test_report, scripts),
            timeout=settings.test_timeout_seconds,
            cancel=cancel,
            check=check,
        )
        self._held = held_back(self._repositories, self._git_dir, patch, self._told)
        self._tests = [c.path for c in patch.files if is_test_path(c.path) and c.path not in self._held]
        self._counted = self._overlay(patch.tree, self._base, self._held)
        self._files = frozenset(self._repositories.list_files(self._git_dir, self._counted))
        self._weakened = noticed.weakened(patch)
        self._taken: list[Evidence] = []

    def take(self) -> Taken:
        before, kept = self._baseline()
        self._add("before", self._base, before, kept=kept)
        without: Execution | None = None
        if self._tests:
            tree = self._overlay(self._base, self._subject.patch.tree, self._tests)
            without = self._execute(tree)[0]
            self._add("before_with_new_tests", tree, without)
        after, ended = self._execute(self._counted)
        after = _believed(after, before)
        again: Execution | None = None
        if ended and self._failed(before, without, after):
            again = _believed(self._execute(self._counted)[0], before)
        base_again: Execution | None = None
        if without is None and self._only_the_base_can_show(before, after, again):
            base_again = self._execute(self._base)[0]
            without = base_again
        found = self._compared(before, without, after, again)
        named = {} if found is None else found.named()
        detail = Detail(note=after.note, held_back=self._held, noticed=self._weakened, tests=named)
        self._add("after", self._counted, after, detail=detail)
        if again is not None:
            self._add("after_again", self._counted, again)
        if base_again is not None:
            self._add("before_again", self._base, base_again)
        doubts = self._doubts(before, without, after, again)
        return Taken(evidence=tuple(self._taken), comparison=found, doubts=doubts)

    def _baseline(self) -> tuple[Execution, bool]:
        subject, timeout = self._subject, self._subject.settings.test_timeout_seconds
        plan = self._execute.plan
        what = [plan.script, plan.form, timeout, self._verifier.sandbox.isolation.value]
        key = Key(
            repository=subject.repository,
            commit=self._base,
            setup_key=subject.setup_key,
            digest=hashlib.sha256(json.dumps(what).encode()).hexdigest(),
        )
        return self._verifier.baselines.of(key, lambda: self._execute(self._base), seconds=timeout + MARGIN_SECONDS)

    def _add(
        self, stage: Stage, tree: str, run: Execution, *, kept: bool = False, detail: Detail | None = None
    ) -> None:
        piece = Evidence(
            stage=stage,
            tree=tree,
            **run.model_dump(include={"command", "outcome", "returncode", "seconds", "output"}),
            counts=tests.counts(run.cases),
            detail=detail or Detail(note=run.note, kept=kept),
        )
        self._record(piece)
        self._taken.append(piece)

    def _compared(
        self, before: Execution, without: Execution | None, after: Execution, again: Execution | None
    ) -> Comparison | None:
        """None where the outcome of each test is not known."""
        if before.cases is None or after.cases is None:
            return None
        shown_without = None if without is None else without.cases
        if without is not None and shown_without is None and without.outcome is TestOutcome.FAILED:
            # Not even built with the new tests alone: of those that are new, none can have passed.
            shown_without = {test: before.cases.get(test, Case.ERROR) for test in after.cases}
        return tests.compare(
            before.cases,
            after.cases,
            without=shown_without,
            again=None if again is None else again.cases,
            changed=self._tests,
            files=self._files,
        )

    def _failed(self, before: Execution, without: Execution | None, after: Execution) -> bool:
        """Whether something does not pass that a rerun could show to be flaky."""
        found = self._compared(before, without, after, None)
        if found is None:
            return after.outcome is not TestOutcome.PASSED and before.outcome is not TestOutcome.FAILED
        return bool(found.broken or found.missing or found.new_failing)

    def _only_the_base_can_show(self, before: Execution, after: Execution, again: Execution | None) -> bool:
        last = again or after
        found = self._compared(before, before, after, again)
        if found is None:
            return before.outcome is TestOutcome.FAILED and last.outcome is TestOutcome.PASSED
        return bool(found.reproduced) and not found.broken

    def _doubts(
        self, before: Execution, without: Execution | None, after: Execution, again: Execution | None
    ) -> tuple[str, ...]:
        found = []
        if self._held:
            paths = ", ".join(map(printable, self._held[:5]))
            found.append(f"the change touches how tests are run, which was as on the base here ({paths})")
        usual = tests.contradiction(before) and before.returncode  # so it is without the change, too
        for run in (without, after, again):
            words = "" if run is None or run.returncode == usual else tests.contradiction(run)
            found += [words] if words and words not in found else []
        if again is not None and again.outcome is TestOutcome.PASSED and after.cases is None:
            found.append("the tests failed with the change, and passed when they were run again")
        if after.cases is None:  # test by test this is seen as it is executed
            found += self._weakened[:5]
        reaching = tampering.reaching(self._subject.patch.diff)
        if reaching:
            found.append(f"the change reaches into the test runner ({'; '.join(map(printable, reaching[:5]))})")
        return tuple(found)

    def _npm_scripts(self) -> Mapping[str, str]:
        """The scripts of the base's package.json."""
        data = self._repositories.read_file(self._git_dir, self._base, "package.json", max_bytes=1 << 20)
        try:
            scripts = json.loads(data or b"{}").get("scripts", {})
            return {str(name): str(script) for name, script in scripts.items()}
        except (ValueError, AttributeError, RecursionError):
            return {}

    def _overlay(self, onto: str, source: str, paths: Sequence[str]) -> str:
        return self._repositories.overlay(self._git_dir, onto, source, paths) if paths else onto


def _believed(run: Execution, before: Execution) -> Execution:
    """With the change, no report is no pass where the same command left one on the base."""
    if before.cases is None or run.cases is not None or run.outcome is not TestOutcome.PASSED:
        return run
    return run.model_copy(update={"outcome": TestOutcome.ERROR})
