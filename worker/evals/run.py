"""An eval: each instance solved by the agent and scored in the sandbox, several at once, going on where it ended."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from agent.outcome import Patch
from agent.protocols import Isolation
from agent.telemetry import telemetry
from agent.trajectory import JsonlJournal, header
from agent.types import Price, Step, Usage
from worker import compose
from worker.errors import Permanent, SettingsError, ShuttingDown, Transient
from worker.evals.instances import Instance
from worker.evals.results import Result, Store
from worker.evals.scoring import Scorer, layer_of
from worker.local import git_directory
from worker.settings import Settings
from worker.stages.attempt import Solver


class _Watched(JsonlJournal):
    """A trajectory's file that also counts what the results tell of it."""

    def __init__(self, path: Path, price: Price) -> None:
        super().__init__(path)
        self._price = price
        self.usd_low = 0.0
        self.steps: list[Step] = []

    def spend(self, call: int, usage: Usage, usd: float, seconds: float) -> None:
        self.usd_low += self._price.call(usage)[0]
        super().spend(call, usage, usd, seconds)

    def step(self, step: Step) -> None:
        self.steps.append(step)
        super().step(step)


@dataclass(frozen=True)
class _Eval:
    solver: Solver
    scorer: Scorer
    store: Store
    isolation: Isolation
    cancel: threading.Event

    def one(self, instance: Instance) -> Result:
        """What came of it, kept. Permanent errors are the instance's result; Transient ones pass, as does what was
        broken off (ShuttingDown): it has none, and is tried again later."""
        try:
            result = self._solved(instance)
        except Permanent as error:
            label = self.solver.model.label
            words = f"{type(error).__name__}: {error}"[:500]
            result = Result(instance_id=instance.instance_id, model=label, resolved=False, error=words)
        self.store.add(result)
        return result

    def _solved(self, instance: Instance) -> Result:
        solver, repositories = self.solver, self.solver.repositories
        run = "eval-" + hashlib.sha256(instance.instance_id.encode()).hexdigest()[:16]
        git_dir = repositories.run_dir(run, git_directory(instance.repo))
        task = solver.task(
            git_dir,
            repository=instance.repo.name.removesuffix(".git"),
            number=None,
            title=instance.title,
            body=instance.body,
            commit=repositories.resolve(git_dir, instance.base_commit),
        )
        with _Watched(self.store.trajectory(instance.instance_id), solver.price) as journal:
            attempt = solver.solve(
                git_dir,
                task,
                journal,
                self.cancel,
                starting=lambda agent: journal.begin(header(agent, self.isolation)),
                layer=layer_of(instance),
            )
            journal.end(attempt.result, attempt.patch)
        if self.cancel.is_set():
            raise ShuttingDown("broken off")
        diff = _text(attempt.patch)
        score = self.scorer.score(instance, git_dir, attempt.patch.diff, self.cancel)
        end = attempt.result
        return Result(
            instance_id=instance.instance_id,
            model=solver.model.label,
            prompt_hash=attempt.prompt_hash,
            resolved=score.resolved,
            failing=score.failing,
            worse=score.worse,
            exit_status=end.exit_status.value,
            reason=end.reason,
            steps=end.steps,
            usage=end.usage,
            usd=end.usd,
            usd_low=journal.usd_low,
            seconds=end.seconds,
            telemetry=telemetry(journal.steps, end.exit_status),
            patch=diff,
            error=score.problem,
        )


def evaluate(
    settings: Settings,
    instances: Sequence[Instance],
    store: Store,
    *,
    parallel: int,
    told: Callable[[Result], None],
) -> None:
    """Everything that has no result yet. `told` hears of each result, in this thread. Raises the first Transient error
    once the others at work are done; what was finished by then is kept. Interrupted, it breaks off what is at work, and
    comes back once nothing of it is left."""
    waiting = [instance for instance in instances if instance.instance_id not in store.results]
    if not waiting:
        return
    cancel = threading.Event()
    with tempfile.TemporaryDirectory(prefix="devstral-fix-") as name:
        scratch = Path(name)
        repositories = compose.make_repositories(scratch, allow_file=True)
        sandbox = compose.make_sandbox(settings, scratch, repositories)
        with closing(compose.make_model(settings)) as model:
            solver = compose.make_solver(settings, sandbox, repositories, model)
            _same(store, solver.model.label)
            scorer = Scorer(sandbox=sandbox, repositories=repositories)
            work = _Eval(solver, scorer, store, settings.isolation, cancel)
            with ThreadPoolExecutor(max_workers=parallel) as pool:
                try:
                    _drain([pool.submit(work.one, instance) for instance in waiting], told)
                except BaseException:
                    cancel.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise


def _drain(futures: list[Future[Result]], told: Callable[[Result], None]) -> None:
    pending = set(futures)
    failed: Transient | None = None
    while pending:
        done, pending = wait(pending, return_when="FIRST_COMPLETED")
        for future in done:
            if future.cancelled():
                continue
            try:
                result = future.result()
            except Transient as error:
                failed = failed or error
                for other in pending:
                    other.cancel()
                continue
            told(result)
    if failed is not None:
        raise failed


def _same(store: Store, label: str) -> None:
    """An eval is of one model: its results would be averaged over two."""
    others = {result.model for result in store.results.values()} - {label}
    if others:
        raise SettingsError(
            f"{store.folder} has results of {', '.join(sorted(others))}; name another --output for {label}"
        )


def _text(patch: Patch) -> str:
    return patch.diff.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
