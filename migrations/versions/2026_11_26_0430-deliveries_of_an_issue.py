"""the deliveries of an issue by an index: intake asks for its newest stop twice a start

Revision: 8e41d7b2c905, after 5d2f7c1a9e40, 2026-11-26 04:30:00+00:00
"""

from __future__ import annotations

from alembic import op

revision = "8e41d7b2c905"
down_revision = "5d2f7c1a9e40"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_deliveries_repository_issue_number", "deliveries", ["repository", "issue_number"])


def downgrade() -> None:
    op.drop_index("ix_deliveries_repository_issue_number", table_name="deliveries")
