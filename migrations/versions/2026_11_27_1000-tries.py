"""several tries of one run, each with its end and its verdict

Old code keeps running: it makes runs of one try without a row for it, which is what a concluded run without rows is
taken for. Upgrade cpu workers before gpu workers: old ones would look at the first try alone.

Revision: d3b86f1a0c94, after a2d9c50b7e61, 2026-11-27 10:00:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "d3b86f1a0c94"
down_revision = "a2d9c50b7e61"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_EXITS = ("submitted", "limits_exceeded", "format_errors", "stuck", "cancelled", "error")
_OUTCOMES = (
    "fixed",
    "partial",
    "question",
    "not_reproducible",
    "already_fixed",
    "duplicate",
    "answered",
    "refused",
    "setup_failed",
    "unsolved",
    "triaged",
)


def _one_of(name: str, values: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=40)


def upgrade() -> None:
    op.create_table(
        "tries",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("sample", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("temperature", sa.Float()),
        sa.Column("began", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("opening", sa.Text(), nullable=False),
        sa.Column("started_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", _TIME),
        sa.Column("exit_status", _one_of("exit_status", _EXITS)),
        sa.Column("reason", sa.Text()),
        sa.Column("summary", sa.Text()),
        sa.Column("prompt_hash", sa.Text()),
        sa.Column("no_room", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("named", sa.Text()),
        sa.Column("outcome", _one_of("outcome", _OUTCOMES)),
        sa.Column("verdict", sa.Text()),
        sa.Column("evidence_of", sa.BigInteger()),
        sa.CheckConstraint("(ended_at IS NULL) = (exit_status IS NULL)", name=op.f("ck_tries_ended_somehow")),
        sa.CheckConstraint("outcome IS NULL OR ended_at IS NOT NULL", name=op.f("ck_tries_judged_after_its_end")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_tries_run_id_runs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "sample", name=op.f("pk_tries")),
    )
    op.add_column("runs", sa.Column("chosen", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("evidence", sa.Column("sample", sa.BigInteger(), server_default="0", nullable=False))
    op.drop_constraint(op.f("uq_evidence_run_id_lease_token_stage"), "evidence", type_="unique")
    op.create_unique_constraint(
        op.f("uq_evidence_run_id_sample_lease_token_stage"), "evidence", ["run_id", "sample", "lease_token", "stage"]
    )


def downgrade() -> None:
    # Of several tries the delivered one's is what old code can show.
    op.execute(
        "DELETE FROM evidence e USING runs r WHERE r.id = e.run_id AND e.sample <> coalesce("
        "(SELECT t.evidence_of FROM tries t WHERE t.run_id = r.id AND t.sample = r.chosen), r.chosen)"
    )
    op.drop_constraint(op.f("uq_evidence_run_id_sample_lease_token_stage"), "evidence", type_="unique")
    op.drop_column("evidence", "sample")
    op.create_unique_constraint(
        op.f("uq_evidence_run_id_lease_token_stage"), "evidence", ["run_id", "lease_token", "stage"]
    )
    op.drop_column("runs", "chosen")
    op.drop_table("tries")
