"""Steps of trajectories, each with what is kept of its model call: where the time went, what was mended, the ids."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Date, ForeignKey, Identity, LargeBinary, Text, UniqueConstraint, cast, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from agent.types import ExitStatus
from worker.store.base import Base, by_value


class Step(Base):
    """One turn of a trajectory, written as it happened, under the lease it happened in.

    After a fresh start an index is there twice: `queries.steps` reads one trajectory."""

    __tablename__ = "steps"
    __table_args__ = (UniqueConstraint("run_id", "sample", "lease_token", "index"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    sample: Mapped[int] = mapped_column(server_default="0")
    lease_token: Mapped[int]
    index: Mapped[int]
    thought: Mapped[str]
    note: Mapped[str] = mapped_column(server_default="")
    actions: Mapped[list[dict[str, Any]]]
    tree: Mapped[str | None]
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    cache_untold_tokens: Mapped[int] = mapped_column(server_default="0")  #: of the prompt, where no cache is told of
    completion_tokens: Mapped[int]
    usd: Mapped[Decimal]
    model_seconds: Mapped[float]
    #: The answer's JSON in ASCII. Bytes, since text here can't hold all that a model writes, and it has to come back
    #: exactly. None: recorded before there was this column; such a step can't be gone on from.
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    finish_reason: Mapped[str | None]
    elapsed: Mapped[float] = mapped_column(server_default="0")
    exit_status: Mapped[ExitStatus | None] = mapped_column(by_value(ExitStatus, "exit_status"))
    exit_reason: Mapped[str] = mapped_column(server_default="")
    #: The conversation began anew after this step: its first user message.
    compacted: Mapped[str | None]
    created_at: Mapped[dt.datetime] = mapped_column(server_default=func.now())

    # Of its model call. All are null in rows from before they were kept; the times also where the model's server tells
    # none.
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
