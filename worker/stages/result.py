"""A run as it stands in the store when it is delivered, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from uuid import UUID

from sqlalchemy.orm import Session

from agent.outcome import Evidence, Patch
from worker.runs import ledger
from worker.stages import candidates, texts
from worker.stages.candidates import Candidate
from worker.store import queries, trajectories
from worker.store.models import Run
from worker.store.session import Store


@dataclass(frozen=True, kw_only=True)
class Result:
    run: Run
    patch: Patch | None
    evidence: tuple[Evidence, ...]
    known_heads: frozenset[str]
    models: Mapping[str, int]  #: who made its calls, and how many each
    tries: str = ""  #: which of several tries this is, and what became of the others; empty where there was one

    @property
    def footer(self) -> str:
        run = self.run
        return texts.accounting(
            ledger.usage(run),
            (run.usd_low, run.usd),
            calls=run.calls,
            model=run.model or "none",
            tokenizer=run.tokenizer or "",
            isolation=run.isolation.value if run.isolation else "none",
            harness=self._harness,
            others={model: calls for model, calls in self.models.items() if model != run.model},
        )

    @property
    def _harness(self) -> str:
        """What else it depends on, and where every step of it is."""
        prompts = "" if self.run.prompt_hash is None else f", prompts {self.run.prompt_hash[:12]}"
        return (
            f" Harness: devstral-fix {version('devstral-fix')}{prompts}. Steps: `devstral-fix inspect {self.run.id}`."
        )


def read(store: Store, run_id: UUID) -> Result:
    with store.transaction() as session:
        return of(session, run_id)


def of(session: Session, run_id: UUID) -> Result:
    run = session.get_one(Run, run_id, populate_existing=True)
    row = queries.patch(session, run_id)
    rows = queries.evidence(session, run_id)
    known = queries.pushed_heads(session, run.repository, run.branch)
    models = trajectories.models(session, run_id)
    return Result(
        run=run,
        patch=None if row is None else ledger.stored_patch(row),
        evidence=tuple(map(ledger.stored_evidence, rows)),
        known_heads=known,
        models=models,
        tries=_tries(session, run),
    )


def _tries(session: Session, run: Run) -> str:
    judged = [one for one in candidates.of_run(session, run) if one.verdict is not None]
    if len(judged) < 2:
        return ""
    by = candidates.chosen(session, run, judged).by
    best = next(one for one in judged if one.sample == run.chosen)
    others = [(one, not one.patch.empty and one.patch.tree == best.patch.tree) for one in judged if one is not best]
    told = [f"try {one.sample + 1} ({_made(one)}): {'the same change' if same else _end(one)}" for one, same in others]
    return f"Best of {len(judged)} tries: try {best.sample + 1} ({_made(best)}), {by}. Others: {'; '.join(told)}."


def _made(one: Candidate) -> str:
    return one.profile if one.temperature is None else f"{one.profile}, temperature {one.temperature:g}"


def _end(one: Candidate) -> str:
    assert one.verdict is not None
    return one.verdict.outcome.value
