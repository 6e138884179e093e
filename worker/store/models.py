"""The tables. Invariants that the database can hold are constraints here, not habits elsewhere."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, LargeBinary, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from agent.outcome import Outcome
from agent.protocols import Isolation
from agent.types import ExitStatus
from worker.store.base import Base, by_value


class DeliveryState(StrEnum):
    RECEIVED = "received"  #: stored, not looked at yet
    HANDLED = "handled"  #: it became, or changed, a run
    IGNORED = "ignored"  #: nothing to do, and `reason` says why
    FAILED = "failed"  #: our fault, after the last attempt


class RunKind(StrEnum):
    FIX = "fix"
    REVISE = "revise"  #: a pull request of ours is changed, as people who reviewed it ask
    EXPLAIN = "explain"  #: a question is answered in words
    TRIAGE = "triage"


class RunState(StrEnum):
    QUEUED = "queued"  #: waits for a worker
    RUNNING = "running"  #: a worker holds the lease and the agent is at work
    CONCLUDED = "concluded"  #: the agent ended; evidence and delivery are to come
    DELIVERED = "delivered"  #: people have been told
    FAILED = "failed"  #: our fault
    CANCELLED = "cancelled"  #: a person ended it


LIVE = (RunState.QUEUED, RunState.RUNNING, RunState.CONCLUDED)
_LIVE_SQL = text("state IN ('queued', 'running', 'concluded')")


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


def _id() -> Mapped[UUID]:
    # uuidv7() is Postgres 18's: ids sort by time, so indexes grow at one end.
    return mapped_column(primary_key=True, server_default=text("uuidv7()"))


class Delivery(Base):
    """One event from outside; `key` is X-GitHub-Delivery, or a key of our own for sweep, CLI and dashboard."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index(None, "publish_after", postgresql_where=text("state = 'received'")),
        Index("ix_deliveries_repository_issue_number", "repository", "issue_number"),
    )

    id: Mapped[UUID] = _id()
    key: Mapped[str] = mapped_column(unique=True)
    event: Mapped[str]
    action: Mapped[str | None]
    repository: Mapped[str | None]
    issue_number: Mapped[int | None]
    sender: Mapped[str | None]
    body_sha256: Mapped[str]
    request: Mapped[dict[str, Any] | None]
    traceparent: Mapped[str | None]  #: of the trace that it began, where traces are made
    state: Mapped[DeliveryState] = mapped_column(by_value(DeliveryState, "state"))
    reason: Mapped[str | None]
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"))
    attempt: Mapped[int] = mapped_column(server_default="0")
    claimed_until: Mapped[datetime | None]
    publish_after: Mapped[datetime] = _now()
    announced: Mapped[int] = mapped_column(server_default="0")  #: by the sweep since somebody last took it
    received_at: Mapped[datetime] = _now()
    handled_at: Mapped[datetime | None]


class Batch(Base):
    """Many runs asked for at once, with one budget."""

    __tablename__ = "batches"

    id: Mapped[UUID] = _id()
    name: Mapped[str]
    requested_by: Mapped[str]
    budget_usd: Mapped[Decimal | None]
    created_at: Mapped[datetime] = _now()
    finished_at: Mapped[datetime | None]


class Run(Base):
    """One pursuit of one issue. `state` is written by `worker.runs.states` alone."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("uq_runs_live_issue", "repository", "issue_number", "kind", unique=True, postgresql_where=_LIVE_SQL),
        Index("uq_runs_live_branch", "repository", "branch", unique=True, postgresql_where=_LIVE_SQL),
        # A claim reads the oldest run of a lane; runs that are held never come between.
        Index(
            "ix_runs_claim",
            "profile",
            "priority",
            "repository",
            "queued_at",
            "id",
            postgresql_where=text("state = 'queued' AND held_reason IS NULL"),
        ),
        Index("ix_runs_lane", "profile", "priority", "repository", postgresql_where=text("state = 'queued'")),
        Index("ix_runs_stage", "publish_after", postgresql_where=text("state = 'concluded'")),
        Index("ix_runs_concluded", "profile", "concluded_at", postgresql_where=text("concluded_at IS NOT NULL")),
        Index("ix_runs_lease", "lease_expires_at", postgresql_where=text("lease_expires_at IS NOT NULL")),
        Index("ix_runs_repository_state", "repository", "state"),
        Index("ix_runs_issue", "repository", "issue_number"),
        Index("ix_runs_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        CheckConstraint("cached_tokens <= prompt_tokens", name="cached_is_part_of_prompt"),
        CheckConstraint("state <> 'running' OR lease_owner IS NOT NULL", name="running_has_owner"),
    )

    id: Mapped[UUID] = _id()
    kind: Mapped[RunKind] = mapped_column(by_value(RunKind, "kind"), server_default=RunKind.FIX.value)
    state: Mapped[RunState] = mapped_column(by_value(RunState, "state"), server_default=RunState.QUEUED.value)
    outcome: Mapped[Outcome | None] = mapped_column(by_value(Outcome, "outcome"))
    exit_status: Mapped[ExitStatus | None] = mapped_column(by_value(ExitStatus, "exit_status"))
    reason: Mapped[str | None]
    held_reason: Mapped[str | None]

    repository: Mapped[str]
    installation_id: Mapped[int | None]
    clone_url: Mapped[str]
    issue_number: Mapped[int]
    issue_title: Mapped[str]
    issue_body: Mapped[str]
    requested_by: Mapped[str]
    requested_by_id: Mapped[int | None]  #: GitHub's id of that account
    traceparent: Mapped[str | None]
    batch_id: Mapped[UUID | None] = mapped_column(ForeignKey("batches.id"), index=True)
    label: Mapped[str] = mapped_column(server_default="")  #: what asked for it, for the accounts

    base_branch: Mapped[str]
    base_commit: Mapped[str]
    branch: Mapped[str]
    head_commit: Mapped[str | None]  #: where the work begins, if that is not the base: the pull request's commit
    shown_on: Mapped[int | None]  #: number of the pull request that its status comment stands at; null: the issue
    repository_config: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    status_comment_id: Mapped[int | None]
    told_phase: Mapped[str | None]  #: which phase its issue was told of last; `worker.runs.progress`
    told_at: Mapped[datetime | None]
    setup_key: Mapped[str | None]  #: the layer that its sandboxes show; none: the repository needs no set-up
    setup_log: Mapped[str | None]  #: of a set-up that failed: what was blocked, and the tail of what it printed

    profile: Mapped[str]
    model: Mapped[str | None]
    tokenizer: Mapped[str | None]
    isolation: Mapped[Isolation | None] = mapped_column(by_value(Isolation, "isolation"))
    prompt_hash: Mapped[str | None]
    summary: Mapped[str | None]
    chosen: Mapped[int] = mapped_column(server_default="0")  #: the try whose change, summary and end are the run's

    priority: Mapped[int] = mapped_column(server_default="0")
    attempt: Mapped[int] = mapped_column(server_default="0")
    max_attempts: Mapped[int]
    cancel_requested: Mapped[str | None]
    lease_token: Mapped[int] = mapped_column(server_default="0")
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    deliver_after: Mapped[datetime | None]
    publish_after: Mapped[datetime] = _now()
    announced: Mapped[int] = mapped_column(server_default="0")  #: by the sweep since somebody last took it

    calls: Mapped[int] = mapped_column(server_default="0")
    prompt_tokens: Mapped[int] = mapped_column(server_default="0")
    cached_tokens: Mapped[int] = mapped_column(server_default="0")
    #: Of `prompt_tokens`, beside the cached ones: those of which their server doesn't tell whether they were.
    cache_untold_tokens: Mapped[int] = mapped_column(server_default="0")
    completion_tokens: Mapped[int] = mapped_column(server_default="0")
    usd: Mapped[Decimal] = mapped_column(server_default="0")
    usd_low: Mapped[Decimal] = mapped_column(server_default="0")  #: what it cost at least

    @property
    def place(self) -> int:
        """The number of the issue or pull request at which people are told of it."""
        return self.shown_on or self.issue_number

    queued_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    concluded_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Spend(Base):
    """The ledger: one row per model call, never changed. The run's totals move in the same transaction."""

    __tablename__ = "spends"
    __table_args__ = (
        UniqueConstraint("run_id", "sample", "lease_token", "call"),
        CheckConstraint("cached_tokens <= prompt_tokens", name="cached_is_part_of_prompt"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="RESTRICT"))
    sample: Mapped[int] = mapped_column(server_default="0")
    lease_token: Mapped[int]
    call: Mapped[int]
    profile: Mapped[str]
    model: Mapped[str]
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    cache_untold_tokens: Mapped[int] = mapped_column(server_default="0")
    completion_tokens: Mapped[int]
    usd: Mapped[Decimal]
    usd_low: Mapped[Decimal | None]  #: what it cost at least; null in rows from before this was kept
    seconds: Mapped[float]
    gpu_seconds: Mapped[float | None]  #: its share of the GPUs' time, where the engine knows it
    created_at: Mapped[datetime] = _now()


class Patch(Base):
    """What the agent changed, as object-level git saw it. Bytes, since a diff may hold any encoding."""

    __tablename__ = "patches"
    __table_args__ = (UniqueConstraint("run_id", "sample"),)

    id: Mapped[UUID] = _id()
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    sample: Mapped[int] = mapped_column(server_default="0")
    base_commit: Mapped[str]
    tree: Mapped[str]
    diff: Mapped[bytes] = mapped_column(LargeBinary)
    files: Mapped[list[dict[str, Any]]]
    created_at: Mapped[datetime] = _now()


class PullRequest(Base):
    """A pull request of ours; a branch has one, which retries and revisions reuse."""

    __tablename__ = "pull_requests"
    __table_args__ = (UniqueConstraint("repository", "number"), UniqueConstraint("repository", "branch"))

    id: Mapped[UUID] = _id()
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="RESTRICT"))
    repository: Mapped[str]
    issue_number: Mapped[int]
    branch: Mapped[str]
    number: Mapped[int]
    url: Mapped[str]
    state: Mapped[str]
    draft: Mapped[bool]
    head_commit: Mapped[str]
    people_head: Mapped[str | None]  #: the newest commit on its branch that is not ours
    reviewed_at: Mapped[datetime | None]  #: by a person, for the first time
    closed_at: Mapped[datetime | None]  #: merged or not; null while it is open
    merged_at: Mapped[datetime | None]
    merge_commit: Mapped[str | None]
    survived: Mapped[float | None]  #: share of the lines we added that were merged; null: not known
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
