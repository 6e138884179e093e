"""a worker's model, why it ended, and drains that have a limit and an end

Old code keeps running: it neither reads nor writes what is new here.

Revision: 8d2e5b7a9c41, after 8d1f47c0b6e2, 2026-11-26 16:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "8d2e5b7a9c41"
down_revision = "8d1f47c0b6e2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("model", sa.Text()))
    op.add_column("workers", sa.Column("failure", sa.Text()))
    op.add_column("workers", sa.Column("drain_until", sa.TIMESTAMP(timezone=True)))
    op.add_column("workers", sa.Column("drain_then", sa.String(40)))
    op.create_check_constraint(op.f("ck_workers_drain_then"), "workers", "drain_then IN ('stay', 'stop', 'restart')")
    op.add_column("workers", sa.Column("ending_at", sa.TIMESTAMP(timezone=True)))


def downgrade() -> None:
    for column in ("ending_at", "drain_then", "drain_until", "failure", "model"):
        op.drop_column("workers", column)
