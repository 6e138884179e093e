"""A store on a migrated database that is empty when a test starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import fresh_database

if TYPE_CHECKING:  # imported where they are used: the sandbox's tests also run where no database client is
    from worker.adapters.embedded import Postgres
    from worker.store.session import Store


@pytest.fixture(scope="session")
def shared_store(postgres: Postgres) -> Iterator[Store]:
    """One database per pytest worker: emptying tables is ten times quicker than making a database."""
    from worker.store.session import Store

    with fresh_database(postgres) as url:
        store = Store(url)
        yield store
        store.close()


@pytest.fixture
def store(shared_store: Store) -> Store:
    from sqlalchemy import text

    from worker.store.tables import METADATA

    tables = ", ".join(table.name for table in METADATA.sorted_tables)
    with shared_store.transaction() as session:
        session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    return shared_store


@pytest.fixture
def ask(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """A command over the store's database, in an empty directory: what it said, once its exit status is `status`."""
    from click.testing import CliRunner

    from worker.cli import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEVSTRAL_FIX_DATABASE_URL", store.engine.url.render_as_string(hide_password=False))

    def ask(*arguments: str, status: int = 0) -> str:
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == status, done.output
        return done.output

    return ask


@pytest.fixture
def quiet_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that other tests don't fill at the same time, where this machine has one."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or (room := os.statvfs(memory)).f_bavail * room.f_frsize < 3 << 30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="devstral-fix-tests-", dir=memory) as name:
        Path(name).chmod(0o711)
        yield Path(name)
