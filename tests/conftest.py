"""What tests share: one real Postgres and one real Redis per run, a fresh migrated database per test, the last line.

The servers start when the first test asks for one. With several pytest workers they attach to the same servers;
the process that began the run owns their directory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # imported where they are used: tests of the pure rooms also run where no database client is
    from worker.adapters.embedded import Postgres, RedisServer

_RUN_DIRECTORY = "DEVSTRAL_FIX_TEST_RUN"
_TEMPLATE = "template_migrated"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--short", action="store_true", help="without the tests that take long")
    parser.addoption("--tables", action="store_true", help="show what tests noted beside passing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--short"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: --short leaves it out"))


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    directory = Path(tempfile.mkdtemp(prefix="devstral-fix-tests-"))
    directory.chmod(0o711)  # as root the servers run as nobody, who has to pass through
    os.environ[_RUN_DIRECTORY] = str(directory)


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    directory = Path(os.environ.pop(_RUN_DIRECTORY))
    servers = [part for part in directory.iterdir() if part.is_dir()]
    if servers:
        from worker.adapters.embedded.place import remove

        for part in servers:
            remove(part)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Keep the counts for the very last line; collection errors count as failures."""
    stats = terminalreporter.stats
    passed, failed, skipped = (
        sum(len(stats.get(kind, [])) for kind in kinds)
        for kinds in (("passed", "xpassed"), ("failed", "error"), ("skipped", "xfailed"))
    )
    terminalreporter.config.stash[_COUNTS] = f"{passed} passed, {failed} failed, {skipped} skipped"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    yield
    line = session.config.stash.get(_COUNTS, None)
    if line is not None:
        print(line)


_COUNTS = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def run_directory() -> Path:
    return Path(os.environ[_RUN_DIRECTORY])


@pytest.fixture(scope="session")
def postgres(run_directory: Path) -> Iterator[Postgres]:
    """The run's Postgres, holding the template of a migrated database."""
    from worker.adapters.embedded import Postgres
    from worker.adapters.embedded.locks import exclusive
    from worker.migrate import migrate

    with Postgres(run_directory / "postgres", durable=False) as server:
        made = run_directory / "template-made"
        with exclusive(run_directory / "template.lock"):
            if not made.exists():
                server.drop_database(_TEMPLATE)
                migrate(server.create_database(_TEMPLATE))
                made.touch()
        yield server


@pytest.fixture
def empty_database_url(postgres: Postgres) -> Iterator[str]:
    """A database without a schema, for tests of the migrations themselves."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


@contextmanager
def fresh_database(server: Postgres) -> Iterator[str]:
    """A migrated database, made from the template and dropped again."""
    name = f"test_{uuid.uuid4().hex}"
    yield server.create_database(name, template=_TEMPLATE)
    server.drop_database(name)


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A migrated database of this test's own."""
    with fresh_database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def redis_server(run_directory: Path) -> Iterator[RedisServer]:
    """A Redis of this pytest worker's own: its databases are few, and a test may empty one."""
    from worker.adapters.embedded import RedisServer

    name = os.environ.get("PYTEST_XDIST_WORKER", "main")
    with RedisServer(run_directory / f"redis-{name}", durable=False) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis database."""
    import redis

    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    client.close()
    return redis_server.url
