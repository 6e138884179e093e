"""Bring a database to the newest schema."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import OperationalError

from worker.store.session import DatabaseUnavailable, database_url


def config(url: str) -> Config:
    """Alembic's configuration for `url`; nothing is read from files."""
    cfg = Config()
    cfg.set_main_option("script_location", str(Path(__file__).resolve().parents[1] / "migrations"))
    cfg.attributes["url"] = url
    return cfg


def migrate(url: str) -> None:
    """DatabaseUnavailable when nobody answers, SettingsError when `url` is none."""
    database_url(url)
    try:
        command.upgrade(config(url), "head")
    except OperationalError as error:
        raise DatabaseUnavailable(str(error.orig)) from error


def check(url: str) -> None:
    """Raise when the models and the migrated schema differ."""
    command.check(config(url))
