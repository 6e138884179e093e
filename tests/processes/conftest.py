"""What tests of fleets of processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker_processes import Service
from worker.store.session import Store


@pytest.fixture
def service(request: pytest.FixtureRequest, database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    """Workers of this test's own, with the settings that its module names as SETTINGS."""
    tmp_path.chmod(0o711)
    store = Store(database_url)
    service = Service(store, database_url, redis_url, tmp_path, dict(getattr(request.module, "SETTINGS", {})))
    yield service
    service.close()
    store.close()
