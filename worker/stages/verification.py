"""The evidence: the repository's own test command, run by the service in fresh sandboxes before and after a patch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Literal

from agent import evidence as rules
from agent.hygiene import Violation, is_test_path, printable
from agent.outcome import Evidence, Patch
from agent.protocols import ExecResult, Sandbox, SandboxLimits
from worker.stages.config import RepositoryConfig
from worker.stages.layer import spec
from worker.stages.ports import Layer, Repositories

KEPT_OUTPUT = 20_000  # characters of one execution's output that are stored: its head and its tail


def shown(result: ExecResult) -> str:
    """Both streams as people read them, head and tail kept."""
    text = result.stdout.text + result.stderr.text
    if len(text) <= KEPT_OUTPUT:
        return text
    half = KEPT_OUTPUT // 2
    return f"{text[:half]}\n[{len(text) - KEPT_OUTPUT} characters left out]\n{text[-half:]}"


def refusal(violations: Sequence[Violation]) -> str:
    """Why a patch may not be delivered, for people."""
    told = "; ".join(f"{printable(v.path)}: {v.reason}" for v in violations[:10])
    more = f"; and {len(violations) - 10} more" if len(violations) > 10 else ""
    return f"the change may not be delivered: {told}{more}"


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """Runs the test command on up to three trees: the base, the base with the patch's tests, the patched tree."""

    sandbox: Sandbox
    repositories: Repositories
    sandbox_limits: SandboxLimits = field(default_factory=SandboxLimits)

    def verify(
        self,
        git_dir: Path,
        patch: Patch,
        settings: RepositoryConfig,
        *,
        cancel: Event,
        record: Callable[[Evidence], None],
        layer: Layer | None = None,
    ) -> list[Evidence]:
        """Take the evidence for a patch, each piece recorded as it comes. Nothing without a test command or patch."""
        if settings.test is None or patch.empty:
            return []
        tests = [change.path for change in patch.files if is_test_path(change.path)]
        trees: list[tuple[Literal["before", "before_with_new_tests", "after"], str]] = [("before", patch.base_commit)]
        if tests:
            with_tests = self.repositories.overlay(git_dir, patch.base_commit, patch.tree, tests)
            trees.append(("before_with_new_tests", with_tests))
        trees.append(("after", patch.tree))
        taken = []
        for stage, tree in trees:
            piece = self._run(git_dir, stage, tree, settings, cancel, layer)
            record(piece)
            taken.append(piece)
        return taken

    def _run(
        self,
        git_dir: Path,
        stage: Literal["before", "before_with_new_tests", "after"],
        tree: str,
        settings: RepositoryConfig,
        cancel: Event,
        layer: Layer | None,
    ) -> Evidence:
        assert settings.test is not None
        session = self.sandbox.open(spec(git_dir, tree, self.sandbox_limits, layer))
        started = time.monotonic()
        try:
            result = session.exec(["bash", "-c", settings.test], timeout=settings.test_timeout_seconds, cancel=cancel)
        finally:
            session.close()
        return Evidence(
            stage=stage,
            tree=tree,
            command=settings.test,
            outcome=rules.judge(result),
            returncode=result.returncode,
            seconds=time.monotonic() - started,
            output=shown(result),
        )
