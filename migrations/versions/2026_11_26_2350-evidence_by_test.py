"""how a commit's tests end before any change, kept for all its runs; what evidence says test by test

Old code keeps running: the evidence that it records says nothing test by test.

Revision: c41f7d6e0a95, after b41f0d9c7a63, 2026-11-26 23:50:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "c41f7d6e0a95"
down_revision = "b41f0d9c7a63"
branch_labels = None
depends_on = None

ADDED = ("counts", "detail")


def upgrade() -> None:
    op.create_table(
        "baselines",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("commit", sa.Text(), nullable=False),
        sa.Column("setup_key", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("claim", sa.Uuid(), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("keep_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("command", sa.Text(), nullable=True),
        sa.Column("outcome", sa.String(40), nullable=True),
        sa.Column("returncode", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("cases", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("outcome IN ('passed', 'failed', 'error', 'not_run')", name=op.f("ck_baselines_outcome")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_baselines")),
        sa.UniqueConstraint(
            "repository", "commit", "setup_key", "digest",
            name=op.f("uq_baselines_repository_commit_setup_key_digest"),
        ),
    )  # fmt: skip
    for name in ADDED:
        op.add_column("evidence", sa.Column(name, postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False))


def downgrade() -> None:
    for name in ADDED:
        op.drop_column("evidence", name)
    op.drop_table("baselines")
