"""The tables of money: what budgets hold and set aside, totals by day, and what is kept from being tried again."""

from __future__ import annotations

import datetime as dt
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Computed,
    Date,
    ForeignKey,
    Identity,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from worker.store.base import Base, by_value
from worker.store.models import RunKind


class Scope(StrEnum):
    """Whose money an account is. In the order in which accounts are locked, the busiest last."""

    RUN = "run"
    BATCH = "batch"
    REPOSITORY = "repository"
    INSTALLATION = "installation"
    GLOBAL = "global"


class Account(Base):
    """What one budget has spent and set aside; `day` (UTC) where the budget is a day's. Without a limit it only counts.

    `refused_usd`, `refused_tokens`: the least that it had no room for. While no more than that is left, nothing is
    started that would have to stop at its first call.
    """

    __tablename__ = "accounts"
    __table_args__ = (
        UniqueConstraint("scope", "key", "day", postgresql_nulls_not_distinct=True),
        Index("ix_accounts_used_up", "scope", "day", "key", postgresql_where=text("used_up")),
        CheckConstraint(
            "spent_usd >= 0 AND reserved_usd >= 0 AND spent_tokens >= 0 AND reserved_tokens >= 0", name="not_negative"
        ),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    scope: Mapped[Scope] = mapped_column(by_value(Scope, "scope"))
    key: Mapped[str]
    day: Mapped[dt.date | None] = mapped_column(Date)
    limit_usd: Mapped[Decimal | None]
    limit_tokens: Mapped[int | None]
    spent_usd: Mapped[Decimal] = mapped_column(server_default="0")
    reserved_usd: Mapped[Decimal] = mapped_column(server_default="0")
    spent_tokens: Mapped[int] = mapped_column(server_default="0")
    reserved_tokens: Mapped[int] = mapped_column(server_default="0")
    refused_usd: Mapped[Decimal | None]
    refused_tokens: Mapped[int | None]
    calls: Mapped[int] = mapped_column(server_default="0")
    used_up: Mapped[bool] = mapped_column(
        Computed(
            "coalesce(spent_usd >= limit_usd, false) OR coalesce(spent_usd + refused_usd > limit_usd, false)"
            " OR coalesce(spent_tokens >= limit_tokens, false)"
            " OR coalesce(spent_tokens + refused_tokens > limit_tokens, false)",
            persisted=True,
        )
    )


class EngineTime(Base):
    """How long a worker's engine had calls in flight in one hour (UTC), and how long none. Seconds by the clock: an
    engine on several GPUs costs `gpus` times as many GPU-seconds."""

    __tablename__ = "engine_time"
    __table_args__ = (Index("ix_engine_time_hour", "hour"),)

    worker: Mapped[str] = mapped_column(primary_key=True)
    profile: Mapped[str] = mapped_column(primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    gpus: Mapped[int]
    busy_seconds: Mapped[float]
    idle_seconds: Mapped[float]


class Reservation(Base):
    """The worst case of one model call that is under way, in these accounts. Gone once it is settled or released."""

    __tablename__ = "reservations"
    __table_args__ = (CheckConstraint("usd >= 0 AND tokens >= 0", name="not_negative"),)

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="RESTRICT"), primary_key=True)
    sample: Mapped[int] = mapped_column(primary_key=True, server_default="0")
    lease_token: Mapped[int] = mapped_column(primary_key=True)
    call: Mapped[int] = mapped_column(primary_key=True)
    accounts: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    usd: Mapped[Decimal]
    tokens: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SpendDay(Base):
    """The sum of ledger rows that agree in all of the key, moved in the transaction of each of them.

    `context_above`: the border of `worker.prices.context_border` that the prompts were above.
    """

    __tablename__ = "spend_days"
    __table_args__ = (CheckConstraint("cached_tokens <= prompt_tokens", name="cached_is_part_of_prompt"),)

    day: Mapped[dt.date] = mapped_column(Date, primary_key=True)
    repository: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    profile: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[RunKind] = mapped_column(by_value(RunKind, "kind"), primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    context_above: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    calls: Mapped[int]
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    cache_untold_tokens: Mapped[int] = mapped_column(server_default="0")
    completion_tokens: Mapped[int]
    usd: Mapped[Decimal]
    usd_low: Mapped[Decimal]
    seconds: Mapped[float]
    gpu_seconds: Mapped[float] = mapped_column(server_default="0")


class Quarantine(Base):
    """An issue, or a whole repository, that is not tried for now. It stands until `until`, or until it is lifted."""

    __tablename__ = "quarantines"
    __table_args__ = (
        Index(
            "uq_quarantines_standing",
            "repository",
            "issue_number",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("lifted_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    repository: Mapped[str]
    issue_number: Mapped[int | None]
    reason: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    until: Mapped[datetime | None]
    lifted_at: Mapped[datetime | None]
    lifted_by: Mapped[str | None]
