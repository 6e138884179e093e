"""budgets, totals of spend, quarantine

New tables, and columns that are empty or have a default: old code keeps running. What it books meanwhile is in no
total; `devstral-fix spend --check` says so.

Revision: ec1cd526bf46, after c0a5e1f4b7d2, 2026-11-25 22:31:00+00:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "ec1cd526bf46"
down_revision = "c0a5e1f4b7d2"
branch_labels = None
depends_on = None

# Totals of the rows that are there already; 200,000 tokens is the only border of a price at this time.
BACKFILL = """
INSERT INTO spend_days (day, repository, model, profile, kind, label, context_above,
                        calls, prompt_tokens, cached_tokens, completion_tokens, usd, usd_low, seconds)
SELECT (s.created_at AT TIME ZONE 'UTC')::date, r.repository, s.model, s.profile, r.kind, r.label,
       CASE WHEN s.prompt_tokens > 200000 THEN 200000 ELSE 0 END,
       count(*), sum(s.prompt_tokens), sum(s.cached_tokens), sum(s.completion_tokens), sum(s.usd), sum(s.usd),
       sum(s.seconds)
FROM spends s JOIN runs r ON r.id = s.run_id
GROUP BY 1, 2, 3, 4, 5, 6, 7
"""


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "scope",
            sa.Enum(
                "run",
                "batch",
                "repository",
                "installation",
                "global",
                name="scope",
                native_enum=False,
                create_constraint=True,
                length=40,
            ),
            nullable=False,
        ),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=True),
        sa.Column("limit_usd", sa.Numeric(precision=14, scale=6), nullable=True),
        sa.Column("limit_tokens", sa.BigInteger(), nullable=True),
        sa.Column("spent_usd", sa.Numeric(precision=14, scale=6), server_default="0", nullable=False),
        sa.Column("reserved_usd", sa.Numeric(precision=14, scale=6), server_default="0", nullable=False),
        sa.Column("spent_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reserved_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("refused_usd", sa.Numeric(precision=14, scale=6), nullable=True),
        sa.Column("refused_tokens", sa.BigInteger(), nullable=True),
        sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "used_up",
            sa.Boolean(),
            sa.Computed(
                "coalesce(spent_usd >= limit_usd, false) OR coalesce(spent_usd + refused_usd > limit_usd, false)"
                " OR coalesce(spent_tokens >= limit_tokens, false)"
                " OR coalesce(spent_tokens + refused_tokens > limit_tokens, false)",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.CheckConstraint(
            "spent_usd >= 0 AND reserved_usd >= 0 AND spent_tokens >= 0 AND reserved_tokens >= 0",
            name=op.f("ck_accounts_not_negative"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint(
            "scope", "key", "day", name=op.f("uq_accounts_scope_key_day"), postgresql_nulls_not_distinct=True
        ),
    )
    op.create_index(
        "ix_accounts_used_up", "accounts", ["scope", "day", "key"], unique=False, postgresql_where=sa.text("used_up")
    )
    op.create_table(
        "quarantines",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("issue_number", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantines")),
    )
    op.create_index(
        "uq_quarantines_standing",
        "quarantines",
        ["repository", "issue_number"],
        unique=True,
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("lifted_at IS NULL"),
    )
    op.create_table(
        "spend_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("fix", "revise", "triage", name="kind", native_enum=False, create_constraint=True, length=40),
            nullable=False,
        ),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("context_above", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usd", sa.Numeric(precision=14, scale=6), nullable=False),
        sa.Column("usd_low", sa.Numeric(precision=14, scale=6), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("gpu_seconds", sa.Double(), server_default="0", nullable=False),
        sa.CheckConstraint("cached_tokens <= prompt_tokens", name=op.f("ck_spend_days_cached_is_part_of_prompt")),
        sa.PrimaryKeyConstraint(
            "day", "repository", "model", "profile", "kind", "label", "context_above", name=op.f("pk_spend_days")
        ),
    )
    op.create_table(
        "reservations",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("sample", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("call", sa.BigInteger(), nullable=False),
        sa.Column("accounts", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("usd", sa.Numeric(precision=14, scale=6), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("usd >= 0 AND tokens >= 0", name=op.f("ck_reservations_not_negative")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_reservations_run_id_runs"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("run_id", "sample", "lease_token", "call", name=op.f("pk_reservations")),
    )
    op.add_column("runs", sa.Column("label", sa.Text(), server_default="", nullable=False))
    op.create_index(op.f("ix_runs_batch_id"), "runs", ["batch_id"], unique=False)
    op.add_column("spends", sa.Column("usd_low", sa.Numeric(precision=14, scale=6), nullable=True))
    op.add_column("spends", sa.Column("gpu_seconds", sa.Double(), nullable=True))
    op.create_index("ix_runs_issue", "runs", ["repository", "issue_number"], unique=False)
    op.create_index(
        "ix_runs_finished", "runs", ["finished_at"], unique=False, postgresql_where=sa.text("finished_at IS NOT NULL")
    )
    op.execute(BACKFILL)


def downgrade() -> None:
    op.drop_index("ix_runs_finished", table_name="runs", postgresql_where=sa.text("finished_at IS NOT NULL"))
    op.drop_index("ix_runs_issue", table_name="runs")
    op.drop_column("spends", "gpu_seconds")
    op.drop_column("spends", "usd_low")
    op.drop_index(op.f("ix_runs_batch_id"), table_name="runs")
    op.drop_column("runs", "label")
    op.drop_table("reservations")
    op.drop_table("spend_days")
    op.drop_index(
        "uq_quarantines_standing",
        table_name="quarantines",
        postgresql_nulls_not_distinct=True,
        postgresql_where=sa.text("lifted_at IS NULL"),
    )
    op.drop_table("quarantines")
    op.drop_index("ix_accounts_used_up", table_name="accounts", postgresql_where=sa.text("used_up"))
    op.drop_table("accounts")
