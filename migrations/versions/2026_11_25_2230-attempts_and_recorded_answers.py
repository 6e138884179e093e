"""attempts, and answers as they were recorded

A new table, and columns of `steps` that are empty or 0 in the rows there are: old code keeps running. Leases that are
held while this migrates have no row in the history; they end as they always did.

Revision: c0a5e1f4b7d2, after 7c41e2a90d15, 2026-11-25 22:30:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "c0a5e1f4b7d2"
down_revision = "7c41e2a90d15"
branch_labels = None
depends_on = None

EXIT_STATUSES = ("submitted", "limits_exceeded", "format_errors", "cancelled", "error")
ENDINGS = (
    "concluded", "verified", "delivered", "given back", "failed", "cancelled", "lease lost", "overruled",
)  # fmt: skip


def enum(*values: str, name: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=40)


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("stage", enum("pursue", "verify", "deliver", name="stage"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ending", enum(*ENDINGS, name="ending"), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("counted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("first_step", sa.BigInteger(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("opening", sa.Text(), nullable=True),
        sa.CheckConstraint("(ended_at IS NULL) = (ending IS NULL)", name=op.f("ck_attempts_ended_somehow")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_attempts_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("run_id", "lease_token", name=op.f("uq_attempts_run_id_lease_token")),
    )
    op.create_index("ix_attempts_open", "attempts", ["run_id"], postgresql_where=sa.text("ended_at IS NULL"))
    op.add_column("steps", sa.Column("answer", sa.LargeBinary(), nullable=True))
    op.add_column("steps", sa.Column("finish_reason", sa.Text(), nullable=True))
    op.add_column("steps", sa.Column("elapsed", sa.Float(), server_default="0", nullable=False))
    op.add_column("steps", sa.Column("exit_status", enum(*EXIT_STATUSES, name="exit_status"), nullable=True))
    op.add_column("steps", sa.Column("exit_reason", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    for column in ("exit_reason", "exit_status", "elapsed", "finish_reason", "answer"):
        op.drop_column("steps", column)
    op.drop_table("attempts")
