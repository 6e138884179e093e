"""runs that end as stuck, conversations that begin anew, tokens of steps of which no cache is told

Old code keeps running: it reads none of the new columns, and asks no row to end as it does not know. A run of new code
that is stuck can't be read by old code.

Revision: b41f0d9c7a63, after 8d2e5b7a9c41, 2026-11-26 23:40:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b41f0d9c7a63"
down_revision = "8d2e5b7a9c41"
branch_labels = None
depends_on = None

BEFORE = ("submitted", "limits_exceeded", "format_errors", "cancelled", "error")
NOW = ("submitted", "limits_exceeded", "format_errors", "stuck", "cancelled", "error")


def ends(table: str, values: tuple[str, ...]) -> None:
    name = op.f(f"ck_{table}_exit_status")
    op.drop_constraint(name, table, type_="check")
    op.create_check_constraint(name, table, sa.column("exit_status").in_(values))


def upgrade() -> None:
    for table in ("runs", "steps"):
        ends(table, NOW)
    op.add_column("steps", sa.Column("compacted", sa.Text(), nullable=True))
    op.add_column("steps", sa.Column("cache_untold_tokens", sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("steps", "cache_untold_tokens")
    op.drop_column("steps", "compacted")
    for table in ("runs", "steps"):
        rows = sa.table(table, sa.column("exit_status"))
        op.execute(sa.update(rows).where(rows.c.exit_status == "stuck").values(exit_status="error"))
        ends(table, BEFORE)
