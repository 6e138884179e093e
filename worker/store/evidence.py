"""What the service executed to judge a change, and how a commit's tests end before any change."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, LargeBinary, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from agent.outcome import TestOutcome
from worker.store.base import Base, by_value


class Evidence(Base):
    """One execution of the test command by the service itself, never by the agent."""

    __tablename__ = "evidence"
    __table_args__ = (UniqueConstraint("run_id", "sample", "lease_token", "stage"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    sample: Mapped[int] = mapped_column(server_default="0")  #: the try whose change it is of
    lease_token: Mapped[int]
    stage: Mapped[str]
    tree: Mapped[str]
    command: Mapped[str]
    outcome: Mapped[TestOutcome] = mapped_column(by_value(TestOutcome, "outcome"))
    returncode: Mapped[int | None]
    seconds: Mapped[float]
    output: Mapped[str]
    counts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  #: tests by outcome; none: unknown
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))  #: `agent.outcome.Detail`
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Baseline(Base):
    """One execution of a test command on a commit, kept for every run that begins there. While `taken_at` is null,
    whoever has the `claim` is at it."""

    __tablename__ = "baselines"
    __table_args__ = (UniqueConstraint("repository", "commit", "setup_key", "digest"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    repository: Mapped[str]  #: in lower case
    commit: Mapped[str]
    setup_key: Mapped[str]  #: the layer's; empty: none is needed
    digest: Mapped[str]  #: of what is executed, and under which limits
    claim: Mapped[UUID]
    claimed_until: Mapped[datetime]  #: whoever claimed it is taken for lost after this
    taken_at: Mapped[datetime | None]
    keep_until: Mapped[datetime | None]  #: of what may end otherwise next time; null: for good
    command: Mapped[str | None]
    outcome: Mapped[TestOutcome | None] = mapped_column(by_value(TestOutcome, "outcome"))
    returncode: Mapped[int | None]
    seconds: Mapped[float | None]
    output: Mapped[str | None]
    note: Mapped[str | None]
    cases: Mapped[bytes | None] = mapped_column(LargeBinary)  #: compressed JSON, outcome by test id; null: unknown
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
