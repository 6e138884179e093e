"""A run's finished tries as they stand in the store: what is to be judged of them, and which is the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from agent import choice
from agent.choice import Choice
from agent.evidence import Verdict
from agent.outcome import Patch
from agent.types import ExitStatus
from worker.runs import ledger
from worker.store import queries, tries
from worker.store.models import Run


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """`verdict` and `evidence_of` once it was judged."""

    sample: int
    patch: Patch
    exit_status: ExitStatus
    summary: str
    prompt_hash: str | None
    profile: str
    temperature: float | None = None
    named: bool = False
    no_room: bool = False
    verdict: Verdict | None = None
    evidence_of: int | None = None


def of_run(session: Session, run: Run) -> list[Candidate]:
    """In the order in which they began."""
    kept = {number: ledger.stored_patch(row) for number, row in tries.patches(session, run.id).items()}
    return [
        Candidate(
            sample=one.sample,
            patch=kept[one.sample],
            exit_status=one.exit_status,
            summary=one.summary or "",
            prompt_hash=one.prompt_hash,
            profile=one.profile,
            temperature=one.temperature,
            named=one.named is not None,
            no_room=one.no_room,
            verdict=None if one.outcome is None else Verdict(outcome=one.outcome, reason=one.verdict or ""),
            evidence_of=one.evidence_of,
        )
        for one in tries.of_run(session, run.id)
        if one.exit_status is not None and one.sample in kept
    ]


def groups(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Those that are yet to be judged, equal changes together: they are executed once. What changed nothing is judged
    by its own words."""
    found: dict[str | int, list[Candidate]] = {}
    for one in candidates:
        if one.verdict is None:
            found.setdefault(one.sample if one.patch.empty else one.patch.tree, []).append(one)
    return list(found.values())


def judged_before(candidates: Sequence[Candidate], one: Candidate) -> Candidate | None:
    """A try that made the same change, ended in the same way and was judged; in an earlier profile of a cascade."""
    same = (
        other
        for other in candidates
        if other.verdict is not None and other.patch.tree == one.patch.tree and other.exit_status is one.exit_status
    )
    return None if one.patch.empty else next(same, None)


def chosen(session: Session, run: Run, candidates: Sequence[Candidate]) -> Choice:
    """Between those that were judged. ValueError where there is none."""
    weighed = [
        choice.Try(
            number=one.sample,
            patch=one.patch,
            verdict=one.verdict,
            exit_status=one.exit_status,
            evidence=tuple(map(ledger.stored_evidence, queries.evidence(session, run.id, sample=one.sample))),
            named=one.named,
        )
        for one in candidates
        if one.verdict is not None
    ]
    return choice.choose(weighed)
