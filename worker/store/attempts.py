"""The history of a run: one row per lease, written in the claim's transaction and closed in the end's."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.store.base import Base, by_value


class AttemptStage(StrEnum):
    PURSUE = "pursue"
    VERIFY = "verify"
    DELIVER = "deliver"


class AttemptEnd(StrEnum):
    CONCLUDED = "concluded"
    VERIFIED = "verified"
    DELIVERED = "delivered"
    GIVEN_BACK = "given back"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LEASE_LOST = "lease lost"  #: its worker was not heard of any more
    OVERRULED = "overruled"  #: an operator or the sweep moved the run under it


class Attempt(Base):
    """One lease on a run: who worked on which stage of it, from when to when, and how that ended.

    `counted`: against `max_attempts`. The last three are of the stage `pursue`: the index of the first step that is
    this attempt's own (0: it began anew; none: it ended before that was known), and what had to be the same for it to
    go on from earlier steps.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("run_id", "lease_token"),
        Index("ix_attempts_open", "run_id", postgresql_where=text("ended_at IS NULL")),
        CheckConstraint("(ended_at IS NULL) = (ending IS NULL)", name="ended_somehow"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    lease_token: Mapped[int]
    stage: Mapped[AttemptStage] = mapped_column(by_value(AttemptStage, "stage"))
    owner: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    ending: Mapped[AttemptEnd | None] = mapped_column(by_value(AttemptEnd, "ending"))
    reason: Mapped[str | None]
    counted: Mapped[bool] = mapped_column(server_default=text("false"))
    note: Mapped[str | None]  #: how it began, where that needs words
    first_step: Mapped[int | None]
    model: Mapped[str | None]
    opening: Mapped[str | None]
