"""A store on a migrated database that is empty when a test starts."""

from __future__ import annotations

from collections.abc import Iterator
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
