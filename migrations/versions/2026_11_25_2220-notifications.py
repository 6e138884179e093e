"""notifications, and the trace of a delivery and its run

A table of its own, and columns that may be empty: old code keeps running.

Revision: 5d2a90c3b114, after 3b1c5d6e7f20, 2026-11-25 22:20:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "5d2a90c3b114"
down_revision = "3b1c5d6e7f20"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("publish_after", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_notifications"),
        sa.UniqueConstraint("key", name="uq_notifications_key"),
    )
    op.create_index(
        "ix_notifications_publish_after",
        "notifications",
        ["publish_after"],
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    for table in ("deliveries", "runs"):
        op.add_column(table, sa.Column("traceparent", sa.Text(), nullable=True))


def downgrade() -> None:
    for table in ("deliveries", "runs"):
        op.drop_column(table, "traceparent")
    op.drop_table("notifications")
