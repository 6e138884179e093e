"""the set-up of a run

Two columns that are empty for every run there is: old code keeps running.

Revision: 3b1c5d6e7f20, after 9f70dce4a074, 2026-11-22 23:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3b1c5d6e7f20"
down_revision = "9f70dce4a074"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("setup_key", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("setup_log", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "setup_log")
    op.drop_column("runs", "setup_key")
