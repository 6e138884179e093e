"""engines in workers: when a worker became ready, and its engine's busy and idle time by the hour

Old code keeps running; a worker of it that starts after this shows as starting.

Revision: 4f9b1e6d2a73, after 8e41d7b2c905, 2026-11-26 07:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "4f9b1e6d2a73"
down_revision = "8e41d7b2c905"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE workers SET ready_at = started_at")
    op.create_table(
        "engine_time",
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gpus", sa.BigInteger(), nullable=False),
        sa.Column("busy_seconds", sa.Float(), nullable=False),
        sa.Column("idle_seconds", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("worker", "profile", "hour", name=op.f("pk_engine_time")),
    )
    op.create_index("ix_engine_time_hour", "engine_time", ["hour"])


def downgrade() -> None:
    op.drop_table("engine_time")
    op.drop_column("workers", "ready_at")
