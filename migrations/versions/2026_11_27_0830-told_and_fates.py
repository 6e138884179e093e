"""what issues were told, and what became of pull requests

Old code keeps running: it tells and records nothing of this.

Revision: f1c4a92e7d30, after b7e40d1c5a28, 2026-11-27 08:30:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "f1c4a92e7d30"
down_revision = "b7e40d1c5a28"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("runs", sa.Column("told_phase", sa.Text()))
    op.add_column("runs", sa.Column("told_at", _TIME))
    op.add_column("pull_requests", sa.Column("people_head", sa.Text()))
    op.add_column("pull_requests", sa.Column("closed_at", _TIME))
    op.add_column("pull_requests", sa.Column("merged_at", _TIME))
    op.add_column("pull_requests", sa.Column("merge_commit", sa.Text()))
    op.add_column("pull_requests", sa.Column("survived", sa.Double()))


def downgrade() -> None:
    for column in ("survived", "merge_commit", "merged_at", "closed_at", "people_head"):
        op.drop_column("pull_requests", column)
    for column in ("told_at", "told_phase"):
        op.drop_column("runs", column)
