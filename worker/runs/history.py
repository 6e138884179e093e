"""What fixes took before: what a forecast goes by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from agent.triage.forecast import ENOUGH, Past
from agent.types import Usage
from worker.store.models import LIVE, Run, RunKind, Spend

NEWEST = 300  # older runs were made by other prompts and models


def fixes(session: Session, repository: str) -> tuple[Sequence[Past], str]:
    """Of fixes that came to an end after at least one call, the newest; and of where they are. Those of the repository
    if they are enough, else those of all. Cancelled and failed ones were paid for, too."""
    spent = (
        select(Spend.run_id, func.sum(Spend.gpu_seconds).label("gpu_seconds"), func.count().label("calls"))
        .group_by(Spend.run_id)
        .subquery()
    )
    ended = (
        select(Run, spent.c.gpu_seconds, spent.c.calls)
        .join(spent, spent.c.run_id == Run.id)
        .where(Run.kind == RunKind.FIX, Run.state.not_in(LIVE))
        .order_by(Run.finished_at.desc().nulls_last(), Run.id.desc())
        .limit(NEWEST)
    )
    here = _past(session, ended.where(func.lower(Run.repository) == repository.lower()))
    if len(here) >= ENOUGH:
        return here, repository
    return _past(session, ended), "all repositories"


def _past(session: Session, statement: Select[Any]) -> list[Past]:
    return [
        Past(
            steps=calls,
            usage=Usage(
                prompt=run.prompt_tokens,
                cached=run.cached_tokens,
                cache_untold=run.cache_untold_tokens,
                completion=run.completion_tokens,
                gpu_seconds=gpu_seconds,
            ),
            usd=float(run.usd),
        )
        for run, gpu_seconds, calls in session.execute(statement)
    ]
