"""The time of engines by the hour: with calls in flight, and without. What calls were booked with is the busy part."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Date, cast, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from worker.store.money import EngineTime


def add(session: Session, worker: str, profile: str, *, gpus: int, busy: float, idle: float) -> None:
    """Seconds that passed since the last time, counted to the hour (UTC) of now."""
    hour = func.date_trunc("hour", func.now(), "UTC")
    statement = insert(EngineTime).values(
        worker=worker, profile=profile, hour=hour, gpus=gpus, busy_seconds=busy, idle_seconds=idle
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=tuple(EngineTime.__table__.primary_key),
            set_={
                "gpus": statement.excluded.gpus,
                "busy_seconds": EngineTime.busy_seconds + statement.excluded.busy_seconds,
                "idle_seconds": EngineTime.idle_seconds + statement.excluded.idle_seconds,
            },
        )
    )


def idle(
    session: Session, by: Sequence[str], *, since: dt.date | None = None, until: dt.date | None = None
) -> Sequence[Any]:
    """Idle GPU-seconds by `day` or `profile`, or both, in the groups' order; `until` is the first day left out."""
    day = cast(func.timezone("UTC", EngineTime.hour), Date)
    known: dict[str, Any] = {"day": day, "profile": EngineTime.profile}
    columns = [known[name].label(name) for name in by]
    total = func.sum(EngineTime.idle_seconds * EngineTime.gpus).label("gpu_seconds")
    statement = select(*columns, total).group_by(*columns).order_by(*columns).having(func.count() > 0)
    if since is not None:
        statement = statement.where(day >= since)
    if until is not None:
        statement = statement.where(day < until)
    return session.execute(statement).all()
