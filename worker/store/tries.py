"""The tries of a run: trajectories of the same task, of which the best is delivered. A run of one try has one row.

What a try has spent is the ledger's to say: its rows carry the try's number as `sample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, func, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from agent.outcome import Outcome
from agent.types import ExitStatus, Usage
from worker.store.base import Base, by_value
from worker.store.models import Patch, Spend

CRITIC = -1  #: `sample` of what the comparison of a run's tries has spent, which is no try's


class Try(Base):
    """`sample` counts from 0 over all profiles that the run was tried with. The fields up to `opening` are written as
    it begins, those up to `no_room` as its agent ends, the rest once its change was judged."""

    __tablename__ = "tries"
    __table_args__ = (
        CheckConstraint("(ended_at IS NULL) = (exit_status IS NULL)", name="ended_somehow"),
        CheckConstraint("outcome IS NULL OR ended_at IS NOT NULL", name="judged_after_its_end"),
    )

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    sample: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    profile: Mapped[str]
    temperature: Mapped[float | None]  #: null in rows of runs from before they were kept
    began: Mapped[int]  #: the lease token with which its present trajectory began
    model: Mapped[str]
    opening: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())

    ended_at: Mapped[datetime | None]
    exit_status: Mapped[ExitStatus | None] = mapped_column(by_value(ExitStatus, "exit_status"))
    reason: Mapped[str | None]
    summary: Mapped[str | None]
    prompt_hash: Mapped[str | None]
    no_room: Mapped[bool] = mapped_column(server_default=text("false"))  #: a budget ended it that others share

    named: Mapped[str | None]  #: why the critic named it as the best one; null: it did not
    outcome: Mapped[Outcome | None] = mapped_column(by_value(Outcome, "outcome"))
    verdict: Mapped[str | None]  #: the outcome's reason, for people
    evidence_of: Mapped[int | None]  #: the try of an equal change whose evidence is this one's, too


class Cost(NamedTuple):
    calls: int
    usage: Usage
    usd: Decimal


def of_run(session: Session, run_id: UUID) -> Sequence[Try]:
    """In the order in which they began."""
    statement = select(Try).where(Try.run_id == run_id).order_by(Try.sample)
    return session.scalars(statement.execution_options(populate_existing=True)).all()


def patches(session: Session, run_id: UUID) -> dict[int, Patch]:
    """What each of them changed, as far as it has ended."""
    return {row.sample: row for row in session.scalars(select(Patch).where(Patch.run_id == run_id))}


def costs(session: Session, run_id: UUID) -> dict[int, Cost]:
    """What each of them has spent, whatever became of its steps; the critic's under its own number."""
    sums = [
        func.sum(column)
        for column in (Spend.prompt_tokens, Spend.cached_tokens, Spend.cache_untold_tokens, Spend.completion_tokens)
    ]
    rows = session.execute(
        select(Spend.sample, func.count(), *sums, func.sum(Spend.usd))
        .where(Spend.run_id == run_id)
        .group_by(Spend.sample)
    )
    return {
        row[0]: Cost(
            row[1],
            Usage(prompt=int(row[2]), cached=int(row[3]), cache_untold=int(row[4]), completion=int(row[5])),
            Decimal(row[6]),
        )
        for row in rows
    }
