"""From what an agent left to a verdict: its change by executed tests, an answer without a change by what it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from agent import answer
from agent.evidence import Verdict, decide
from agent.hygiene import check as violations
from agent.outcome import Evidence, Outcome, TestOutcome
from agent.reports import Plan
from agent.tools.text import WORKSPACE
from agent.types import ExitStatus
from worker.errors import RepositoryRefused
from worker.stages.execution import Executor
from worker.stages.verification import Subject, Taken, Verifier, refusal


@dataclass(frozen=True, kw_only=True)
class Judged:
    """`taken`: what was executed, for another try that made the same change."""

    verdict: Verdict
    evidence: tuple[Evidence, ...] = ()
    taken: Taken | None = None


def judged(
    verifier: Verifier,
    subject: Subject,
    exit_status: ExitStatus,
    summary: str,
    *,
    number: int | None,
    cancel: Event,
    record: Callable[[Evidence], None],
    check: Callable[[], None] = lambda: None,
    known: Taken | None = None,
) -> Judged:
    """What comes of a run: refused where its patch may not be proposed, else by executed tests where it has one, by the
    checked answer of the agent where it has none. Each piece of evidence is `record`ed as it comes. BaselineBusy as
    `Verifier.verify`; what `check` raises, once `cancel` is set. `known`: what was executed for the same change."""
    patch, hygiene = subject.patch, subject.settings.hygiene
    existing = verifier.repositories.list_files(subject.git_dir, patch.base_commit)
    if refused := violations(patch, hygiene, existing=existing):
        return Judged(verdict=Verdict(outcome=Outcome.REFUSED, reason=refusal(refused)))
    if subject.patch.empty and exit_status is ExitStatus.SUBMITTED:
        found = _answered(verifier, subject, summary, number=number, cancel=cancel, record=record, check=check)
        if found is not None:
            return found
    taken = known or verifier.verify(subject, cancel=cancel, record=record, check=check)
    verdict = decide(
        exit_status,
        patch_is_empty=subject.patch.empty,
        test_command=subject.settings.test,
        evidence=taken.evidence,
        comparison=taken.comparison,
        doubts=taken.doubts,
    )
    return Judged(verdict=verdict, evidence=taken.evidence, taken=taken)


def _answered(
    verifier: Verifier,
    subject: Subject,
    summary: str,
    *,
    number: int | None,
    cancel: Event,
    record: Callable[[Evidence], None],
    check: Callable[[], None],
) -> Judged | None:
    """None where the summary claims nothing."""
    found = answer.claim(summary)
    if found is None:
        return None
    taken: list[Evidence] = []

    def runs(command: str) -> str | None:
        piece = _executed(verifier, subject, command, cancel, check)
        record(piece)
        taken.append(piece)
        if piece.outcome is TestOutcome.PASSED:
            return None
        return f"ends with {piece.returncode} on the base" if piece.returncode is not None else "comes to no end there"

    verdict = answer.judged(found, own=number, exists=lambda place: _exists(verifier, subject, place), runs=runs)
    return Judged(verdict=verdict, evidence=tuple(taken))


def _exists(verifier: Verifier, subject: Subject, place: str) -> bool:
    base, repositories = subject.patch.base_commit, verifier.repositories
    path = place.removeprefix(f"{WORKSPACE}/").removeprefix("./")
    if path in repositories.list_files(subject.git_dir, base):
        return True
    try:
        return len(place) == len(base) and bool(repositories.resolve(subject.git_dir, place))
    except RepositoryRefused:
        return False


def _executed(verifier: Verifier, subject: Subject, command: str, cancel: Event, check: Callable[[], None]) -> Evidence:
    base = subject.patch.base_commit
    run = Executor(
        sandbox=verifier.sandbox,
        repositories=verifier.repositories,
        limits=verifier.sandbox_limits,
        git_dir=subject.git_dir,
        layer=subject.layer,
        plan=Plan(command=command, form=None),
        timeout=subject.settings.test_timeout_seconds,
        cancel=cancel,
        check=check,
    )(base)[0]
    return Evidence(
        stage="before",
        tree=base,
        **run.model_dump(include={"command", "outcome", "returncode", "seconds", "output"}),
    )
