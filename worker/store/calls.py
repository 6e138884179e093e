"""What a step keeps of its model call beside the answer: where the time went, what was mended, the ids themselves."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ARRAY, Date, LargeBinary, Text, cast, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column


class CallColumns:
    """Of steps. All are null in rows from before they were kept; the times also where the model's server tells none."""

    model: Mapped[str | None]  #: its label, with its version: a run may go on with another one
    turn_seconds: Mapped[float | None]  #: until the engine's memory had room for the call
    queue_seconds: Mapped[float | None]  #: in the engine, before it was first scheduled
    first_token_seconds: Mapped[float | None]  #: from submission, the queue included
    decode_seconds: Mapped[float | None]
    gpu_seconds: Mapped[float | None]  #: as in the ledger
    again_tokens: Mapped[int | None]  #: of the prompt, computed again
    repairs: Mapped[list[str] | None] = mapped_column(ARRAY(Text))  #: kinds; null: the answer was not read
    malformed: Mapped[int | None]  #: calls that could not be understood
    generated: Mapped[bytes | None] = mapped_column(LargeBinary)  #: see `agent.generated`
    vocabulary: Mapped[str | None]  #: that they are ids of


def answers_by_model(
    session: Session, *, since: dt.date | None = None, until: dt.date | None = None
) -> Sequence[dict[str, Any]]:
    """How many answers of each model were read, and how many of them had to be mended (also by kind, answers each) or
    hold calls that nobody could understand. By days (UTC); `until` is the first one left out."""
    from worker.store.models import Step  # noqa: PLC0415 - its table is made of these columns

    day = cast(func.timezone("UTC", Step.created_at), Date)
    chosen = [Step.repairs.is_not(None), *([day >= since] if since else []), *([day < until] if until else [])]
    model = func.coalesce(Step.model, "").label("model")
    sums = session.execute(
        select(
            model,
            func.count().label("answers"),
            func.count().filter(func.cardinality(Step.repairs) > 0).label("repaired"),
            func.count().filter(Step.malformed > 0).label("malformed"),
        )
        .where(*chosen)
        .group_by(model)
        .order_by(model)
    )
    kind = func.unnest(Step.repairs).alias("kind", joins_implicitly=True).column
    kinds = session.execute(
        select(model, kind, func.count(Step.id.distinct())).where(*chosen).group_by(model, kind).order_by(model, kind)
    ).all()
    return [
        {**row._asdict(), "kinds": {name: count for label, name, count in kinds if label == row.model}} for row in sums
    ]
