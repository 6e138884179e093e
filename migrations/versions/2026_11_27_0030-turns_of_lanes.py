"""turns of lanes

Old code keeps running: its claims leave a lane's turn as it is, and a turn is nothing that anybody waits for.

Revision: b7e40d1c5a28, after c41f7d6e0a95, 2026-11-27 00:30:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b7e40d1c5a28"
down_revision = "c41f7d6e0a95"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("lanes", sa.Column("turn_of", sa.Text()))
    op.add_column("lanes", sa.Column("turn_left", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("lanes", sa.Column("turn_size", sa.BigInteger()))
    op.create_index(
        "ix_lanes_turn",
        "lanes",
        ["profile", "turn_of", "last_claimed_at"],
        unique=False,
        postgresql_where=sa.text("turn_of IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_lanes_turn", table_name="lanes", postgresql_where=sa.text("turn_of IS NOT NULL"))
    for column in ("turn_size", "turn_left", "turn_of"):
        op.drop_column("lanes", column)
