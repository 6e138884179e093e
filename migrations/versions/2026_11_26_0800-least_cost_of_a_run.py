"""what a run cost at least, kept beside what it cost at most

Old code keeps running; what it books meanwhile counts as nothing at least.

Revision: 6a0c3d9e5b18, after 4f9b1e6d2a73, 2026-11-26 08:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "6a0c3d9e5b18"
down_revision = "4f9b1e6d2a73"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("usd_low", sa.Numeric(14, 6), server_default="0", nullable=False))
    op.execute("""
        UPDATE runs SET usd_low = booked.low FROM (
            SELECT run_id, sum(coalesce(usd_low, usd)) AS low FROM spends GROUP BY run_id
        ) AS booked WHERE booked.run_id = runs.id
    """)


def downgrade() -> None:
    op.drop_column("runs", "usd_low")
