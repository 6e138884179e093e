"""Totals of the ledger by day, kept in the transaction of each of its rows, and the proof that both agree."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Date, case, cast, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from agent.types import Usage
from worker.prices import catalogue, context_border
from worker.store.models import Run, Spend
from worker.store.money import SpendDay
from worker.store.room import today

KEY = tuple(SpendDay.__table__.primary_key)
TOKENS = ("prompt_tokens", "cached_tokens", "cache_untold_tokens", "completion_tokens")
SUMS = ("calls", *TOKENS, "usd", "usd_low", "seconds", "gpu_seconds")


def add(
    session: Session,
    run_id: UUID,
    usage: Usage,
    *,
    profile: str,
    model: str,
    amount: Decimal,
    low: Decimal,
    seconds: float,
) -> None:
    """Add one call to today's totals, in the caller's transaction."""
    values: dict[str, Any] = {
        "day": today(),
        "repository": Run.repository,
        "model": literal(model),
        "profile": literal(profile),
        "kind": Run.kind,
        "label": Run.label,
        "context_above": literal(context_border(usage.prompt)),
        "calls": literal(1),
        "prompt_tokens": literal(usage.prompt),
        "cached_tokens": literal(usage.cached),
        "cache_untold_tokens": literal(usage.cache_untold),
        "completion_tokens": literal(usage.completion),
        "usd": literal(amount),
        "usd_low": literal(low),
        "seconds": literal(seconds),
        "gpu_seconds": literal(usage.gpu_seconds or 0.0),
    }
    source = select(*(value.label(name) for name, value in values.items())).where(Run.id == run_id)
    statement = insert(SpendDay).from_select(list(values), source)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=KEY,
            set_={name: getattr(SpendDay, name) + statement.excluded[name] for name in SUMS},
        )
    )


def grouped(
    session: Session, by: Sequence[str], *, since: dt.date | None = None, until: dt.date | None = None
) -> Sequence[Any]:
    """Sums by columns of the key and by `context_above`, in the key's order; `until` is the first day left out."""
    columns = [getattr(SpendDay, name) for name in (*by, "context_above")]
    sums = [func.sum(getattr(SpendDay, name)).label(name) for name in SUMS]
    statement = select(*columns, *sums).group_by(*columns).order_by(*columns)
    if since is not None:
        statement = statement.where(SpendDay.day >= since)
    if until is not None:
        statement = statement.where(SpendDay.day < until)
    return session.execute(statement).all()


def differences(session: Session, *, since: dt.date | None = None) -> list[str]:
    """What the totals say and the ledger's rows don't, in words; reads every row, so it is for a person who asks."""
    day = cast(func.timezone("UTC", Spend.created_at), Date)
    borders = sorted({tier.above for known in catalogue().values() for tier in known.tiers})
    above = func.greatest(*(case((Spend.prompt_tokens > border, border), else_=0) for border in borders))
    keys = [day, Run.repository, Spend.model, Spend.profile, Run.kind, Run.label, above]
    rows = (
        select(
            *keys,
            func.count(),
            *(func.sum(getattr(Spend, name)) for name in (*TOKENS, "usd")),
            func.sum(func.coalesce(Spend.usd_low, Spend.usd)),
        )
        .join(Run, Run.id == Spend.run_id)
        .group_by(*keys)
    )
    kept = select(*KEY, *(getattr(SpendDay, name) for name in ("calls", *TOKENS, "usd", "usd_low")))
    if since is not None:
        rows, kept = rows.where(day >= since), kept.where(SpendDay.day >= since)
    in_rows, in_totals = ({tuple(row[:7]): tuple(row[7:]) for row in session.execute(query)} for query in (rows, kept))
    return [
        f"{' '.join(str(part) for part in key)}: totals {_words(in_totals.get(key))}, rows {_words(in_rows.get(key))}"
        for key in sorted(in_rows.keys() | in_totals.keys())
        if in_rows.get(key) != in_totals.get(key)
    ]


def _words(sums: tuple[Any, ...] | None) -> str:
    if sums is None:
        return "nothing"
    return ", ".join(f"{name}={value}" for name, value in zip(SUMS, sums, strict=False))
