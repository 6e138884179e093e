"""Several tries of one local fix: which of them is the best, as for a run of the service."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from agent import choice, critic
from agent.choice import Choice
from agent.errors import LimitsExceeded
from agent.protocols import Journal
from agent.types import Task
from worker.errors import ServiceError
from worker.stages.attempt import Attempt, Solver
from worker.stages.judging import Judged, judged
from worker.stages.verification import Subject, Taken, Verifier

CRITIC_SECONDS = 300.0


def kept_at(path: Path, number: int) -> Path:
    """Where the trajectory of a try is kept, counted from 0: the first one at the path itself."""
    return path if number == 0 else path.with_name(f"{path.stem}-{number + 1}{path.suffix}")


def critics_word(
    solver: Solver,
    task: Task,
    attempts: Sequence[Attempt],
    journal: Journal,
    cancel: Event,
    note: Callable[[str], None],
) -> int | None:
    """Which try the model names, where they made changes that differ; None where it can't say."""
    patches = {number: attempt.patch for number, attempt in enumerate(attempts)}
    differ = choice.distinct(patches)
    if len(differ) < 2:
        return None
    try:
        opinion = critic.ask(
            solver.model,
            task,
            {number: patches[number] for number in differ},
            journal=journal,
            limits=solver.limits,
            price=solver.price,
            deadline=time.monotonic() + CRITIC_SECONDS,
            cancel=cancel,
        )
    except (ServiceError, LimitsExceeded) as error:
        note(f"the tries were not compared by the model: {error}")
        return None
    return None if opinion is None else opinion.number


def judge(
    verifier: Verifier, subject: Callable[[Attempt], Subject], attempts: Sequence[Attempt], cancel: Event
) -> list[Judged]:
    """Each distinct change is executed once."""
    taken: dict[str, Taken | None] = {}
    verdicts = []
    for attempt in attempts:
        end, tree = attempt.result, attempt.patch.tree
        found = judged(
            verifier,
            subject(attempt),
            end.exit_status,
            end.summary,
            number=None,
            cancel=cancel,
            record=lambda _: None,
            known=None if attempt.patch.empty else taken.get(tree),
        )
        taken[tree] = found.taken
        verdicts.append(found)
    return verdicts


def chosen(attempts: Sequence[Attempt], verdicts: Sequence[Judged], named: int | None) -> Choice:
    return choice.choose(
        [
            choice.Try(
                number=number,
                patch=attempt.patch,
                verdict=found.verdict,
                exit_status=attempt.result.exit_status,
                evidence=found.evidence,
                named=number == named,
            )
            for number, (attempt, found) in enumerate(zip(attempts, verdicts, strict=True))
        ]
    )


def described(
    attempts: Sequence[Attempt], verdicts: Sequence[Judged], temperatures: Sequence[float], best: int
) -> tuple[dict[str, Any], ...]:
    """JSON-ready; nothing where there was one try."""
    if len(attempts) < 2:
        return ()
    return tuple(
        {
            "number": number + 1,
            "temperature": temperature,
            "outcome": found.verdict.outcome.value,
            "exit_status": attempt.result.exit_status.value,
            "steps": attempt.result.steps,
            "cost_usd": round(attempt.result.usd, 6),
            "chosen": number == best,
        }
        for number, (attempt, found, temperature) in enumerate(zip(attempts, verdicts, temperatures, strict=True))
    )
