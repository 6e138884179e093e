"""One trajectory, wherever it is journalled: open the workspace, let the agent work, take the patch by git."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from agent import leftovers, prompts
from agent.errors import NotSaved
from agent.hygiene import HygienePolicy, check, printable
from agent.loop import Agent
from agent.outcome import Patch
from agent.protocols import Journal, Model, Sandbox, SandboxLimits
from agent.resume import Progress, opening
from agent.types import AgentResult, Limits, Price, Sampling, Task
from worker.errors import RepositoryRefused
from worker.stages import config
from worker.stages.instructions import instructions
from worker.stages.layer import spec
from worker.stages.ports import Layer, Repositories


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How the agent ended, and what it changed. `patch` is there at every kind of end, empty when nothing changed."""

    result: AgentResult
    patch: Patch
    prompt_hash: str
    left_out: tuple[str, ...] = ()  #: leftovers that are not in the patch

    @property
    def reason(self) -> str:
        """Why the agent ended, and what was taken out of its change."""
        told = ", ".join(map(printable, self.left_out[:10])) + (", …" if len(self.left_out) > 10 else "")
        return f"{self.result.reason}; left out of the change: {told}" if told else self.result.reason


@dataclass(frozen=True, kw_only=True)
class RunChanges:
    """`agent.protocols.Changes` of a run's repository."""

    repositories: Repositories
    git_dir: Path
    commit: str
    policy: HygienePolicy

    def patch(self, tree: str) -> Patch:
        return self.repositories.patch(self.git_dir, self.commit, tree)

    def objections(self, patch: Patch) -> Sequence[str]:
        existing = self.repositories.list_files(self.git_dir, self.commit)
        left = [f"{printable(path)}: it looks like a leftover" for path in leftovers.among(patch)]
        return [*(f"{printable(v.path)}: {v.reason}" for v in check(patch, self.policy, existing=existing)), *left]


@dataclass(frozen=True, kw_only=True)
class Solver:
    """What one trajectory needs besides its task. One per process; each `solve` has a sandbox of its own."""

    model: Model
    sandbox: Sandbox
    repositories: Repositories
    limits: Limits
    price: Price
    sampling: Sampling = field(default_factory=Sampling)
    remote: str | None = None  #: the model's server, where that is outside the operator's own network
    review: bool = False  #: the model looks at its change once more before it is proposed
    sandbox_limits: SandboxLimits = field(default_factory=SandboxLimits)

    def task(self, git_dir: Path, *, repository: str, number: int | None, title: str, body: str, commit: str) -> Task:
        """The agent's task for an issue: its text, and what the base commit says about instructions and tests."""

        def read(path: str) -> bytes | None:
            return self.repositories.read_file(git_dir, commit, path)

        try:
            test_command = config.parse(read(config.PATH)).test
        except config.ConfigError:
            test_command = None  # reported on the issue at intake; the agent can still work
        files = self.repositories.list_files(git_dir, commit)
        return Task(
            repository=repository,
            issue_number=number,
            title=title,
            body=body,
            base_commit=commit,
            test_command=test_command,
            instructions=instructions(read, files),
            files=files,
        )

    def changes(self, git_dir: Path, commit: str) -> RunChanges:
        """What a run from `commit` changes, by the rules of that commit."""
        try:
            policy = config.parse(self.repositories.read_file(git_dir, commit, config.PATH)).hygiene
        except config.ConfigError:
            policy = config.RepositoryConfig().hygiene
        return RunChanges(repositories=self.repositories, git_dir=git_dir, commit=commit, policy=policy)

    def solve(
        self,
        git_dir: Path,
        task: Task,
        journal: Journal,
        cancel: Event,
        *,
        starting: Callable[[Agent], None] = lambda _: None,
        progress: Callable[[str], Progress] = lambda _: Progress(),
        layer: Layer | None = None,
    ) -> Attempt:
        """Run the agent on `task`. Service errors and a lost lease propagate; every agent's end comes back.

        `layer` is what the repository's set-up made; `starting` sees the agent with its opening, before its first call,
        for a journal that wants to describe it; `progress` says where to go on, of a trajectory with the opening that
        it is given.
        """
        limits = self.limits.in_window(self.model.window)
        begin = progress(opening(task, limits))
        session = self.sandbox.open(spec(git_dir, task.starts_at, self.sandbox_limits, layer))
        try:
            agent = Agent(
                model=self.model,
                session=session,
                journal=journal,
                task=task,
                limits=limits,
                price=self.price,
                sampling=self.sampling,
                cancel=cancel,
                changes=self.changes(git_dir, task.base_commit),
                review=self.review,
                progress=begin,
            )
            result = agent.run(lambda: starting(agent))
        except NotSaved as error:  # before the agent did anything
            raise RepositoryRefused(f"the repository's own files could not be read: {error}") from error
        finally:
            session.close()
        tree = result.final_tree or task.starts_at
        patch = self.repositories.patch(git_dir, task.base_commit, tree)
        left_out = leftovers.among(patch)
        if left_out:
            cleaned = self.repositories.overlay(git_dir, tree, task.base_commit, left_out)
            patch = self.repositories.patch(git_dir, task.base_commit, cleaned)
        prompt_hash = prompts.prompt_hash(agent.specs)
        return Attempt(result=result, patch=patch, prompt_hash=prompt_hash, left_out=left_out)
