"""what a step keeps of its model call: where the time went, what was mended, the generated ids

Old code keeps running; steps that it records have none of this.

Revision: b3d70c52f9e4, after 6a0c3d9e5b18, 2026-11-26 16:00:00+00:00
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "b3d70c52f9e4"
down_revision = "6a0c3d9e5b18"
branch_labels = None
depends_on = None

COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "model": sa.Text(),
    "turn_seconds": sa.Float(),
    "queue_seconds": sa.Float(),
    "first_token_seconds": sa.Float(),
    "decode_seconds": sa.Float(),
    "gpu_seconds": sa.Float(),
    "again_tokens": sa.BigInteger(),
    "repairs": sa.ARRAY(sa.Text()),
    "malformed": sa.BigInteger(),
    "generated": sa.LargeBinary(),
    "vocabulary": sa.Text(),
}


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        op.add_column("steps", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("steps", name)
