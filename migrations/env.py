"""Alembic's environment: one migration at a time, behind an advisory lock, with lock and statement timeouts."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, pool, text

from worker.settings import Settings
from worker.store import models, operations
from worker.store.base import Base

assert models.Run.metadata is operations.Switch.metadata is Base.metadata  # importing the modules fills the metadata
LOCK = 0x64657673  # "devs": two processes that migrate at once take turns


def run() -> None:
    url = context.config.attributes.get("url") or Settings.load().need("database_url")
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text("SET statement_timeout = '60s'"))
        connection.execute(text(f"SELECT pg_advisory_lock({LOCK})"))  # held until the connection closes
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            compare_type=True,
            compare_server_default=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


if context.is_offline_mode():
    raise SystemExit("offline migrations are not supported: give a database")
run()
