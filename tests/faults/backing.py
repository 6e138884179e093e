"""What the service stands on: Postgres, Redis, the GitHub double and the model server; and how they go away."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Self

import psycopg
import redis
from psycopg.rows import dict_row
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults import processes
from tests.faults.model_server import ModelServer
from tests.faults.processes import until
from worker.adapters.embedded import Postgres, RedisServer, place, server
from worker.adapters.embedded.server import Command
from worker.demo.github_double import GitHubDouble
from worker.migrate import migrate

FILES = {
    "answer.txt": "broken\n",
    "check.sh": "if [ -e slow ]; then sleep $(cat slow); fi\ngrep -q fixed answer.txt\n",
    ".devstral-fix.yml": "test: sh check.sh\nsetup: false\n",
}
REPOSITORIES = ("acme/one", "acme/two", "acme/three")


class DebianRedis(RedisServer):
    """The distribution's Redis, where it is installed, with the settings of the embedded one."""

    def _prepare(self, base: Path) -> Command:
        command = super()._prepare(base)
        return Command([str(debian_redis()), "-"], stdin=command.stdin)


def debian_redis() -> Path | None:
    found = shutil.which("redis-server")
    return None if found is None else Path(found)


class Backing:
    """`cuts` are the times (time.time(), from and until) at which a server, or a worker, was taken away."""

    def __init__(self, root: Path, *, redis_kind: type[RedisServer] = RedisServer) -> None:
        self.root = root
        self.cuts: list[tuple[float, float, str]] = []
        root.mkdir(mode=0o711)
        with contextlib.ExitStack() as starting:
            self.double = starting.enter_context(GitHubDouble(root / "github"))
            self.model = ModelServer()
            starting.callback(self.model.stop)
            self.postgres = Postgres(
                root / "postgres"
            )  # durable: it will be killed, and what it said is stored must be
            starting.callback(place.remove, root / "postgres")
            starting.callback(self.postgres.stop)
            server.START_SECONDS = 60 * processes.patience
            self.database_url = self.postgres.start()
            self.redis = redis_kind(root / "redis")
            starting.callback(place.remove, root / "redis")
            starting.callback(self.redis.stop)
            self.redis_url = self.redis.start()
            migrate(self.database_url)
            for repository in REPOSITORIES:
                self.double.create_repository(repository, FILES)
            self._stack = starting.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill_redis(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(self.redis_client().info("server")["process_id"]), signal.SIGKILL)
        until("Redis is gone", 10, lambda: not self._pings())

    def start_redis(self) -> None:
        self.redis.start()

    def redis_client(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, retry=Retry(NoBackoff(), 0), socket_timeout=5)

    def _pings(self) -> bool:
        client = self.redis_client()
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        finally:
            client.close()

    def redis_version(self) -> str:
        return str(self.redis_client().info("server")["redis_version"])

    def waiting_workers(self) -> int:
        """Workers that wait for a message of Redis right now."""
        try:
            return int(self.redis_client().info("clients")["blocked_clients"])
        except (redis.ConnectionError, redis.TimeoutError):
            return 0

    def restart_postgres(self, number: signal.Signals = signal.SIGINT) -> None:
        base = place.base_for(self.postgres.data_dir)
        pid = int((base / "data" / "postmaster.pid").read_text().split()[0])
        since = time.time()
        os.kill(pid, number)
        until("Postgres is gone", 20, lambda: not Path(f"/proc/{pid}").exists() or _ended(pid))
        self.postgres.start()
        self.cuts.append((since, time.time(), "Postgres restarted"))

    def sql(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        with psycopg.connect(
            self.database_url.replace("+psycopg", ""), autocommit=True, row_factory=dict_row, connect_timeout=5
        ) as connection:
            cursor = connection.execute(statement, parameters)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
