"""lanes, and how often something was announced

The tables are filled from the queue here; old code keeps running, only slower (its claims don't use lanes).

Revision: 7c41e2a90d15, after 5d2a90c3b114, 2026-11-25 22:30:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "7c41e2a90d15"
down_revision = "5d2a90c3b114"
branch_labels = None
depends_on = None

QUEUED = sa.text("state = 'queued'")


def upgrade() -> None:
    op.create_table(
        "lanes",
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("priority", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("last_claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("profile", "priority", "repository", name=op.f("pk_lanes")),
    )
    op.create_index(
        "ix_lanes_order",
        "lanes",
        ["profile", sa.text("priority DESC"), sa.text("last_claimed_at ASC NULLS FIRST"), "opened_at", "repository"],
        unique=False,
    )
    op.create_table(
        "permits",
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("announced", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("publish_after", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("profile", name=op.f("pk_permits")),
    )
    for table in ("runs", "deliveries"):
        op.add_column(table, sa.Column("announced", sa.BigInteger(), server_default="0", nullable=False))
    op.drop_index("ix_runs_claim", table_name="runs", postgresql_where=QUEUED)
    op.create_index(
        "ix_runs_claim",
        "runs",
        ["profile", "priority", "repository", "queued_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND held_reason IS NULL"),
    )
    op.create_index(
        "ix_runs_lane", "runs", ["profile", "priority", "repository"], unique=False, postgresql_where=QUEUED
    )
    op.create_index(
        "ix_runs_stage", "runs", ["publish_after"], unique=False, postgresql_where=sa.text("state = 'concluded'")
    )
    op.create_index(
        "ix_runs_concluded",
        "runs",
        ["profile", "concluded_at"],
        unique=False,
        postgresql_where=sa.text("concluded_at IS NOT NULL"),
    )
    op.execute(
        "INSERT INTO lanes (profile, priority, repository)"
        " SELECT DISTINCT profile, priority, repository FROM runs WHERE state = 'queued'"
    )


def downgrade() -> None:
    op.drop_index("ix_runs_concluded", table_name="runs", postgresql_where=sa.text("concluded_at IS NOT NULL"))
    op.drop_index("ix_runs_stage", table_name="runs", postgresql_where=sa.text("state = 'concluded'"))
    op.drop_index("ix_runs_lane", table_name="runs", postgresql_where=QUEUED)
    op.drop_index("ix_runs_claim", table_name="runs", postgresql_where=QUEUED)
    op.create_index(
        "ix_runs_claim", "runs", ["profile", "priority", "queued_at"], unique=False, postgresql_where=QUEUED
    )
    op.drop_column("deliveries", "announced")
    op.drop_column("runs", "announced")
    op.drop_table("permits")
    op.drop_table("lanes")
