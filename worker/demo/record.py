"""Write the demo's script anew: play its replies on the real sandbox and note what the agent asked in between.

Needed after a change of prompts, tools or their texts: `devstral-fix demo --record worker/demo/script.json`.
"""

from __future__ import annotations

import tempfile
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from agent.protocols import Isolation
from agent.tokens import TokenCounter
from agent.types import ExitStatus, Limits, Step, Usage
from worker import compose
from worker.adapters.models.recorder import ScriptRecorder
from worker.demo.github_double.bare import BareRepositories
from worker.demo.seed import REPOSITORY, issue, project_files
from worker.errors import ScriptMismatch
from worker.prices import of_profile
from worker.settings import Settings
from worker.stages.attempt import Solver


class _Unwritten:
    """A journal for a trajectory that nobody keeps."""

    def checkpoint(self) -> None:
        return

    def reserve(self, call: int, prompt_tokens: int, max_tokens: int) -> AbstractContextManager[None]:
        del call, prompt_tokens, max_tokens
        return nullcontext()

    def spend(self, call: int, usage: Usage, usd: float, seconds: float) -> None:
        del call, usage, usd, seconds

    def step(self, step: Step) -> None:
        del step


def record(source: Path, target: Path, *, repository: str = REPOSITORY, number: int | None = 1) -> None:
    """Play the replies of `source` on the demo's issue, under another name and number if given, and save the complete
    script to `target`."""
    with tempfile.TemporaryDirectory(prefix="devstral-fix-record-") as scratch_name:
        scratch = Path(scratch_name)
        bare = BareRepositories(scratch / "origin")
        commit = bare.create(REPOSITORY, project_files(), "main")
        repositories = compose.make_repositories(scratch, allow_file=True)
        plain = Settings(isolation=Isolation.BASIC, sandbox="bwrap", tools=())
        recorder = ScriptRecorder.of_file(source, TokenCounter())
        solver = Solver(
            model=recorder,
            sandbox=compose.make_sandbox(plain, scratch, repositories),
            repositories=repositories,
            limits=Limits(),
            price=of_profile("small-24b").price,
            review=True,
        )
        git_dir = repositories.run_dir("record", bare.path(REPOSITORY))
        title, body = issue()
        task = solver.task(git_dir, repository=repository, number=number, title=title, body=body, commit=commit)
        attempt = solver.solve(git_dir, task, _Unwritten(), threading.Event())
        if attempt.result.exit_status is not ExitStatus.SUBMITTED:
            raise ScriptMismatch(f"the scripted agent ended as {attempt.result.exit_status}: {attempt.result.reason}")
        recorder.save(target)
