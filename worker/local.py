"""`fix --repo`: one issue on a local git repository, without GitHub, queue or database."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agent import choice
from agent.evidence import Verdict
from agent.loop import Agent
from agent.outcome import Evidence, Outcome, Patch
from agent.protocols import Isolation
from agent.trajectory import EndLine, Header, JsonlJournal, SpendLine, StepLine, header
from agent.types import Price, Usage
from worker import compose, local_tries
from worker.errors import Permanent, ServiceError, SettingsError
from worker.settings import Settings
from worker.stages import config
from worker.stages.attempt import Attempt
from worker.stages.config import RepositoryConfig
from worker.stages.layer import layer_of, needed
from worker.stages.setup import Builder, SetUpFailed
from worker.stages.verification import Subject, Verifier


class NotSetUp(Permanent):
    """What the repository needs could not be installed; the message ends with the set-up's own words."""


class _Kept(JsonlJournal):
    """A trajectory that is kept as long as it can be written: a full disk costs no run. `usd` is what its calls cost at
    most, `usd_low` at least."""

    def __init__(self, path: Path, price: Price, note: Callable[[str], None]) -> None:
        super().__init__(path)
        self._price = price
        self._note = note
        self._broken = False
        self.usd = self.usd_low = 0.0

    def spend(self, call: int, usage: Usage, usd: float, seconds: float) -> None:
        self.usd += usd
        self.usd_low += self._price.call(usage)[0]
        super().spend(call, usage, usd, seconds)

    def _write(self, line: Header | SpendLine | StepLine | EndLine) -> None:
        if self._broken:
            return
        try:
            super()._write(line)
        except OSError as error:
            self._broken = True
            self._note(f"the trajectory can't be written ({error.strerror}): it ends here, the run goes on")


@dataclass(frozen=True, kw_only=True)
class LocalFix:
    """What came of it."""

    attempt: Attempt
    verdict: Verdict
    evidence: tuple[Evidence, ...]
    usd_low: float  #: what everything cost at least; `attempt` has the most that it did itself
    others_usd: float = 0.0  #: what other tries cost at most, and the model's comparison of them
    tries: tuple[dict[str, Any], ...] = ()  #: JSON-ready; empty where there was one

    @property
    def deliverable(self) -> bool:
        """Fit to be applied: not refused by hygiene, and not known to break tests."""
        return self.verdict.outcome in {Outcome.FIXED, Outcome.PARTIAL} and not self.patch.empty

    @property
    def patch(self) -> Patch:
        return self.attempt.patch


def _ask_git(repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Git about a person's own repository, in their own configuration; only questions, nothing is written."""
    command = ["git", "-C", str(repo), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=_environment())


def _environment() -> dict[str, str]:
    """The caller's, less what would point git at another repository, as inside a git hook."""
    return {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}


def git_directory(repo: Path) -> Path:
    """The directory that holds a repository's objects; of a linked work tree that of its main one."""
    done = _ask_git(repo, "rev-parse", "--path-format=absolute", "--git-common-dir")
    if done.returncode != 0:
        raise SettingsError(f"--repo: {repo} is not a git repository: {done.stderr.strip()[:300]}")
    return Path(done.stdout.strip())


def tracked_files(repo: Path) -> tuple[str, ...]:
    """Paths of the repository's HEAD, sorted as git does."""
    done = _ask_git(repo, "ls-tree", "-r", "-z", "--name-only", "--full-tree", head_commit(repo))
    if done.returncode != 0:
        raise SettingsError(f"--repo: the files of {repo} can't be listed: {done.stderr.strip()[:300]}")
    return tuple(filter(None, done.stdout.split("\0")))


def head_commit(repo: Path) -> str:
    done = _ask_git(repo, "rev-parse", "--verify", "HEAD^{commit}")
    if done.returncode != 0:
        raise SettingsError(f"--repo: {repo} has no commit yet")
    return done.stdout.strip()


def fix(
    settings: Settings,
    *,
    repo: Path,
    title: str,
    body: str,
    trajectory: Path | None,
    note: Callable[[str], None],
    set_up: bool = True,
    samples: int = 1,
) -> LocalFix:
    """Pursue the issue on the repository's HEAD in a sandbox and verify the patch; the repository stays untouched. Of
    several `samples` the best one comes back; each may use all of the limits.

    What the repository needs is installed first, as for the service; Permanent when that fails. Its layer is kept in
    the settings' data directory for the next time, and nowhere when nothing is needed.
    """
    source, commit = git_directory(repo), head_commit(repo)
    cancel = threading.Event()
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="devstral-fix-"))
        repositories = compose.make_repositories(Path(scratch), allow_file=True)
        sandbox = compose.make_sandbox(settings, Path(scratch), repositories)
        model = stack.enter_context(closing(compose.make_model(settings)))
        solver = compose.make_solver(settings, sandbox, repositories, model)
        note(f"isolation={settings.isolation.value}; {solver.model.label}")
        git_dir = repositories.run_dir("local", source)
        try:
            settings_of_repo = config.parse(repositories.read_file(git_dir, commit, config.PATH))
        except config.ConfigError as error:
            raise Permanent(str(error)) from error
        solver = replace(solver, limits=settings_of_repo.limits.within(solver.limits))
        task = solver.task(git_dir, repository=repo.name, number=None, title=title, body=body, commit=commit)
        layers = compose.make_layers(settings)
        key = None
        if set_up and needed(repositories, git_dir, commit, settings_of_repo) is not None:
            note("set-up: installing what the repository needs (--no-setup leaves it out)")
            builder = Builder(
                sandbox=sandbox, repositories=repositories, layers=layers, egress=compose.make_egress(settings)
            )
            key = made(builder, git_dir, str(repo), commit, settings_of_repo)
        attempts: list[Attempt] = []
        usd_low = 0.0
        temperatures = [choice.temperature(solver.sampling.temperature, number) for number in range(samples)]
        kept_at = trajectory or Path(scratch) / "trajectory.jsonl"
        with layer_of(layers, key) as layer:
            for number, temperature in enumerate(temperatures):
                warm = solver.sampling.model_copy(update={"temperature": temperature})
                with _Kept(local_tries.kept_at(kept_at, number), solver.price, note) as journal:
                    attempt = replace(solver, sampling=warm).solve(
                        git_dir,
                        task,
                        journal,
                        cancel,
                        starting=partial(_begin, journal, settings.isolation),
                        layer=layer,
                    )
                    journal.end(attempt.result, attempt.patch)
                attempts.append(attempt)
                usd_low += journal.usd_low
                end = attempt.result
                which = f"agent (try {number + 1} of {samples})" if samples > 1 else "agent"
                note(f"{which}: {end.exit_status.value} after {end.steps} steps ({attempt.reason})")
        with _Kept(Path(scratch) / "critic.jsonl", solver.price, note) as spent:
            named = local_tries.critics_word(solver, task, attempts, spent, cancel, note) if settings.critic else None
        with layer_of(layers, key) as layer:

            def subject(of: Attempt) -> Subject:
                return Subject(
                    git_dir=git_dir, repository=repo.name, patch=of.patch, settings=settings_of_repo, layer=layer
                )

            verifier = Verifier(sandbox=sandbox, repositories=repositories)
            verdicts = local_tries.judge(verifier, subject, attempts, cancel)
        found = local_tries.chosen(attempts, verdicts, named)
        if found.by:
            note(f"best of {samples} tries: try {found.best + 1}, {found.by}")
        return LocalFix(
            attempt=attempts[found.best],
            verdict=verdicts[found.best].verdict,
            evidence=verdicts[found.best].evidence,
            usd_low=usd_low + spent.usd_low,
            others_usd=sum(one.result.usd for one in attempts) - attempts[found.best].result.usd + spent.usd,
            tries=local_tries.described(attempts, verdicts, temperatures, found.best),
        )


def _begin(journal: JsonlJournal, isolation: Isolation, agent: Agent) -> None:
    journal.begin(header(agent, isolation))


def made(builder: Builder, git_dir: Path, name: str, commit: str, settings: RepositoryConfig) -> str | None:
    """The key of the layer. A person waits here, so a failure of before is tried again."""
    builder.layers.forget_failures()
    try:
        key, how = builder.ensure(git_dir, name, commit, settings)
    except SetUpFailed as failed:
        raise NotSetUp("\n".join(filter(None, (str(failed), failed.log)))) from failed
    if how == "busy":
        raise Permanent("another process is making the same set-up now; try again when it is done")
    return key


def work_tree(repo: Path) -> Path:
    """The top of the work tree that `repo` is in; git applies nothing outside the directory it is asked in."""
    done = _ask_git(repo, "rev-parse", "--show-toplevel")
    if done.returncode != 0:
        raise SettingsError(f"--apply: {repo} has no work tree to change")
    return Path(done.stdout.removesuffix("\n"))


def apply_to(top: Path, patch: Patch) -> None:
    """Change the files of the person's own work tree, on their explicit word: all of them, or none."""
    done = subprocess.run(
        ["git", "-C", str(top), "apply", "--binary", "--whitespace=nowarn", "-"],
        env=_environment(),
        input=patch.diff.encode("utf-8", "surrogateescape"),
        capture_output=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise Permanent(f"the patch does not apply to the work tree: {done.stderr.decode(errors='replace')[:500]}")


def summary(result: LocalFix) -> dict[str, Any]:
    """The result as JSON-ready values."""
    agent = result.attempt.result
    return {
        "error": None,
        "outcome": result.verdict.outcome.value,
        "reason": result.verdict.reason,
        "exit_status": agent.exit_status.value,
        "steps": agent.steps,
        "usage": agent.usage.model_dump(),
        "cost_usd": round(agent.usd + result.others_usd, 6),  # as the ledger's columns
        "cost_usd_low": round(result.usd_low, 6),
        "tries": list(result.tries),
        "evidence": [piece.model_dump(mode="json", exclude={"output"}) for piece in result.evidence],
        "files": [change.path for change in result.patch.files],
        "patch": result.patch.diff.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
    }


def failure(error: ServiceError) -> dict[str, Any]:
    """The same where nothing came back: `outcome` is there when the service has a word for it."""
    return {"outcome": Outcome.SETUP_FAILED.value if isinstance(error, NotSetUp) else None, "error": str(error)}
