"""remarks of reviews, and questions

Old code keeps running: it makes no run of the new kind, and a worker that claims a revision works on it as on a fix, so
upgrade gpu workers before the default one.

Revision: a2d9c50b7e61, after f1c4a92e7d30, 2026-11-27 09:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "a2d9c50b7e61"
down_revision = "f1c4a92e7d30"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_SOURCES = ("comment", "review", "review_comment", "check")


def _kinds(*kinds: str) -> None:
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    for table in ("runs", "spend_days"):
        op.drop_constraint(op.f(f"ck_{table}_kind"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_kind"), table, f"kind IN ({listed})")


def upgrade() -> None:
    _kinds("fix", "revise", "explain", "triage")
    op.add_column("runs", sa.Column("head_commit", sa.Text()))
    op.add_column("runs", sa.Column("shown_on", sa.BigInteger()))
    op.add_column("runs", sa.Column("requested_by_id", sa.BigInteger()))
    op.add_column("pull_requests", sa.Column("reviewed_at", _TIME))
    op.create_table(
        "remarks",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column(
            "source",
            sa.Enum(*_SOURCES, name="source", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Uuid()),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("path", sa.Text()),
        sa.Column("line", sa.BigInteger()),
        sa.Column("hunk", sa.Text(), server_default="", nullable=False),
        sa.Column("head", sa.Text()),
        sa.Column("answer", sa.Text()),
        sa.Column("answered_at", _TIME),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_remarks_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_remarks")),
        sa.UniqueConstraint("repository", "source", "source_id", name=op.f("uq_remarks_repository_source_source_id")),
    )
    op.create_index(op.f("ix_remarks_run_id"), "remarks", ["run_id"], unique=False)
    op.create_index(
        "ix_remarks_waiting",
        "remarks",
        ["repository", "number"],
        unique=False,
        postgresql_where=sa.text("run_id IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("remarks")
    op.drop_column("pull_requests", "reviewed_at")
    op.drop_column("runs", "requested_by_id")
    op.drop_column("runs", "shown_on")
    op.drop_column("runs", "head_commit")
    _kinds("fix", "revise", "triage")
