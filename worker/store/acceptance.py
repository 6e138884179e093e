"""What became of the service's pull requests, by what people want to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, SQLColumnExpression, func, select
from sqlalchemy.orm import Session

from worker.store.models import PullRequest, Run

#: Of the run that delivered last: a revision stands for the pull request that it revised.
KEYS: Mapping[str, SQLColumnExpression[Any]] = MappingProxyType(
    {
        "repository": Run.repository,
        "label": Run.label,
        "model": Run.model,
        "profile": Run.profile,
        "outcome": Run.outcome,
        "prompt": func.left(Run.prompt_hash, 12),
    }
)


def acceptance(session: Session, by: str) -> Sequence[dict[str, Any]]:
    """One row a group, the largest first. Times are hours, null where nothing was measured; `survived` is the mean
    share of added lines that were merged; `usd_per_merged` counts what all runs of the group's branches cost."""
    key = KEYS[by]
    ended = func.extract("epoch", PullRequest.closed_at - PullRequest.created_at) / 3600
    reviewed = func.extract("epoch", PullRequest.reviewed_at - PullRequest.created_at) / 3600
    merged = func.count(PullRequest.merged_at)
    spent = (
        select(func.sum(Run.usd))
        .where(Run.repository == PullRequest.repository, Run.branch == PullRequest.branch)
        .correlate(PullRequest)
        .scalar_subquery()
    )
    statement = (
        select(
            key.label("key"),
            func.count().label("opened"),
            merged.label("merged"),
            (func.count(PullRequest.closed_at) - merged).label("closed"),
            _median(reviewed).label("hours_to_review"),
            _median(ended).label("hours_to_end"),
            func.avg(PullRequest.survived).label("survived"),
            (func.sum(spent) / func.nullif(merged, 0)).label("usd_per_merged"),
            func.count(PullRequest.people_head).label("changed_by_people"),
        )
        .join(Run, Run.id == PullRequest.run_id)
        .group_by(key)
        .order_by(func.count().desc(), key)
    )
    return [_row(dict(row)) for row in session.execute(statement).mappings()]


def _median(value: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.percentile_cont(0.5).within_group(value)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    ended = row["merged"] + row["closed"]
    numbers = {
        name: None if row[name] is None else round(float(row[name]), 4)
        for name in ("hours_to_review", "hours_to_end", "survived", "usd_per_merged")
    }
    return {
        **row,
        **numbers,
        "key": "" if row["key"] is None else str(row["key"]),
        "open": row["opened"] - ended,
        "accepted": round(row["merged"] / ended, 4) if ended else None,
    }
