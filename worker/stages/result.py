"""A run as it stands in the store when it is delivered, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from uuid import UUID

from sqlalchemy.orm import Session

from agent.outcome import Evidence, Patch
from worker.runs import ledger
from worker.stages import texts
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
    )
