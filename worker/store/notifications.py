"""The outbox of the notification hook: what an operator's own systems are to be told, once each."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.store.base import Base


class Notification(Base):
    """One thing to tell. `key` says what it is about, so that it is told once however often it is noticed."""

    __tablename__ = "notifications"
    __table_args__ = (Index(None, "publish_after", postgresql_where=text("ended_at IS NULL")),)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    key: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]]
    attempt: Mapped[int] = mapped_column(server_default="0")
    publish_after: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    reason: Mapped[str | None]  #: why it ended without being taken, or what the last try got
