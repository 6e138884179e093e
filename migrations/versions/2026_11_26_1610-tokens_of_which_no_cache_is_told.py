"""prompt tokens of which their server does not tell whether a cache had them

Until now they counted as not cached; rows of before are left so. Old code keeps running, and books them in the old way.

Revision: 8d1f47c0b6e2, after b3d70c52f9e4, 2026-11-26 16:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "8d1f47c0b6e2"
down_revision = "b3d70c52f9e4"
branch_labels = None
depends_on = None

TABLES = ("runs", "spends", "spend_days")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("cache_untold_tokens", sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "cache_untold_tokens")
