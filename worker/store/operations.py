"""Tables about running the service: its processes, what is switched off, and which commits it pushed."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ForeignKey, Identity, UniqueConstraint, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from worker.store.base import Base, by_value


class Then(StrEnum):
    """What a drained worker does."""

    STAY = "stay"  #: idles
    STOP = "stop"  #: ends, and is not started again by `up`
    RESTART = "restart"  #: ends with a status that makes any supervisor start it again, with the settings of then


class WorkerProcess(Base):
    """One worker process. `name` is what leases are held under."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text))
    profile: Mapped[str]
    slots: Mapped[int]
    isolation: Mapped[str]
    version: Mapped[str]
    model: Mapped[str | None]  #: what it serves, as ledger rows name it; a gpu worker's, once that is open
    lease_seconds: Mapped[float]  #: not seen for so long: lost
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ready_at: Mapped[datetime | None]  #: when it began to take messages
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    drain_requested_by: Mapped[str | None]
    drain_requested_at: Mapped[datetime | None]
    drain_until: Mapped[datetime | None]  #: from then on it hands back what it still holds; null: it may take its time
    drain_then: Mapped[Then | None] = mapped_column(by_value(Then, "drain_then"))
    ending_at: Mapped[datetime | None]  #: when it began to end because it was drained: too late to undo
    stopped_at: Mapped[datetime | None]
    failure: Mapped[str | None]  #: why it ended, or never started, where nobody asked for it


class Switch(Base):
    """A pause: of everything (`scope` is `*`) or of one repository (its name in lower case)."""

    __tablename__ = "switches"

    scope: Mapped[str] = mapped_column(primary_key=True)
    requested_by: Mapped[str]
    reason: Mapped[str | None]
    at_once: Mapped[bool]  #: what runs is given back at the end of its step
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Push(Base):
    """A commit that this service made for a branch, noted before it was pushed: only such a head is ever replaced."""

    __tablename__ = "pushes"
    __table_args__ = (UniqueConstraint("repository", "branch", "commit"),)

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    repository: Mapped[str]
    branch: Mapped[str]
    commit: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
