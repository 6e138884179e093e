"""What people said about pull requests of ours, and questions they asked: each once, by where it was said."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from worker.store.base import Base, by_value


class RemarkSource(StrEnum):
    COMMENT = "comment"  #: below the issue or the pull request
    REVIEW = "review"  #: the words of a review as a whole
    REVIEW_COMMENT = "review_comment"  #: at lines of the change
    CHECK = "check"  #: a failing check of continuous integration


class RemarkRow(Base):
    """`number`: of the pull request, or the issue, it was said at; `source_id`: GitHub's id of what was said. Without a
    run it waits for the next one."""

    __tablename__ = "remarks"
    __table_args__ = (
        UniqueConstraint("repository", "source", "source_id"),
        Index(None, "run_id"),
        Index("ix_remarks_waiting", "repository", "number", postgresql_where=text("run_id IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuidv7()"))
    repository: Mapped[str]  #: in lower case
    number: Mapped[int]
    source: Mapped[RemarkSource] = mapped_column(by_value(RemarkSource, "source"))
    source_id: Mapped[int]
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    author: Mapped[str]
    body: Mapped[str]
    path: Mapped[str | None]
    line: Mapped[int | None]
    hunk: Mapped[str] = mapped_column(server_default="")
    head: Mapped[str | None]  #: of a check: the commit that it failed on
    answer: Mapped[str | None]  #: what the agent said to it
    answered_at: Mapped[datetime | None]  #: when that was posted
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
